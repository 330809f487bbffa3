"""Is one model better than another? Both met the same scenarios and the same calls, so they are compared in pairs.

Only pairs on which the two differ say anything: McNemar's exact test asks whether `gained` (this model right, the other
wrong) and `lost` could come from a fair coin. The difference of the two rates has the interval of Agresti and Min
(2005, "Simple improved confidence intervals for comparing matched proportions"), the Wald interval with half a pair
added to each of the four cells. Success of whole conversations is the one question that was asked beforehand, and its p
stands as it is; those of the agents' measures, several that are looked at together, are adjusted by Holm's method. A
difference is claimed only where p is below ALPHA.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

from agentmill.runs import Run
from simulation.tables import read_folder, read_table

ALPHA = 0.05
SUCCESS = "success"

Marks = dict[str, dict[str, bool]]  # measure -> scenario or call -> whether it was right


@dataclass(frozen=True)
class Paired:
    """What changed from the other model to this one on `n` pairs that both met; `p` is adjusted where it must be."""

    n: int
    gained: int
    lost: int
    p: float

    @property
    def difference(self) -> float:
        """This model's rate minus the other's, over the pairs."""
        return (self.gained - self.lost) / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the difference (Agresti and Min 2005)."""
        n, gained, lost = self.n + 2, self.gained + 0.5, self.lost + 0.5
        middle = (gained - lost) / n
        half = NormalDist().inv_cdf(0.975) * math.sqrt(gained + lost - (gained - lost) ** 2 / n) / n
        return max(-1.0, middle - half), min(1.0, middle + half)


def compare(run: Run, model: str, other: str) -> dict[str, Paired]:
    """Every measure that two finished evaluations of a run share, by its figure's name."""
    mine, theirs = _marks(run, model), _marks(run, other)
    counts = {}
    for measure in mine:
        both = mine[measure].keys() & theirs.get(measure, {}).keys()
        if both:
            gained = sum(mine[measure][key] and not theirs[measure][key] for key in both)
            lost = sum(theirs[measure][key] and not mine[measure][key] for key in both)
            counts[measure] = (len(both), gained, lost)
    p = {measure: mcnemar(gained, lost) for measure, (_, gained, lost) in counts.items()}
    p |= holm({measure: one for measure, one in p.items() if measure != SUCCESS})
    return {measure: Paired(*count, p[measure]) for measure, count in counts.items()}


def record(run: Run, model: str, other: str) -> dict[str, Paired]:
    """Record `evaluate.<model>.versus.<other>.<measure>`, the difference, and its `.p`; returns what was found."""
    found = compare(run, model, other)
    for measure, paired in found.items():
        name = f"evaluate.{model}.versus.{other}.{measure}"
        run.record(name, paired.difference, n=paired.n, interval=paired.interval)
        run.record(f"{name}.p", paired.p, n=paired.gained + paired.lost)
    return found


def mcnemar(gained: int, lost: int) -> float:
    """The two-sided p of McNemar's exact test; 1 where no pair differs."""
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """p values adjusted for being several (Holm 1979), by the same names."""
    adjusted, highest = dict[str, float](), 0.0
    for rank, name in enumerate(sorted(p, key=p.__getitem__)):
        highest = max(highest, min(1.0, p[name] * (len(p) - rank)))
        adjusted[name] = highest
    return adjusted


def _marks(run: Run, model: str) -> Marks:
    folder = run.root / "evaluate" / model
    played = read_folder(folder / "conversations", ["scenario", "success"]).to_pylist()
    marks: Marks = {SUCCESS: {row["scenario"]: row["success"] for row in played}}
    for row in read_table(folder / "agents.parquet", ["call_id", "agent", "marks_json"]).to_pylist():
        for name, mark in json.loads(row["marks_json"]).items():
            marks.setdefault(f"{row['agent']}.{name}", {})[row["call_id"]] = mark
    return marks
