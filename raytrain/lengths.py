"""How long the rows of a corpus are, told before training begins: nothing is cut, so what does not fit must be known.

A report is made of all rows of a file, also of those that the overflow policy then leaves out. Lengths are spread by
agent and by part: prompt and completion, or prompt, chosen and rejected for pairs.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

PERCENTILES = (50, 90, 99)
PARTS = {1: ("prompt", "completion"), 2: ("prompt", "chosen", "rejected")}
NOUNS = {1: "rows", 2: "pairs"}

Ints = np.ndarray[Any, np.dtype[np.integer[Any]]]
Spread = dict[str, int]


@dataclass(frozen=True)
class LengthReport:
    """What tokenising found. `rows`, `kept`, `over` and what is counted by group or source are rows, or pairs.

    `over` are those left out, `split` those in pieces with their context again; `kept` counts the pieces.

    `tokens` and `completion_tokens` are those of what was kept; `spread` is group -> part -> {p50, p90, p99, max} in
    tokens, of all rows.
    """

    noun: str
    rows: int
    kept: int
    over: int
    split: int
    over_by_group: Mapping[str, int]
    sources: Mapping[str, int]
    tokens: int
    completion_tokens: int
    longest: int
    limit: int
    spread: Mapping[str, Mapping[str, Spread]]

    def text(self) -> str:
        """One line for a person."""
        over = ", ".join(f"{name} {n:,}" for name, n in sorted(self.over_by_group.items()))
        sources = ", ".join(f"{name} {n:,}" for name, n in sorted(self.sources.items()))
        return (
            f"{self.rows:,} {self.noun} ({sources}), {self.kept:,} kept with {self.tokens:,} tokens "
            f"({self.completion_tokens:,} of them count); longest {self.longest}; over {self.limit}: {self.over:,}"
            + (f" ({over})" if over else "")
            + (f", split with their context again: {self.split:,}" if self.split else "")
        )

    def lines(self) -> list[str]:
        """A line for each group: the spread of each part."""
        width = max((len(name) for name in self.spread), default=0)
        return [
            f"{name:<{width}} "
            + "; ".join(f"{part} " + " ".join(f"{k} {n}" for k, n in spread.items()) for part, spread in parts.items())
            for name, parts in self.spread.items()
        ]

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON takes it."""
        return asdict(self)


def measure_lengths(
    lengths: Ints, starts: Ints, groups: Sequence[str], sources: Sequence[str], sides: int, limit: int
) -> LengthReport:
    """The report on rows of these lengths, whose completions begin at `starts`; `sides` rows in a row are one item.

    `lengths` and `starts` have one value a row, `groups` and `sources` one name an item.
    """
    whole, begins = lengths.reshape(-1, sides), starts.reshape(-1, sides)
    fits = whole.max(axis=1, initial=0) <= limit
    answers = whole - begins
    names = np.array(groups, dtype=np.str_)
    return LengthReport(
        noun=NOUNS[sides],
        rows=len(whole),
        kept=int(fits.sum()),
        over=int((~fits).sum()),
        split=0,
        over_by_group=dict(Counter(names[~fits].tolist())),
        sources=dict(Counter(sources)),
        tokens=int(whole[fits].sum()),
        completion_tokens=int(answers[fits].sum()),
        longest=int(whole.max(initial=0)),
        limit=limit,
        spread={
            name: {
                part: _spread(column[names == name])
                for part, column in zip(PARTS[sides], [begins[:, 0], *answers.T], strict=True)
            }
            for name in sorted(set(groups))
        },
    )


def _spread(values: Ints) -> Spread:
    return {f"p{p}": int(np.percentile(values, p)) for p in PERCENTILES} | {"max": int(values.max())}
