"""How much memory one worker of a training stage takes, computed before anything is started. No torch, plain numbers.

With N parameters, of which T are trained (all, or LoRA's adapters), W workers, b bytes a number (2 in bf16, 4 in fp32):

| part | ZeRO 1 | ZeRO 2 | ZeRO 3 |
|---|---|---|---|
| weights | b(N+T') | b(N+T') | b(N+T')/W, and up to LIVE gathered ones |
| gradients | bT | bT/W | bT/W |
| optimizer: fp32 master, two moments, fp32 gradient at the step | 16T/W | 16T/W | 16T/W |
| buckets: DeepSpeed's buffer for gradients, and their fp32 copy on the way | (b+4) x BUCKET | same | same |

T' are adapters beside frozen weights. This is table 1 of ZeRO (arXiv 1910.02054, K = 12 for Adam); what we count more
is the fp32 gradient of a worker's share, which torch's AdamW needs at the step, and DeepSpeed's buckets.

Activations follow what autograd keeps in transformers' layers (tests/unit/test_footprint.py counts it): for a token and
a layer of width h, queries q, keys k, feed-forward f: the norms' fp32 copies 8h, and b times (2h + 2q + 2k + 4f), with
2h more where the norms are trained and r for each adapter. Matrix-product attention (raytrain.attention, on the CPU)
keeps its weights too, heads x length numbers a token; fused attention keeps none. This is section 4 of Korthikanti et
al. (arXiv 2205.05198) for a layer without dropout, with a gated feed-forward. Gradient checkpointing keeps bh for a
token and layer, and one layer's activations at a time. Logits exist only for positions with a loss: each costs, in
bf16, the vocabulary times 2 (logits), 4 (their fp32 copy or its gradient) and 4 (log-probabilities).

On a CPU, bf16 products are compiled by oneDNN for each shape that they have, and attention's shapes are the lengths of
the documents. The compiled code stays: one copy of each kernel for the life of the process, and as many products as
raytrain.worker lets it keep. It grows for some hundred steps and then no more, whatever the model's size.

After training, every worker loads the whole model to score held-out rows; where that takes more, it is what counts.
"""

from dataclasses import dataclass

from raytrain.batches import SCORED_AT_ONCE
from raytrain.settings import CptSettings, DpoSettings, DrafterSettings, StageSettings
from raytrain.shape import ModelShape

GIB = 2**30
BUCKET = 500_000_000  # DeepSpeed's reduce_bucket_size, in numbers
LIVE = 1_000_000_000  # its stage3_max_live_parameters
HEAP = 1.4  # on a CPU: what the C library's heap grows to for each byte that is in use (`agentmill bench memory`)
KERNELS_GIB = 0.4  # on a CPU in bf16: products that oneDNN compiled for the lengths of rows, and keeps
NAMES = ("weights", "gradients", "optimizer", "buckets", "activations", "logits")


@dataclass(frozen=True)
class Batch:
    """The largest micro-batch of one worker: padded tokens, positions with a loss among them, the longest row."""

    tokens: int
    counted: int
    longest: int


@dataclass(frozen=True)
class Footprint:
    """What one worker takes, in GiB: `device` by part, on the device that it computes on, and `host`, the part of the
    optimizer and the weights that offload moved off it."""

    device: dict[str, float]
    host: float

    @property
    def total(self) -> float:
        return sum(self.device.values())


def largest_batch(settings: StageSettings) -> Batch:
    """The largest micro-batch that the settings allow, every position counted: an upper bound before rows are known."""
    tokens = settings.tokens_per_batch
    return Batch(tokens, tokens, min(settings.max_length, tokens))


def footprint(shape: ModelShape, settings: StageSettings, batch: Batch, *, on_gpu: bool) -> Footprint:
    """The memory of one worker, as the module's docstring has it. On a CPU offload moves nothing."""
    device = {**_states(shape, settings), **_work(shape, settings, batch, on_gpu=on_gpu)}
    moved: list[str] = []
    if on_gpu and settings.worker.offload != "none":
        moved = ["optimizer", "gradients"] if settings.worker.zero_stage > 1 else ["optimizer"]
    host = sum(device.pop(name) for name in moved)
    if on_gpu and settings.worker.offload == "parameters":
        kept = _gathered(shape, settings)
        host += device["weights"] - kept
        device["weights"] = kept
    return Footprint({name: device[name] / GIB for name in NAMES if name in device}, host / GIB)


def trained_parameters(shape: ModelShape, settings: StageSettings) -> int:
    """How many parameters have gradients: the adapters', those of the blocks that expansion added, a drafter's, or
    all."""
    if isinstance(settings, DrafterSettings):
        return shape.drafter
    if settings.lora:
        return shape.adapters(settings.lora.rank, settings.lora.targets)
    if isinstance(settings, CptSettings) and settings.train == "new_blocks":
        return shape.added * (shape.layer_matrix + shape.small)
    return shape.parameters


def _states(shape: ModelShape, settings: StageSettings) -> dict[str, float]:
    worker, trained = settings.worker, trained_parameters(shape, settings)
    held = _size(settings) * (shape.parameters + (trained if settings.lora else 0))
    weights = held / worker.workers + _gathered(shape, settings) if worker.zero_stage == 3 else held
    return {"weights": weights, **optimizer_states(settings, trained)}


def optimizer_states(settings: StageSettings, trained: int) -> dict[str, float]:
    """Bytes by part of what `trained` parameters need beside themselves."""
    worker, size = settings.worker, _size(settings)
    return {
        "gradients": size * trained / (worker.workers if worker.zero_stage >= 2 else 1),
        "optimizer": 16 * trained / worker.workers,
        "buckets": (size + 4) * min(trained, BUCKET),
    }


def _gathered(shape: ModelShape, settings: StageSettings) -> float:
    """Weights that ZeRO 3 has gathered at a time."""
    if settings.worker.zero_stage < 3 or settings.worker.workers == 1:
        return 0.0
    return float(_size(settings) * min(shape.parameters, LIVE))


def _work(shape: ModelShape, settings: StageSettings, batch: Batch, *, on_gpu: bool) -> dict[str, float]:
    """What a step needs beside the states: kept activations, and the larger of the logits and one layer's work."""
    size = _size(settings)
    layer = batch.tokens * kept_in_layer(shape, settings, batch, on_gpu=on_gpu)
    outer = batch.tokens * 4 * shape.hidden * 2
    gradients = batch.tokens * size * 2 * (shape.hidden + shape.inner)
    if settings.worker.gradient_checkpointing:
        kept, once = float(shape.layers * batch.tokens * size * shape.hidden), layer + gradients
    else:
        kept, once = shape.layers * layer, gradients
    logits = batch.counted * shape.vocabulary * (2 * size if size == 4 else size + 8)
    if isinstance(settings, DpoSettings) and not settings.precompute_reference:
        logits += _looked_at(shape, settings, batch)
    activations = (kept + outer + max(once - logits, 0)) * (1 if on_gpu else HEAP)
    return {"activations": float(activations), "logits": float(logits)}


def scoring(shape: ModelShape, settings: StageSettings, batch: Batch) -> dict[str, float]:
    """GiB by part of looking at held-out rows, after training: every worker has the whole model for it."""
    return {
        "weights to score": _size(settings) * shape.parameters / GIB,
        "logits": _looked_at(shape, settings, batch) / GIB,
    }


def _looked_at(shape: ModelShape, settings: StageSettings, batch: Batch) -> int:
    """Logits, their fp32 copy and log-probabilities where no gradient is wanted."""
    return min(2 * batch.counted, SCORED_AT_ONCE) * shape.vocabulary * (_size(settings) + 8)


def kept_in_layer(shape: ModelShape, settings: StageSettings, batch: Batch, *, on_gpu: bool) -> float:
    """Bytes that autograd keeps of one token in one layer."""
    size, lora = _size(settings), settings.lora
    norms = 8 * shape.hidden + (0 if lora else 2 * size * shape.hidden)
    products = size * (2 * shape.hidden + 2 * shape.query + 2 * shape.keys + 4 * shape.inner)
    named = [name for name in shape.linears if lora and (isinstance(lora.targets, str) or name in lora.targets)]
    adapters = size * len(named) * (lora.rank if lora else 0)
    weights = 0 if on_gpu else size * shape.heads * batch.longest
    return float(norms + products + adapters + weights)


def _size(settings: StageSettings) -> int:
    return 2 if settings.worker.precision == "bf16" else 4
