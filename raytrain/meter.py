"""Model FLOPs utilisation: the arithmetic that training needs, as a share of what the devices could do.

A product with a matrix of M parameters costs a token 2M FLOPs forward, 2M for the gradient of its inputs and 2M for
that of its weights (Kaplan et al., arXiv 2001.08361, section 2.1). All weights trained: 6M. LoRA: 4M for the frozen
weights, whose own gradient nobody needs, and 6 for each parameter of an adapter. Attention has no weights: three times
its forward pass, whatever is frozen. DPO's reference is one more forward pass where it is not computed beforehand.

Two things are as in PaLM (arXiv 2204.02311, appendix B): attention counts the whole square, and what gradient
checkpointing computes again is not counted, since the model does not need it. One differs: the output head counts only
for positions that have a loss, because no others are scored.
"""

from dataclasses import dataclass

from raytrain.data import TokenRows
from raytrain.footprint import trained_parameters
from raytrain.job import Job
from raytrain.settings import DpoSettings, DrafterSettings, StageSettings
from raytrain.shape import ModelShape, ShapeError, read_shape


@dataclass(frozen=True)
class Meter:
    """`flops_per_token` of training, and the peak of all workers together in FLOP/s."""

    flops_per_token: float
    peak_flops: float

    def mfu(self, tokens_per_s: float) -> float:
        """The share of the peak that `tokens_per_s` real tokens a second, over all workers, are worth."""
        return tokens_per_s * self.flops_per_token / self.peak_flops


def meter_of(job: Job, rows: TokenRows) -> Meter | None:
    """A meter for training on these rows; None where the devices' peak or the model's shape is not known, and for a
    drafter, most of whose arithmetic is the student's."""
    if not job.placement.peak_flops or isinstance(job.settings, DrafterSettings):
        return None
    try:
        shape = read_shape(job.start)
    except ShapeError:
        return None
    tokens = float(rows.lengths.sum())
    length = float((rows.lengths.astype(float) ** 2).sum()) / tokens
    flops = flops_per_token(shape, job.settings, length, rows.completion_tokens / tokens)
    return Meter(flops, job.placement.peak_flops * job.settings.worker.workers)


def flops_per_token(shape: ModelShape, settings: StageSettings, length: float, counted: float) -> float:
    """FLOPs of training on one token of a row of `length` tokens, of which the share `counted` has a loss."""
    matrices, attention = shape.matrices(counted), shape.attention_flops(length)
    trained = trained_parameters(shape, settings)
    if settings.lora:
        flops = 4.0 * matrices + 6.0 * trained
    else:
        flops = 4.0 * matrices + 2.0 * matrices * trained / shape.parameters
    reference = isinstance(settings, DpoSettings) and not settings.precompute_reference
    return flops + 3.0 * attention + (2.0 * matrices + attention if reference else 0.0)
