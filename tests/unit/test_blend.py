"""Merging a model with its start: the ends are the two models, and each method is what its source says."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from raytrain.blend import blend, blend_folder
from raytrain.merge import MergeError
from raytrain.settings import MergeSettings
from raytrain.shards import Weights
from tests.tiny_llama import write_tiny_llama

torch.manual_seed(0)
START, TRAINED = torch.randn(6, 8), torch.randn(6, 8)


def merged(method: str, weight: float, density: float = 0.25) -> torch.Tensor:
    settings = MergeSettings.model_validate({"method": method, "weight": weight, "density": density})
    result: torch.Tensor = blend(START.clone(), TRAINED.clone(), settings)
    return result


@pytest.mark.parametrize("method", ["linear", "slerp"])
def test_the_ends_are_the_two_models(method: str) -> None:
    torch.testing.assert_close(merged(method, 0), START)
    torch.testing.assert_close(merged(method, 1), TRAINED)


def test_linear_goes_straight() -> None:
    torch.testing.assert_close(merged("linear", 0.3), 0.7 * START + 0.3 * TRAINED)


def test_slerp_goes_along_the_arc() -> None:
    """Of two vectors of one length every point in between has that length, and the angle grows evenly."""
    one, other = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    third = blend(one.clone(), other.clone(), MergeSettings(method="slerp", weight=1 / 3))
    angle = torch.pi / 6
    torch.testing.assert_close(third, 2 * torch.tensor([torch.cos(torch.tensor(angle)), 0.5]))


@pytest.mark.parametrize("start", [torch.zeros(4), torch.ones(4), -torch.ones(4)])
def test_slerp_without_an_arc_is_linear(start: torch.Tensor) -> None:
    """A new block's zeros have no direction; parallel and opposite vectors have no single arc."""
    result = blend(start.clone(), torch.full((4,), 3.0), MergeSettings(method="slerp", weight=0.5))
    torch.testing.assert_close(result, (start + 3) / 2)


def test_ties_keeps_the_largest_changes_alone() -> None:
    change = merged("ties", 0.5, density=0.25) - START
    kept = change != 0
    assert int(kept.sum()) == START.numel() // 4
    torch.testing.assert_close(change[kept], 0.5 * (TRAINED - START)[kept])
    assert (TRAINED - START)[kept].abs().min() >= (TRAINED - START)[~kept].abs().max()


def test_ties_that_keeps_all_is_linear() -> None:
    torch.testing.assert_close(merged("ties", 0.4, density=1.0), merged("linear", 0.4))


def test_a_merged_folder_is_a_model_between_the_two(tmp_path: Path) -> None:
    start, trained = (write_tiny_llama(tmp_path / str(seed), seed=seed) for seed in (1, 2))
    out = tmp_path / "out"
    out.mkdir()
    blend_folder(start, trained, out, MergeSettings(weight=0.5), shard_bytes=50_000)
    assert len(list(out.glob("*.safetensors"))) > 1
    model = AutoModelForCausalLM.from_pretrained(out, dtype="auto").state_dict()
    one, other = (AutoModelForCausalLM.from_pretrained(f, dtype="auto").state_dict() for f in (start, trained))
    for name, tensor in model.items():
        assert tensor.dtype == torch.bfloat16
        torch.testing.assert_close(tensor, ((one[name].float() + other[name].float()) / 2).bfloat16())
    assert (out / "tokenizer.json").read_bytes() == (trained / "tokenizer.json").read_bytes()


def test_models_of_two_shapes_are_refused(tmp_path: Path) -> None:
    deeper, start = write_tiny_llama(tmp_path / "deeper", layers=3), write_tiny_llama(tmp_path / "start")
    with pytest.raises(MergeError, match=r"model.layers.2.* is \[.*\] in .*deeper and missing in .*start"):
        blend_folder(start, deeper, tmp_path, MergeSettings())
    with pytest.raises(MergeError, match=r"model.layers.2.* is missing in .*start"):
        blend_folder(deeper, start, tmp_path, MergeSettings())


def test_a_head_that_is_tied_may_be_stored_once(tmp_path: Path) -> None:
    start, trained = (write_tiny_llama(tmp_path / str(seed), seed=seed) for seed in (1, 2))
    from safetensors.torch import load_file, save_file

    tensors = load_file(start / "model.safetensors")
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, start / "model.safetensors")
    out = tmp_path / "out"
    out.mkdir()
    blend_folder(start, trained, out, MergeSettings())
    assert "lm_head.weight" not in Weights(out)
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"]
