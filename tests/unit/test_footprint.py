"""The memory of a stage: against the ZeRO paper's table, and against what autograd really keeps."""

from typing import Any

import pytest

from raytrain.footprint import GIB, LIVE, Batch, footprint, kept_in_layer, largest_batch, scoring, trained_parameters
from raytrain.settings import CptSettings, DpoSettings, LoraSettings, SftSettings, StageSettings, WorkerSettings
from raytrain.shape import ModelShape, shape_of
from tests.llama8b import LLAMA_8B

LLAMA = shape_of(LLAMA_8B)


def full(**worker: Any) -> SftSettings:
    return SftSettings(lora=None, max_length=512, tokens_per_batch=512, worker=WorkerSettings(**worker))


def states(shape: ModelShape, settings: StageSettings) -> float:
    """GB of weights, gradients and optimizer as the ZeRO paper counts them: without the fp32 gradient of a share."""
    taken = footprint(shape, settings, largest_batch(settings), on_gpu=True).device
    counted = taken["weights"] + taken["gradients"] + taken["optimizer"] * 12 / 16
    return counted * GIB / 1e9


@pytest.mark.parametrize(("zero_stage", "published_gb"), [(1, 31.4), (2, 16.6), (3, 1.9)])
def test_the_states_are_those_of_the_zero_papers_table(zero_stage: int, published_gb: float) -> None:
    """Table 1 of arXiv 1910.02054: 7.5B parameters on 64 devices, Adam, 16-bit."""
    shape = ModelShape(32, 4096, 32, 4096, 4096, 11008, 32000, False, 8192, counted=7_500_000_000)
    found = states(shape, full(workers=64, zero_stage=zero_stage))
    gathered = 2 * LIVE / 1e9 if zero_stage == 3 else 0.0
    assert found - gathered == pytest.approx(published_gb, rel=0.02)


def test_offload_moves_what_it_says_to_the_host_and_nothing_gets_lost() -> None:
    batch = Batch(512, 512, 512)
    kept = footprint(LLAMA, full(workers=8, zero_stage=3), batch, on_gpu=True)
    moved = footprint(LLAMA, full(workers=8, zero_stage=3, offload="optimizer"), batch, on_gpu=True)
    everything = footprint(LLAMA, full(workers=8, zero_stage=3, offload="parameters"), batch, on_gpu=True)
    assert "optimizer" not in moved.device and "gradients" not in moved.device
    assert moved.total + moved.host == pytest.approx(kept.total)
    assert everything.total + everything.host == pytest.approx(kept.total)
    assert everything.total < moved.total < kept.total
    assert footprint(LLAMA, full(workers=8, zero_stage=3, offload="optimizer"), batch, on_gpu=False).host == 0


def test_adapters_leave_gradients_and_optimizer_to_a_few_parameters() -> None:
    settings = SftSettings(lora=LoraSettings(rank=64, alpha=64), max_length=512)
    taken = footprint(LLAMA, settings, largest_batch(settings), on_gpu=True).device
    assert taken["weights"] * GIB == pytest.approx(2 * (LLAMA.parameters + LLAMA.adapters(64, "all-linear")))
    assert taken["optimizer"] < 0.05 * footprint(LLAMA, full(), Batch(1, 1, 1), on_gpu=True).device["optimizer"]


def test_only_new_blocks_are_trained_where_only_they_are_to_be() -> None:
    shape = LLAMA.expanded(4)
    settings = CptSettings(train="new_blocks", max_length=512)
    assert trained_parameters(shape, settings) == shape.parameters - LLAMA.parameters
    assert trained_parameters(shape, CptSettings(max_length=512)) == shape.parameters


def test_gradient_checkpointing_keeps_one_layer_at_a_time() -> None:
    batch = Batch(8192, 1024, 8192)
    kept = footprint(LLAMA, full(), batch, on_gpu=True).device["activations"]
    checkpointed = footprint(LLAMA, full(gradient_checkpointing=True), batch, on_gpu=True).device["activations"]
    assert checkpointed < 0.15 * kept


def test_looking_at_a_model_takes_its_weights_and_few_logits() -> None:
    few, many = (sum(scoring(LLAMA, full(), Batch(n, n, 4096)).values()) for n in (8192, 65536))
    assert few == many == pytest.approx((2 * LLAMA.parameters + 2048 * 128256 * 10) / GIB)


def test_dpos_reference_takes_logits_of_its_own_unless_it_was_computed_before() -> None:
    each = DpoSettings(max_length=512)
    before = each.model_copy(update={"precompute_reference": True})
    batch = Batch(1024, 512, 512)
    with_reference = footprint(LLAMA, each, batch, on_gpu=True).device["logits"]
    assert with_reference > footprint(LLAMA, before, batch, on_gpu=True).device["logits"]


@pytest.mark.parametrize(
    ("precision", "attention", "lora"),
    [
        ("bf16", "grouped_products", None),
        ("bf16", "sdpa", LoraSettings(rank=16, alpha=16)),
        ("fp32", "grouped_products", LoraSettings(rank=16, alpha=16)),
        ("fp32", "sdpa", None),
    ],
)
def test_activations_are_what_autograd_keeps(precision: Any, attention: str, lora: LoraSettings | None) -> None:
    worker = WorkerSettings(precision=precision)
    settings = SftSettings(lora=lora, max_length=96, tokens_per_batch=384, worker=worker)
    shape, kept = bytes_kept(settings, attention)
    batch = Batch(tokens=4 * 96, counted=4 * 32, longest=96)
    layers = shape.layers * batch.tokens * kept_in_layer(shape, settings, batch, on_gpu=attention == "sdpa")
    logits = batch.counted * shape.vocabulary * 4  # the log-probabilities; the rest is there for a moment only
    computed = layers + batch.tokens * 8 * shape.hidden + logits
    assert computed == pytest.approx(kept, rel=0.06)


def bytes_kept(settings: SftSettings, attention: str) -> tuple[ModelShape, int]:
    """A small model's shape, and the bytes that a forward pass keeps for the backward pass, weights left out."""
    import torch
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    from raytrain.attention import register
    from raytrain.trainer import score_completions

    register()
    sizes = {"vocab_size": 512, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4}
    config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True)
    dtype = torch.bfloat16 if settings.worker.precision == "bf16" else torch.float32
    model: Any = LlamaForCausalLM(config).to(dtype)
    model.set_attn_implementation(attention)
    score_completions(model)
    if settings.lora:
        adapter = LoraConfig(task_type=TaskType.CAUSAL_LM, r=settings.lora.rank, target_modules="all-linear")
        model = get_peft_model(model, adapter, autocast_adapter_dtype=False)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.randint(0, 512, (4, 96))
    labels = ids.clone()
    labels[:, :64] = -100
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model.train()(input_ids=ids, labels=labels).loss
    assert loss.isfinite()
    return shape_of(config.to_dict()), sum(kept.values())


def test_scoring_some_positions_at_a_time_gives_the_same_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from raytrain import trainer

    monkeypatch.setattr(trainer, "SCORED_AT_ONCE", 5)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2))
    ids = torch.randint(0, 64, (2, 9))
    for counted in (ids, torch.full_like(ids, -100)):
        at_once = trainer.completion_losses(model, ids, counted)
        with torch.no_grad():
            some_at_a_time = trainer.completion_losses(model, ids, counted)
        assert torch.allclose(at_once, some_at_a_time, atol=1e-5)
        assert len(at_once) == (16 if counted is ids else 0)
