"""A stage's model merged with the one that it started from, tensor by tensor.

What a stage teaches and what it costs elsewhere both grow with the distance from its start; a model between the two
often keeps most of the one at a part of the other (WiSE-FT, arXiv 2109.01903). `weight` says how far to go.

linear: start + weight (trained - start).
slerp: along the arc between the two directions (Shoemake, Animating rotation with quaternion curves, SIGGRAPH 1985,
section 3.3), for each tensor as one vector: sin((1-w) a)/sin(a) start + sin(w a)/sin(a) trained, a the angle between
them. Where they are nearly parallel, or one is zero, that is the linear merge and is computed so. Tuned weights are
nearly parallel to their start almost everywhere, so the two methods differ little; a long pretraining can be other.
ties: start + weight trim(trained - start), trim keeping the largest `density` of each tensor's changes (TIES, arXiv
2306.01708, section 4). With the one change that there is here its other two steps, electing a sign among several
changes and averaging those that agree, have nothing to do. Unlike the paper's trimming of the whole model at once it
is done for each tensor, as PEFT does, whose `prune` is used.

Computed in fp32 and written in the trained tensor's own type. No more is held than one tensor of both models
in fp32 and one as it is stored: five times the largest tensor of a model in bf16.
"""

import math
import shutil
from pathlib import Path
from typing import Any

from raytrain.folders import copy_tokenizer
from raytrain.merge import MergeError
from raytrain.settings import MergeSettings
from raytrain.shards import FLOATS, SHARD_BYTES, Entry, Tensor, Weights, computed, copied, write_weights

PARALLEL = 0.9995  # cosine above which the arc is a line within fp32
HEAD = "lm_head.weight"


def blend_folder(
    start: Path, trained: Path, out: Path, settings: MergeSettings, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write the merge of two models of one shape into `out`, an existing folder; all but weights is as in `trained`.

    Raises:
        MergeError: when the two do not have the same tensors.
    """
    before, after = Weights(start), Weights(trained)
    _check_same(before, after)

    def entry(tensor: Tensor) -> Entry:
        if tensor.dtype not in FLOATS:
            return copied(tensor)
        return computed(tensor, lambda: blend(before[tensor.name].load().float(), tensor.load().float(), settings))

    write_weights(out, [entry(tensor) for tensor in after], shard_bytes)
    shutil.copyfile(trained / "config.json", out / "config.json")
    copy_tokenizer(trained, out)


def blend(start: Any, trained: Any, settings: MergeSettings) -> Any:
    """One tensor of the merged model from the two others, all fp32 of one shape. Both are used up on the way."""
    if settings.method == "slerp":
        return _slerp(start, trained, settings.weight)
    if settings.method == "ties":
        return start.add_(_trimmed(trained.sub_(start), settings.density), alpha=settings.weight)
    return start.lerp_(trained, settings.weight)


def _slerp(start: Any, trained: Any, weight: float) -> Any:
    import torch

    lengths = torch.linalg.vector_norm(start) * torch.linalg.vector_norm(trained)
    cosine = torch.dot(start.flatten(), trained.flatten()) / lengths if lengths > 0 else torch.ones(())
    if cosine.abs() > PARALLEL:
        return start.lerp_(trained, weight)
    angle = float(torch.arccos(cosine))
    before, after = (math.sin(part * angle) / math.sin(angle) for part in (1 - weight, weight))
    return start.mul_(before).add_(trained, alpha=after)


def _trimmed(change: Any, density: float) -> Any:
    from peft.utils.merge_utils import prune

    return change if density == 1 else prune(change, density, method="magnitude")


def _check_same(before: Weights, after: Weights) -> None:
    """Raises where merging would have to guess. A head that is tied may be stored in one and not in the other."""
    for tensor in after:
        if tensor.name not in before or before[tensor.name].shape != tensor.shape:
            there = f"{list(before[tensor.name].shape)}" if tensor.name in before else "missing"
            raise MergeError(
                f"{tensor.name} is {list(tensor.shape)} in {after.folder} and {there} in {before.folder}; only a model "
                f"and the one that it was trained from can be merged"
            )
    lost = [tensor.name for tensor in before if tensor.name not in after and tensor.name != HEAD]
    if lost:
        raise MergeError(
            f"{lost[0]} of {before.folder} is missing in {after.folder}; only a model and the one that it was trained "
            f"from can be merged"
        )
