"""Packed batches: whole documents side by side in one row, each with positions of its own, and no padding.

The plan has the form of `raytrain.batches`: batch i lists the rows that rank i % workers computes, here at most
`budget` tokens of them together. Best fit decreasing: within a pool of about POOL_BATCHES batches, drawn at random,
documents are placed from the longest to the shortest, each where it leaves the least room. Invariants: no document is
cut and each epoch of a phase has every document once; phases follow each other; the number of batches is a multiple of
`workers`; the same arguments give the same plan.

A packed row is what transformers calls the padding-free form: position_ids that start anew with every document, and
the documents' boundaries as cu_seq_lens. Attention never crosses a boundary (see raytrain.attention).
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Any

import numpy as np

from raytrain.batches import IGNORED, Collator, Plan, in_groups
from raytrain.data import Int64

POOL_BATCHES = 256


def plan_packs(lengths: Int64, budget: int, workers: int, epochs: int, seed: int, phases: Sequence[int] = ()) -> Plan:
    """Plan `epochs` passes over rows of these lengths with at most `budget` tokens a batch, phase after phase.

    `phases[i]` is the phase of row i; none: all rows are of one phase.

    Raises:
        ValueError: when a row is longer than the budget.
    """
    longest = int(lengths.max(initial=0))
    if longest > budget:
        raise ValueError(f"a row of {longest} tokens is over the budget of {budget} tokens a batch; raise the budget")
    phase_of = np.array(phases if phases else [0] * len(lengths), dtype=np.int64)
    plan: Plan = []
    for phase in np.unique(phase_of):
        members = np.flatnonzero(phase_of == phase)
        for epoch in range(epochs):
            draw = np.random.default_rng([seed, int(phase), epoch])
            groups = in_groups(_pools(lengths, draw.permutation(members), budget), workers)
            for index in draw.permutation(len(groups)):
                plan.extend(groups[index])
    return plan


def _pools(lengths: Int64, order: Int64, budget: int) -> Plan:
    size = max(1, int(POOL_BATCHES * budget / max(1.0, float(lengths[order].mean())))) if len(order) else 1
    return [pack for i in range(0, len(order), size) for pack in best_fit(lengths, order[i : i + size], budget)]


def best_fit(lengths: Int64, rows: Int64, budget: int) -> Plan:
    """Pack `rows` into batches of at most `budget` tokens, best fit decreasing; rows of one length keep their order."""
    packs: Plan = []
    open_packs: list[tuple[int, int]] = []  # (room left, pack), sorted
    for row in rows[np.argsort(-lengths[rows], kind="stable")].tolist():
        length = int(lengths[row])
        place = bisect_left(open_packs, (length, 0))
        if place < len(open_packs):
            room, pack = open_packs.pop(place)
        else:
            room, pack = budget, len(packs)
            packs.append([])
        packs[pack].append(row)
        if room > length:
            insort(open_packs, (room - length, pack))
    return packs


class PackedCollator(Collator):
    """Turns one planned batch into a packed row: input_ids, labels and position_ids [1, tokens], cu_seq_lens_q and
    cu_seq_lens_k [documents + 1] (int32: where each begins, and the end), max_length_q and max_length_k (integers).

    A document's first token is no label: what stands before it is another document.
    """

    def tensors(self, indices: list[int]) -> dict[str, Any]:
        """The packed row of these rows; an empty list gives one document that counts for nothing."""
        import torch

        picked = [self.rows.row(i) for i in indices] or [(np.full(2, self.pad_id, np.int32), 2)]
        lengths = np.array([len(tokens) for tokens, _ in picked])
        ends = np.concatenate([np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)])
        ids = np.concatenate([tokens for tokens, _ in picked]).astype(np.int64)
        labels = ids.copy()
        for begin, (_, start) in zip(ends[:-1], picked, strict=True):
            labels[begin : begin + max(1, start)] = IGNORED
        boundaries, longest = torch.from_numpy(ends), int(lengths.max())
        return {
            "input_ids": torch.from_numpy(ids)[None],
            "labels": torch.from_numpy(labels)[None],
            "position_ids": torch.from_numpy(np.concatenate([np.arange(n) for n in lengths]))[None],
            "cu_seq_lens_q": boundaries,
            "cu_seq_lens_k": boundaries,
            "max_length_q": longest,
            "max_length_k": longest,
        }
