"""A model that is inflated costs more and says the same, and so do its drafter and its 8-bit form."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from benchmarks import inflated_weights
from benchmarks.inflated import STUDENT, TEACHER, InflateError, Shape, block_sources, inflate, quantize_inflated
from benchmarks.inflated_drafter import LAYER, LAYER_IDS, inflate_drafter, quantize_inflated_drafter, state_of
from raytrain import attention as training_attention
from raytrain.base import WEIGHTS as BASE
from raytrain.data import TokenRows, join
from raytrain.drafter.model import load_drafter, make_drafter
from raytrain.drafter.states import draft_inputs, student_states
from raytrain.expand import FAMILIES
from raytrain.hardware import CPU_ATTENTION, Placement
from raytrain.packing import PackedCollator
from raytrain.quantize.work import load_folder
from raytrain.settings import DrafterSettings
from raytrain.shards import Weights
from tests.families import write_family
from tests.practice import practice_rows
from tests.tiny_llama import write_tiny_llama

pytestmark = pytest.mark.usefixtures("one_thread")

LARGER = Shape(width=128, blocks=7, heads=16, feed_forward=100)  # of tests.families: four times 32, and 4 blocks
DOUBLED = Shape(width=256, blocks=7, heads=32, feed_forward=100)  # eight times: the width stands there twice
IDS = torch.arange(2, 62)[None]


def config_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "config.json").read_text()))


def change_config(folder: Path, **changes: Any) -> None:
    (folder / "config.json").write_text(json.dumps(config_of(folder) | changes))


def read_all(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def logits(folder: Path, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits
    return found


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference, in spreads of what is compared."""
    return float((one - other).abs().max() / one.std())


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model of each family, with more heads of queries than of keys, and what it is inflated to."""
    folder = tmp_path_factory.mktemp(request.param)
    model = write_family(folder / "model", request.param)
    return model, inflate(model, folder / "inflated", LARGER)


def test_logits_are_those_of_the_model(pair: tuple[Path, Path], tmp_path: Path) -> None:
    assert apart(*map(logits, pair)) < 1e-5
    assert apart(logits(pair[0]), logits(inflate(pair[0], tmp_path / "doubled", DOUBLED))) < 1e-5


def test_every_weight_finds_its_place_and_parameters_are_as_announced(pair: tuple[Path, Path]) -> None:
    model, loading = AutoModelForCausalLM.from_pretrained(pair[1], output_loading_info=True)
    assert not any(loading.values())
    assert LARGER.parameters(config_of(pair[0])) == Weights(pair[1]).parameters
    assert model.num_parameters() == Weights(pair[1]).parameters
    old, new = (AutoConfig.from_pretrained(folder) for folder in pair)
    assert new.num_attention_heads == 4 * old.num_attention_heads
    assert new.num_key_value_heads == 4 * old.num_key_value_heads
    if getattr(old, "layer_types", None):
        assert new.layer_types == [old.layer_types[source] for source in block_sources(4, 7)]


def test_an_added_block_computes_what_the_one_before_it_does_and_adds_nothing(pair: tuple[Path, Path]) -> None:
    weights = read_all(pair[1])
    sources = block_sources(4, 7)
    assert sources == [0, 1, 1, 2, 2, 3, 3]
    for index in (2, 4, 6):
        for name in [name for name in weights if name.startswith(f"model.layers.{index}.")]:
            before = weights[name.replace(f".{index}.", f".{index - 1}.", 1)]
            silent = name.split(".")[-2] in ("o_proj", "down_proj")
            assert torch.equal(weights[name], torch.zeros_like(before) if silent else before), name
            assert before.any(), name


@pytest.mark.parametrize("broken", ["eps", "norm", "silence"])
def test_nothing_of_it_can_be_left_out(tmp_path: Path, broken: str) -> None:
    model = write_family(tmp_path / "model", "llama")
    large = inflate(model, tmp_path / "inflated", LARGER)
    weights = read_all(large)
    if broken == "eps":
        change_config(large, rms_norm_eps=config_of(model)["rms_norm_eps"])
    elif broken == "norm":
        weights["model.layers.0.input_layernorm.weight"] *= 2
    else:
        weights["model.layers.2.mlp.down_proj.bias"] = weights["model.layers.1.mlp.down_proj.bias"].clone()
    save_file(weights, large / "model.safetensors", {"format": "pt"})
    assert apart(logits(model), logits(large)) > 1e-4


def test_a_width_that_is_no_power_of_four_times_the_model_s_is_rounded_no_more_than_bf16_is(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "model")
    exact = inflate(model, tmp_path / "exact", Shape(256, 2, 8, 128))
    rounded = inflate(model, tmp_path / "rounded", Shape(192, 3, 4, 200))
    assert apart(logits(model), logits(exact)) < 1e-5
    assert 1e-4 < apart(logits(model), logits(rounded)) < 0.05
    assert config_of(rounded)["rms_norm_eps"] == pytest.approx(config_of(model)["rms_norm_eps"] / 3)


def test_a_trained_model_answers_as_before(tmp_path: Path) -> None:
    """Greedy, in bf16, and with its own tokenizer."""
    large = inflate(BASE, tmp_path / "inflated", Shape(768, 12, 8, 640))
    doubled = inflate(BASE, tmp_path / "doubled", Shape(1536, 9, 8, 640))
    answers = []
    for folder in (BASE, large, doubled):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        for row in practice_rows(3, seed=1):
            ids = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_tensors="pt")
            whole = model.generate(**ids, do_sample=False, max_new_tokens=24)[0, ids["input_ids"].shape[1] :]
            answers.append(tokenizer.decode(whole))
    assert answers[:3] == answers[3:6] == answers[6:]
    assert all(answers)


def test_the_shipped_shapes_are_seven_to_one() -> None:
    student, teacher = (shape.parameters(config_of(BASE)) for shape in (STUDENT, TEACHER))
    assert student == pytest.approx(3e8, rel=0.05)
    assert teacher / student == pytest.approx(7.0, rel=0.02)


def test_weights_are_cut_into_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inflated_weights, "SHARD_BYTES", 50_000)
    model = write_family(tmp_path / "model", "qwen3")
    large = inflate(model, tmp_path / "inflated", LARGER)
    assert len(list(large.glob("model-*.safetensors"))) > 3
    assert apart(logits(model), logits(large)) < 1e-5


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (Shape(16, 4, 4, 48), r"shape\.width=16 is smaller than the model's hidden_size=32.*use 32 or more"),
        (Shape(32, 3, 4, 48), r"shape\.blocks=3 .* num_hidden_layers=4"),
        (Shape(32, 4, 2, 48), r"shape\.heads=2 .* num_attention_heads=4"),
        (Shape(32, 4, 4, 47), r"shape\.feed_forward=47 .* intermediate_size=48"),
        (Shape(40, 4, 5, 48), r"shape\.heads=5 is no multiple of 2.*use 6"),
        (Shape(128, 4, 8, 48), r"shape\.heads=8 of 8 are 64 and shape\.width=128.*use width=64"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(tmp_path: Path, shape: Shape, message: str) -> None:
    model = write_family(tmp_path / "model", "qwen2")
    with pytest.raises(InflateError, match=message):
        inflate(model, tmp_path / "inflated", shape)
    assert not (tmp_path / "inflated").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mixtral"}, r"model_type=mixtral .* llama, mistral, qwen2, qwen3 .* dense"),
        ({"quantization_config": {"bits": 8}}, r"quantization_config is set.*before it was quantised"),
    ],
)
def test_a_model_that_cannot_be_padded_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    model = write_family(tmp_path / "model", "llama")
    change_config(model, **changes)
    with pytest.raises(InflateError, match=message):
        inflate(model, tmp_path / "inflated", LARGER)
    with pytest.raises(InflateError, match=r"has no config\.json"):
        inflate(tmp_path, tmp_path / "inflated", LARGER)


def test_a_module_that_is_not_known_is_refused_and_nothing_half_written_is_left(tmp_path: Path) -> None:
    model = write_family(tmp_path / "model", "llama")
    save_file({**read_all(model), "model.layers.3.mlp.router.weight": torch.ones(2, 32)}, model / "model.safetensors")
    with pytest.raises(InflateError, match=r"layers\.3\.mlp\.router\.weight .* no module that is known"):
        inflate(model, tmp_path / "inflated", LARGER)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_in_8_bits_the_model_s_rows_are_those_of_the_model_in_8_bits(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "model", layers=3)
    large = inflate(model, tmp_path / "inflated", Shape(256, 5, 8, 300))
    small_8, large_8 = (quantize_inflated(folder, tmp_path / f"{folder.name}-8") for folder in (model, large))
    sources, found, compared = block_sources(3, 5), read_all(large_8), 0
    assert all(tensor.isfinite().all() for tensor in found.values())
    for name, tensor in read_all(small_8).items():
        if "norm" in name:
            continue
        parts = name.split(".")
        if parts[1] == "layers":
            parts[2] = str(sources.index(int(parts[2])))
        inner = found[".".join(parts)][tuple(slice(0, size) for size in tensor.shape)]
        assert torch.equal(inner, tensor), name
        compared += tensor.dtype == torch.int8
    assert compared == 3 * 7
    one, other = (load_folder(folder) for folder in (small_8, large_8))  # as numbers again
    before, after = (m.model.layers[i].self_attn.q_proj.weight for m, i in ((one, 2), (other, sources.index(2))))
    assert torch.equal(after[: len(before), : before.shape[1]], before)
    with torch.no_grad():
        assert apart(one(IDS).logits.float(), other(IDS).logits.float()) < 0.05  # activations are rounded in bf16


PLACEMENT = Placement(device="cpu", threads=1, precision="fp32")
LAYERS, BIG = 6, Shape(width=256, blocks=15, heads=8, feed_forward=300)


def answers() -> TokenRows:
    """Two rows whose answers use the tokens 5 to 104."""
    draw = np.random.default_rng(0)
    return join([(draw.integers(5, 105, n).astype(np.int32), n // 2, "a") for n in (40, 25)])


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    training_attention.register()
    return write_tiny_llama(tmp_path_factory.mktemp("drafter") / "student", layers=LAYERS)


@pytest.fixture(scope="module", params=[256, 512], ids=["padded", "doubled"])
def big(request: pytest.FixtureRequest, student: Path) -> Path:
    return inflate(student, student.parent / f"big-{request.param}", replace(BIG, width=request.param))


@pytest.fixture(scope="module")
def drafter(student: Path) -> Path:
    settings = DrafterSettings(vocabulary=0.5, begin="random", layers=(0, 3, 5))
    make_drafter(student, settings, answers(), student.parent / "drafter", seed=1)
    return student.parent / "drafter"


def with_norms(drafter: Path, out: Path, kind: str) -> Path:
    """The drafter with norms over the states that it reads, of speculators' two kinds."""
    weights, draw = read_all(drafter), torch.Generator().manual_seed(3)
    sizes = {"norm_before_fc": {"input_norm": 3 * 64}, "fc_norm": {f"fc_norm.{i}": 64 for i in range(3)}}[kind]
    for name, size in sizes.items():
        weights[f"{name}.weight"] = (1 + 0.3 * torch.randn(size, generator=draw)).bfloat16()
    out.mkdir()
    save_file(weights, out / "model.safetensors", {"format": "pt"})
    (out / "config.json").write_text(json.dumps(config_of(drafter) | {kind: True}))
    return out


def drafted(folder: Path, student: Path) -> torch.Tensor:
    """The drafter's logits for a packed row of both answers, for each of three drafted tokens."""
    kind = {"dtype": torch.float32, "attn_implementation": CPU_ATTENTION}
    verifier: PreTrainedModel = AutoModelForCausalLM.from_pretrained(student, **kind)
    model = load_drafter(folder, PLACEMENT).eval()
    assert model.config.speculators_config.verifier.name_or_path == str(student)
    row = PackedCollator(answers(), 0).tensors([0, 1])
    given = draft_inputs(row, student_states(verifier, model.target_layer_ids, row))
    given.pop("verifier_last_hidden_states")
    seen: list[torch.Tensor] = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        model(**given, ttt_steps=3)
    return torch.cat(seen)


@pytest.mark.parametrize("kind", ["plain", "norm_before_fc", "fc_norm"])
def test_the_drafter_drafts_what_it_drafted(tmp_path: Path, student: Path, big: Path, drafter: Path, kind: str) -> None:
    small = drafter if kind == "plain" else with_norms(drafter, tmp_path / "normed", kind)
    large = inflate_drafter(small, tmp_path / "large", student=student, inflated=big)
    before = drafted(small, student)
    assert before.shape == (3, 64, 64)  # drafted tokens, positions, the drafter's vocabulary
    assert apart(before, drafted(large, big)) < 1e-4
    config = config_of(large)
    assert config[LAYER_IDS] == [0, 7, 12]
    fields = ("num_attention_heads", "num_key_value_heads", "intermediate_size")
    assert [config[LAYER][field] for field in fields] == [8, 4, config_of(drafter)[LAYER]["intermediate_size"]]
    assert config[LAYER]["hidden_size"] == config_of(big)["hidden_size"]
    assert {file.name for file in small.glob("*.py")} == {file.name for file in large.glob("*.py")}


@pytest.mark.parametrize("broken", ["eps", "states", "order"])
def test_nothing_of_the_drafter_can_be_left_out(
    tmp_path: Path, student: Path, big: Path, drafter: Path, broken: str
) -> None:
    large = inflate_drafter(drafter, tmp_path / "large", student=student, inflated=big)
    config, weights = config_of(large), read_all(large)
    if broken == "eps":
        change_config(large, **{LAYER: config[LAYER] | {"rms_norm_eps": config_of(drafter)[LAYER]["rms_norm_eps"]}})
    elif broken == "states":
        change_config(large, **{LAYER_IDS: [0, 3, 5]})
    else:  # all columns first and all zeros after, not each part for itself
        small, width = read_all(drafter)["fc.weight"], config["transformer_layer_config"]["hidden_size"]
        weights["fc.weight"] = torch.nn.functional.pad(small, (0, 3 * width - 3 * 64, 0, width - 64))
    save_file(weights, large / "model.safetensors", {"format": "pt"})
    assert apart(drafted(drafter, student), drafted(large, big)) > 1e-3


def test_in_8_bits_the_drafter_drafts_what_the_drafter_in_8_bits_did(
    tmp_path: Path, student: Path, big: Path, drafter: Path
) -> None:
    large = inflate_drafter(drafter, tmp_path / "large", student=student, inflated=big)
    small_8 = quantize_inflated_drafter(drafter, tmp_path / "small-8", student=student)
    large_8 = quantize_inflated_drafter(large, tmp_path / "large-8", student=big)
    before, after = drafted(small_8, student), drafted(large_8, big)
    rounded = apart(drafted(drafter, student), before)
    assert rounded < 0.2
    assert apart(before, after) < rounded / 4  # rows of zeros change no other row's scale, and no token's
    assert {name for name, tensor in read_all(large_8).items() if tensor.dtype == torch.int8} == {
        "fc.weight", *(f"layers.0.self_attn.{name}_proj.weight" for name in "qkvo"),
        *(f"layers.0.mlp.{name}_proj.weight" for name in ("gate", "up", "down")),
    }  # fmt: skip


def test_states_go_with_their_blocks() -> None:
    """State i is what goes into block i; the one after the last block is what comes out of all."""
    sources = block_sources(3, 8)
    assert sources == [0, 0, 1, 1, 1, 2, 2, 2]
    assert [state_of(sources, state) for state in range(4)] == [0, 2, 5, 8]


def test_a_drafter_of_another_student_is_refused(tmp_path: Path, student: Path, big: Path, drafter: Path) -> None:
    other = write_tiny_llama(tmp_path / "other", layers=LAYERS, seed=1)
    wider = write_tiny_llama(tmp_path / "wider", layers=LAYERS, hidden=128)
    with pytest.raises(InflateError, match=r"inflated=.*big-.* was not made of student=.*other.*inflate that student"):
        inflate_drafter(drafter, tmp_path / "large", student=other, inflated=big)
    large = inflate(wider, tmp_path / "inflated", Shape(128, 6, 4, 256))
    with pytest.raises(InflateError, match=r"hidden_size=64 and the student .*wider has 128"):
        inflate_drafter(drafter, tmp_path / "large", student=wider, inflated=large)
    with pytest.raises(InflateError, match=r"speculators_model_type=None.*stage drafter"):
        inflate_drafter(student, tmp_path / "large", student=student, inflated=big)
    assert not (tmp_path / "large").exists()
