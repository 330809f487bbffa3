"""Merging an adapter: the plain folder computes what base and adapter compute together."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from raytrain.merge import MergeError, check_targets, linear_modules, merge_adapter, publish
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
    with pytest.raises(MergeError, match="run the stages before this one first"):
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
