"""The clip rate: what share of the activations that a quantised model meets lies outside its calibrated range.

A static scale is fixed by the largest magnitude that each linear layer's input had on the calibration rows (min-max,
symmetric, as in raytrain.quantize.scheme). Whatever is larger in service is clipped. The rate is the share of such
values among all inputs of the linear layers on test rows, by layer, agent and position (the paper's figure 4: over the
length of the calibration sequences, for sets of public, of in-domain and of mixed rows).

A set's sequences of L tokens are its rows one after another, cut every L tokens; `sequences` of each length are taken,
so that a longer length is also more tokens, as in the paper.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from raytrain.data import Int32, TokenRows

HEAD = "lm_head"
Ranges = dict[str, float]  # linear layer -> the largest magnitude of its inputs


@dataclass
class Clipped:
    """Counts of values outside of the range and of all values, [clipped, all], by layer, group and position."""

    by_layer: dict[str, list[int]] = field(default_factory=dict)
    by_group: dict[str, list[int]] = field(default_factory=dict)
    by_position: dict[int, list[int]] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        clipped, total = (sum(column) for column in zip(*self.by_layer.values(), strict=True))
        return clipped / total

    def rate_of(self, left_out: str) -> float:
        """The rate over all groups but one."""
        counts = [pair for group, pair in self.by_group.items() if group != left_out]
        clipped, total = (sum(column) for column in zip(*counts, strict=True))
        return clipped / total

    @property
    def values(self) -> int:
        """How many values were looked at."""
        return sum(total for _, total in self.by_layer.values())


def sequences_of(rows: TokenRows, length: int, count: int) -> Iterator[Int32]:
    """`count` sequences of `length` tokens, the rows one after another and again from the first where they end."""
    stream = np.concatenate([rows.row(index)[0] for index in range(len(rows))])
    for index in range(count):
        yield np.take(stream, np.arange(index * length, (index + 1) * length), mode="wrap")


@torch.no_grad()
def calibrate(model: PreTrainedModel, sequences: Iterable[Int32]) -> Ranges:
    """The largest magnitude of each linear layer's inputs over these sequences, the head's left out."""
    ranges: Ranges = {}

    def look(name: str, inputs: torch.Tensor) -> None:
        ranges[name] = max(ranges.get(name, 0.0), float(inputs.abs().max()))

    with watched(model, look):
        for sequence in sequences:
            model(input_ids=torch.from_numpy(sequence.astype(np.int64))[None].to(model.device))
    return ranges


@torch.no_grad()
def count_clipped(
    model: PreTrainedModel, rows: TokenRows, ranges: Mapping[str, Ranges], edges: Sequence[int]
) -> dict[str, Clipped]:
    """For each named calibration, what of the rows' activations it would clip. Positions are gathered in ranges that
    begin at `edges`, the first of which is 0."""
    found = {name: Clipped() for name in ranges}
    for index in range(len(rows)):
        tokens, group = rows.row(index)[0], rows.groups[index]
        places = np.searchsorted(np.array(edges), np.arange(len(tokens)), side="right") - 1
        bounds = torch.from_numpy(places)

        def look(name: str, inputs: torch.Tensor, group: str = group, bounds: torch.Tensor = bounds) -> None:
            sizes = inputs[0].abs().float()
            for calibration, limits in ranges.items():
                outside = (sizes > limits[name]).sum(dim=-1).cpu()
                _add(found[calibration], name, group, outside, sizes.shape[-1], bounds, edges)

        with watched(model, look):
            model(input_ids=torch.from_numpy(tokens.astype(np.int64))[None].to(model.device))
    return found


def _add(
    found: Clipped,
    layer: str,
    group: str,
    outside: torch.Tensor,
    width: int,
    bounds: torch.Tensor,
    edges: Sequence[int],
) -> None:
    """Add one layer's values of one row: `outside` [tokens], of `width` values each."""
    total = int(outside.sum())
    for counts in (found.by_layer.setdefault(layer, [0, 0]), found.by_group.setdefault(group, [0, 0])):
        counts[0] += total
        counts[1] += len(outside) * width
    clipped = torch.bincount(bounds, outside.double(), minlength=len(edges)).tolist()
    tokens = torch.bincount(bounds, minlength=len(edges)).tolist()
    for edge, part, some in zip(edges, clipped, tokens, strict=True):
        if some:
            counts = found.by_position.setdefault(edge, [0, 0])
            counts[0] += int(part)
            counts[1] += some * width


@contextmanager
def watched(model: PreTrainedModel, look: Any) -> Iterator[None]:
    """Show `look` the name and the input [1, tokens, width] of every linear layer but the head while the block runs."""

    def hook_of(name: str) -> Any:
        return lambda module, arguments: look(name, arguments[0])

    hooks = [
        module.register_forward_pre_hook(hook_of(name))
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != HEAD
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
