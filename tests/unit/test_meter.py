"""FLOPs of training against torch's own count of its products."""

from typing import Any

import pytest

from raytrain.meter import Meter, flops_per_token
from raytrain.settings import DpoSettings, LoraSettings, SftSettings
from raytrain.shape import shape_of
from tests.llama8b import LLAMA_8B

ROWS, LENGTH = 3, 40
SIZES = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3}


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=8, alpha=8)])
def test_a_step_costs_what_torch_counts(lora: LoraSettings | None) -> None:
    config, counted = counted_flops(lora)
    settings = SftSettings(lora=lora, max_length=64)
    share = (LENGTH - 1) / LENGTH  # the last position predicts nothing
    computed = ROWS * LENGTH * flops_per_token(shape_of(config), settings, LENGTH, share)
    assert computed == pytest.approx(counted, rel=0.03)


def counted_flops(lora: LoraSettings | None) -> tuple[dict[str, Any], int]:
    import torch
    from peft import LoraConfig, TaskType, get_peft_model
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import LlamaConfig, LlamaForCausalLM

    from raytrain.trainer import score_completions

    config = LlamaConfig(**SIZES, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False)
    model: Any = LlamaForCausalLM(config)
    model.set_attn_implementation("eager")
    score_completions(model)
    if lora:
        adapter = LoraConfig(task_type=TaskType.CAUSAL_LM, r=lora.rank, target_modules="all-linear")
        model = get_peft_model(model, adapter)
    ids = torch.randint(0, 300, (ROWS, LENGTH))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids).loss.backward()
    return config.to_dict(), counter.get_total_flops()


def test_an_8b_model_costs_about_six_flops_a_parameter_and_four_with_adapters() -> None:
    shape = shape_of(LLAMA_8B)
    each = SftSettings(lora=None)
    full, adapted = (flops_per_token(shape, s, 1, 1.0) for s in (each, SftSettings(lora=LoraSettings(rank=16))))
    assert full == pytest.approx(6 * (shape.parameters - shape.embedding), rel=0.01)
    assert adapted == pytest.approx(full * 4 / 6, rel=0.02)


def test_dpo_pays_for_its_reference_unless_it_was_computed_before() -> None:
    shape, each = shape_of(LLAMA_8B), DpoSettings(max_length=512)
    before = each.model_copy(update={"precompute_reference": True})
    ratio = flops_per_token(shape, each, 512, 0.2) / flops_per_token(shape, before, 512, 0.2)
    assert 1.4 < ratio < 1.5


def test_mfu_is_the_share_of_the_peak() -> None:
    assert Meter(flops_per_token=6e9, peak_flops=1e15).mfu(50_000) == pytest.approx(0.3)
