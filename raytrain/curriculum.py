"""The length curriculum: which document is trained on in which phase, decided before training from lengths and a seed.

The paper trains on 4k, then 8k, then 16k tokens at a constant number of tokens a step. Each phase gets its share of the
tokens. Where a document goes is drawn at random, in proportion to what the phases still have to get, so that every
phase has the corpus's mixture; but among the phases that it fits into whole, as long as one of them has room, so that
as few as possible are split: the longest documents choose first. Invariant: every token of every text is in exactly one
phase; a phase has no row over its length.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from raytrain.data import Int64, TokenRows, join
from raytrain.pieces import split_row
from raytrain.settings import PhaseSettings


def in_phases(rows: TokenRows, phases: Sequence[PhaseSettings], seed: int) -> tuple[TokenRows, list[str]]:
    """`rows` with their phases, split where a phase is shorter than they are, and a line to say for each phase.

    A row of which a phase could hold no piece (its context fills the phase) goes to the first phase that can hold it;
    every row must fit into the last one whole.
    """
    limits = np.array([phase.length for phase in phases], dtype=np.int64)
    assert rows.lengths.max(initial=0) <= limits[-1], "rows are split to the last phase's length beforehand"
    chosen = assign(rows.lengths, limits, np.array([phase.share for phase in phases]), seed)
    kept, numbers = [], list[int]()
    counts = np.zeros((len(phases), 3), dtype=np.int64)  # rows, of these pieces, tokens
    for index, wanted in enumerate(chosen.tolist()):
        tokens, start = rows.row(index)
        phase = wanted
        while not (pieces := split_row(tokens, start, rows.groups[index], int(limits[phase]))):
            phase += 1
        kept += pieces
        numbers += [phase] * len(pieces)
        counts[phase] += len(pieces), len(pieces) if len(pieces) > 1 else 0, sum(len(piece[0]) for piece in pieces)
    return replace(join(kept), phases=tuple(numbers)), [
        f"phase {number + 1}, at most {phase.length:,} tokens: {have:,} rows ({split:,} of them pieces of longer "
        f"ones), {tokens:,} tokens"
        for number, (phase, (have, split, tokens)) in enumerate(zip(phases, counts.tolist(), strict=True))
    ]


def assign(lengths: Int64, limits: Int64, shares: np.ndarray[Any, np.dtype[np.float64]], seed: int) -> Int64:
    """The phase of each row: `limits` are the phases' growing lengths, `shares` their relative shares of the tokens."""
    draw = np.random.default_rng(seed)
    left = shares / shares.sum() * float(lengths.sum())
    first = np.searchsorted(limits, lengths)  # the first phase that a row fits into whole
    chosen = np.zeros(len(lengths), dtype=np.int64)
    order = draw.permutation(len(lengths))
    for row in order[np.argsort(-first[order], kind="stable")].tolist():
        fitting = np.maximum(left, 0.0)
        fitting[: first[row]] = 0.0
        weights = fitting if fitting.any() else np.maximum(left, 0.0)
        total = weights.sum()
        chosen[row] = draw.choice(len(limits), p=weights / total) if total > 0 else len(limits) - 1
        left[chosen[row]] -= lengths[row]
    return chosen
