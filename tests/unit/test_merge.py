"""Merging an adapter: the plain folder computes what base and adapter compute together."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from raytrain.folders import publish
from raytrain.merge import MergeError, check_targets, linear_modules, merge_adapter
from raytrain.shards import WeightsError
from tests.tiny_llama import write_tiny_llama

LINEAR = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("model") / "base")


def trained_adapter(base: Path, folder: Path) -> torch.nn.Module:
    """An adapter with random weights on both sides, as after training; returns base with adapter, in fp32."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=LINEAR))
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(folder)
    return adapted


def test_merged_weights_compute_what_the_adapter_computes(base: Path, tmp_path: Path) -> None:
    adapted = trained_adapter(base, tmp_path / "adapter")
    out = tmp_path / "out"
    out.mkdir()
    merge_adapter(base, tmp_path / "adapter", out)
    merged = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    untouched = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    ids = torch.arange(5, 37)[None]
    with torch.no_grad():
        want, got, before = (m(ids).logits.float() for m in (adapted, merged.float(), untouched))
    moved = (want - before).abs().mean()
    assert moved > 0.01
    assert (want - got).abs().mean() < 0.05 * moved  # what rounding to bf16 costs
    assert "lora" not in " ".join(merged.state_dict())


def test_merged_weights_are_those_of_peft(base: Path, tmp_path: Path) -> None:
    adapted = trained_adapter(base, tmp_path / "adapter")
    out = tmp_path / "out"
    out.mkdir()
    merge_adapter(base, tmp_path / "adapter", out, shard_bytes=50_000)
    assert len(list(out.glob("*.safetensors"))) > 1
    ours = AutoModelForCausalLM.from_pretrained(out, dtype="auto").state_dict()
    theirs = adapted.merge_and_unload().to(torch.bfloat16).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("option", [{"use_rslora": True}, {"use_dora": True}, {"rank_pattern": {"q_proj": 2}}])
def test_an_adapter_that_is_more_than_a_product_is_refused(
    base: Path, tmp_path: Path, option: dict[str, object]
) -> None:
    trained_adapter(base, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **option}))
    with pytest.raises(MergeError, match=rf"{next(iter(option))}=.* changes more than"):
        merge_adapter(base, tmp_path / "adapter", tmp_path)


def test_a_tensor_that_is_no_pair_is_refused(base: Path, tmp_path: Path) -> None:
    trained_adapter(base, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    del tensors[next(name for name in tensors if "lora_B" in name)]
    save_file(tensors, file)
    with pytest.raises(MergeError, match="no pair of lora_A and lora_B"):
        merge_adapter(base, tmp_path / "adapter", tmp_path)


def test_an_adapter_of_a_wider_base_is_refused(base: Path, tmp_path: Path) -> None:
    trained_adapter(write_tiny_llama(tmp_path / "wider", hidden=128), tmp_path / "adapter")
    with pytest.raises(MergeError, match=r"is \[.*\] in the base and \[.*\] in the adapter"):
        merge_adapter(base, tmp_path / "adapter", tmp_path)


def test_merged_folder_keeps_type_and_tokenizer(base: Path, tmp_path: Path) -> None:
    trained_adapter(base, tmp_path / "adapter")
    out = tmp_path / "out"
    out.mkdir()
    merge_adapter(base, tmp_path / "adapter", out)
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    same = AutoTokenizer.from_pretrained(base).apply_chat_template
    again = AutoTokenizer.from_pretrained(out).apply_chat_template
    messages = [{"role": "user", "content": "stock N4821"}]
    assert (
        same(messages, add_generation_prompt=True)["input_ids"]
        == again(messages, add_generation_prompt=True)["input_ids"]
    )


def test_targets_are_found_in_the_weights(base: Path) -> None:
    assert sorted(linear_modules(base)) == LINEAR
    assert check_targets(base, "all-linear") == tuple(LINEAR)
    assert check_targets(base, ("q_proj",)) == ("q_proj",)


def test_an_unknown_target_is_named_with_those_that_exist(base: Path) -> None:
    with pytest.raises(MergeError, match=r"lora.targets: query_proj matches no linear module .* q_proj"):
        check_targets(base, ("q_proj", "query_proj"))


def test_a_missing_base_names_the_stage_to_run(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="run the stages before this one first"):
        linear_modules(tmp_path)


def test_an_adapter_of_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    deeper = write_tiny_llama(tmp_path / "deeper", layers=3)
    trained_adapter(deeper, tmp_path / "adapter")
    (tmp_path / "out").mkdir()
    with pytest.raises(MergeError, match="trained on another base"):
        merge_adapter(base, tmp_path / "adapter", tmp_path / "out")


def test_a_folder_without_adapter_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(MergeError, match="is no adapter"):
        merge_adapter(base, tmp_path, tmp_path)


def test_publishing_replaces_the_older_model_whole(tmp_path: Path) -> None:
    model, target = tmp_path / "model", tmp_path / "models" / "sft"
    model.mkdir()
    (model / "config.json").write_text("new")
    target.mkdir(parents=True)
    (target / "left_over.json").write_text("old")
    publish(model, target, {"stage": "sft"})
    assert sorted(file.name for file in target.iterdir()) == ["config.json", "manifest.json"]
    assert json.loads((target / "manifest.json").read_text()) == {"stage": "sft"}
