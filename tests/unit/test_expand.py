"""Block expansion: the deeper model computes the same, learns everywhere, and is what transformers expects."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from raytrain.expand import (
    FAMILIES,
    ExpandError,
    block_sources,
    check_family,
    expanded_config,
    new_blocks,
    plan,
)
from raytrain.shards import write_weights
from tests.families import write_family

EVERY = 2
NEW = (2, 5)


def expand(base: Path, out: Path, every: int = EVERY) -> Path:
    """What the stage does, without its Ray task."""
    sources = block_sources(json.loads((base / "config.json").read_text())["num_hidden_layers"], every)
    out.mkdir()
    write_weights(out, plan(base, sources))
    (out / "config.json").write_text(json.dumps(expanded_config(base, sources)))
    return out


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base of several shards and its expansion, for each family."""
    folder = tmp_path_factory.mktemp(request.param)
    base = write_family(folder / "base", request.param, shard="20KB")
    assert len(list(base.glob("*.safetensors"))) > 2
    return base, expand(base, folder / "expanded")


def test_logits_are_those_of_the_base(pair: tuple[Path, Path]) -> None:
    base, expanded = (AutoModelForCausalLM.from_pretrained(folder) for folder in pair)
    ids = torch.arange(2, 62)[None]
    with torch.no_grad():
        assert torch.equal(base(ids).logits, expanded(ids).logits)
    assert expanded.config.num_hidden_layers == 6


def test_every_weight_finds_its_place(pair: tuple[Path, Path]) -> None:
    model, loading = AutoModelForCausalLM.from_pretrained(pair[1], output_loading_info=True)
    assert not any(loading.values())
    for index in range(6):
        for name, parameter in model.model.layers[index].named_parameters():
            silent = index in NEW and name.split(".")[-2] in ("o_proj", "down_proj")
            assert bool(parameter.abs().sum() == 0) == silent, f"{index} {name}"


def test_gradients_reach_every_parameter_of_every_new_block(pair: tuple[Path, Path]) -> None:
    """The output projections in the first step; what feeds them as soon as these are not zero any more."""
    model = AutoModelForCausalLM.from_pretrained(pair[1])
    ids = torch.arange(2, 62)[None]

    def reached() -> set[str]:
        model.zero_grad()
        model(ids, labels=ids).loss.backward()
        blocks = {f"{i}.{n}": p for i in NEW for n, p in model.model.layers[i].named_parameters()}
        return {name for name, p in blocks.items() if p.grad is not None and p.grad.abs().sum() > 0}

    first = reached()
    assert {name.split(".")[-2] for name in first} == {"o_proj", "down_proj"}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    optimizer.step()
    everything = {f"{i}.{n}" for i in NEW for n, _ in model.model.layers[i].named_parameters()}
    without_effect = {name for name in everything if name.endswith("k_proj.bias")}  # softmax does not see a key's bias
    assert reached() >= everything - without_effect


def test_what_is_said_of_each_block_is_repeated_as_the_blocks_are(pair: tuple[Path, Path]) -> None:
    base, expanded = (AutoConfig.from_pretrained(folder) for folder in pair)
    types = getattr(base, "layer_types", None)
    if types is not None:
        assert len(set(types)) == 2
        assert expanded.layer_types == [types[i] for i in (0, 1, 1, 2, 3, 3)]
    old, new = (json.loads((folder / "config.json").read_text()) for folder in pair)
    changed = {key for key in new if new[key] != old.get(key)}
    assert changed <= {"num_hidden_layers", "layer_types", "max_window_layers"}


def test_types_that_the_file_leaves_to_defaults_are_written_out(tmp_path: Path) -> None:
    base = write_family(tmp_path / "base", "qwen2")
    file = base / "config.json"
    short = {key: value for key, value in json.loads(file.read_text()).items() if key != "layer_types"}
    file.write_text(json.dumps(short))
    config = expanded_config(base, block_sources(4, 1))
    assert config["layer_types"] == ["full_attention"] * 4 + ["sliding_attention"] * 4
    assert config["max_window_layers"] == 4


@pytest.mark.parametrize(("windowed", "want"), [(0, 0), (4, 6), (28, 30)])
def test_the_first_windowed_block_moves_with_its_block(tmp_path: Path, windowed: int, want: int) -> None:
    base = write_family(tmp_path / "base", "qwen2", use_sliding_window=False, max_window_layers=windowed)
    assert expanded_config(base, block_sources(4, EVERY))["max_window_layers"] == want


def test_sources_of_the_paper_s_shape() -> None:
    sources = block_sources(32, 4)
    assert len(sources) == 40
    assert [i for i in range(1, 40) if sources[i] == sources[i - 1]] == [4, 9, 14, 19, 24, 29, 34, 39]


def test_a_wrong_divisor_is_told_with_those_that_fit() -> None:
    with pytest.raises(ExpandError, match=r"expand.every=5 does not divide .*num_hidden_layers=12.* 1, 2, 3, 4, 6, 12"):
        block_sources(12, 5)


def test_an_unknown_family_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(ExpandError, match=r"model_type=gpt2.* llama, mistral, qwen2, qwen3 are known"):
        check_family(tmp_path)


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": {"bits": 8}}))
    with pytest.raises(ExpandError, match="is quantised"):
        check_family(tmp_path)


def test_a_model_that_was_not_expanded_has_no_new_blocks(tmp_path: Path) -> None:
    with pytest.raises(ExpandError, match=r"cpt.train=new_blocks .* set cpt.train=all"):
        new_blocks(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"new_blocks": [2, 5]}))
    assert new_blocks(tmp_path) == NEW
