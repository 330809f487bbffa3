"""What quantising takes of memory, told before it begins: the process, and the larger of what is there at a time.

Weights in bf16 and in 8 bits are there together while they are saved and while they are read again. For each token a
layer holds some ten vectors of its width at a time, and attention its row of weights for every head in fp32.
"""

from dataclasses import replace
from pathlib import Path

from raytrain.batches import SCORED_AT_ONCE, in_order
from raytrain.data import TokenRows
from raytrain.drafter.footprint import LAYERS_SEEN
from raytrain.footprint import KERNELS_GIB
from raytrain.preflight import drafted_tokens, largest_of
from raytrain.quantize.drafter_work import DrafterOrder
from raytrain.settings import Scheme
from raytrain.shape import ModelShape, read_shape

PROCESS_GIB = 0.7  # Python, torch, transformers and llm-compressor; no trainer and no DeepSpeed
SPECULATORS_GIB = 0.1


def estimate_gib(
    model: Path, scheme: Scheme, calibration: TokenRows, heldout: TokenRows, tokens_per_batch: int
) -> float:
    """What quantising a student takes: its weights, and the larger of a held-out batch's activations and, for FP8,
    those of the longest row, calibrated on or held out: clipped values are counted row by row.

    The head gives logits in bf16 and their copy in fp32, for every token of such a row; for the held-out positions that
    are looked at at once also their log-probabilities.
    """
    shape = read_shape(model)
    longest = int(max(calibration.lengths.max(), heldout.lengths.max())) if scheme == "fp8" else 0
    calibrated = longest * (_layer(shape, longest) + 6 * shape.vocabulary)
    batch = largest_of(heldout, in_order(heldout.lengths, tokens_per_batch), packed=False)
    looked_at = min(batch.counted, SCORED_AT_ONCE) * 10 * shape.vocabulary
    scored = batch.tokens * _layer(shape, batch.longest) + looked_at
    return (3 * shape.parameters + max(calibrated, scored)) / 2**30 + PROCESS_GIB


def drafter_estimate_gib(order: DrafterOrder) -> float:
    """What quantising a drafter takes: the student in 8 bits, which is looked at with weights of bf16, and the drafter
    with its embeddings and two heads; and of a pack of rows, held out or, for FP8, calibrated on, what a layer of the
    student holds, the states that are kept, and for every drafted token the keys, the values and the logits. Packs
    have products of as many lengths as a training, and a CPU keeps what it compiled for each.
    """
    packs = [(TokenRows.load(order.heldout), order.settings.tokens_per_batch)]
    if order.scheme == "fp8":
        packs.append((TokenRows.load(order.calibration), order.tokens_per_batch))
    shape = replace(read_shape(order.student), drafted=drafted_tokens(order.drafter))
    assert shape.drafted is not None, "the drafter is there"
    weights = 3 * (shape.parameters + shape.drafter + shape.embedding + 2 * shape.drafted * shape.hidden)
    kept = 2 * (LAYERS_SEEN + 1) * shape.hidden + order.settings.draft_tokens * (4 * shape.keys + 2 * shape.drafted)
    pack = 0
    for rows, tokens in packs:
        longest = int(rows.lengths.max())
        pack = max(pack, max(tokens, longest) * (_layer(shape, longest) + kept))
    kernels = 0.0 if order.placement.device == "gpu" else KERNELS_GIB
    return (weights + pack) / 2**30 + PROCESS_GIB + SPECULATORS_GIB + kernels


def _layer(shape: ModelShape, longest: int) -> int:
    """Bytes of one token in a layer, in a row of so many."""
    return 4 * (10 * shape.hidden + 3 * shape.inner) + 4 * shape.heads * longest
