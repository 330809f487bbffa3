"""Calibrating the Evaluator's complexity gate: the plans of `simulate` and their verdicts -> a threshold with a bound.

A miss is a plan that the model evaluator rejects and the gate skips, because its complexity is not above the threshold.
Its rate is over all plans at the gate, which are those that passed the rules: P(skipped and rejected).

The threshold is found by fixed-sequence testing (Learn then Test, Angelopoulos et al. 2021): from the lowest
threshold upwards, each is accepted while the exact binomial (Clopper-Pearson) upper bound of its miss rate, one-sided
at `confidence`, is at most `max_miss_rate`; the first that is not ends the search. The misses can only grow with the
threshold, so a wrong one can only be chosen if the bound fails at one single threshold, the first whose true rate is
too high: with probability `confidence` the chosen one's true rate is at most `max_miss_rate`, however many were tried
and although the candidates are the recorded complexities themselves.

Two assumptions stand beside that. Plans are taken for independent, but those of one conversation are not quite: the
bound is therefore checked by a bootstrap over whole conversations, and a difference is told. And the plans are the
teacher's: what the gate misses of another model's plans is measured in shadow mode.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from agentmill.config import Strict, UserError
from agentmill.plans.complexity import Measure
from agentmill.runs import Run, atomic_write_text, wilson
from simulation.judged import JudgedPlan

FILE = ("gate", "calibration.json")
_RESAMPLES = 1000


class GateSettings(Strict):
    """What the gate may miss, and with which confidence. `shadow_share` of what it skips is judged when it serves."""

    max_miss_rate: float = Field(0.01, gt=0.0, lt=1.0)
    confidence: float = Field(0.95, ge=0.5, lt=1.0)
    measure: Measure = "volume"
    shadow_share: float = Field(0.05, ge=0.0, le=1.0)


class NotCalibrated(UserError):
    """The recorded plans do not allow a bound; the message says why and what to do."""


class Point(BaseModel):
    """What one threshold would do. `interval` is the two-sided 95 % one, `bound` the one-sided one that is tested."""

    model_config = ConfigDict(frozen=True)

    threshold: float
    skipped: int
    missed: int
    miss_rate: float
    interval: tuple[float, float]
    bound: float


class Calibration(BaseModel):
    """The calibration of one run. `open_because` says why there is none: then the gate is open and all are asked.

    `bootstrap_bound` is the same one-sided bound by resampling conversations; it is 0 where nothing was missed.
    `inputs` is the digest of the finished stage `simulate`.
    """

    model_config = ConfigDict(frozen=True)

    inputs: str
    measure: Measure
    max_miss_rate: float
    confidence: float
    plans: int = 0
    rejected: int = 0
    unjudged: int = 0
    conversations: int = 0
    chosen: Point | None = None
    bootstrap_bound: float = 0.0
    open_because: str = ""
    curve: tuple[Point, ...] = ()

    @property
    def threshold(self) -> float:
        """The threshold for serving; 0 asks about every plan."""
        return self.chosen.threshold if self.chosen else 0.0

    @property
    def saved(self) -> float:
        """The share of the model evaluator's calls that the gate saves."""
        return self.chosen.skipped / self.plans if self.chosen else 0.0

    @property
    def rejections_missed(self) -> float:
        """The share of the rejected plans that the gate skips."""
        return self.chosen.missed / self.rejected if self.chosen else 0.0


def calibrate(
    plans: Sequence[JudgedPlan],
    settings: GateSettings,
    *,
    inputs: str,
    unjudged: int = 0,
    asked_above: float | None = 0.0,
) -> Calibration:
    """Choose the threshold. `asked_above` is the gate that the plans were recorded with: 0, or not all are there.

    Raises:
        NotCalibrated: when the plans do not allow the bound.
    """
    rejected = sum(plan.rejected for plan in plans)
    _require_enough(len(plans), rejected, unjudged, settings, asked_above)
    curve = miss_curve(plans, settings.confidence)
    chosen = choose(curve, settings.max_miss_rate)
    return Calibration(
        inputs=inputs,
        measure=settings.measure,
        max_miss_rate=settings.max_miss_rate,
        confidence=settings.confidence,
        plans=len(plans),
        rejected=rejected,
        unjudged=unjudged,
        conversations=len({plan.sid for plan in plans}),
        chosen=chosen,
        bootstrap_bound=_bootstrap_bound(plans, chosen.threshold, settings.confidence),
        curve=curve,
    )


def open_gate(settings: GateSettings, *, inputs: str, because: str) -> Calibration:
    """The calibration of a run whose plans allow none: everything is asked, and `because` says why."""
    return Calibration(
        inputs=inputs,
        measure=settings.measure,
        max_miss_rate=settings.max_miss_rate,
        confidence=settings.confidence,
        open_because=because,
    )


def miss_curve(plans: Sequence[JudgedPlan], confidence: float) -> tuple[Point, ...]:
    """A point for each complexity that was recorded, ascending: what a gate with that threshold skips and misses."""
    from scipy.stats import beta

    n = len(plans)
    complexity = np.array([plan.complexity for plan in plans])
    rejected = np.array([plan.rejected for plan in plans])
    thresholds, place = np.unique(complexity, return_inverse=True)
    skipped = np.cumsum(np.bincount(place, minlength=len(thresholds)))
    missed = np.cumsum(np.bincount(place, weights=rejected, minlength=len(thresholds))).astype(int)

    def upper(level: float) -> Any:  # Clopper and Pearson 1934; 1 where every plan is missed
        return np.where(missed < n, beta.ppf(level, missed + 1, np.maximum(n - missed, 1)), 1.0)

    low = np.where(missed > 0, beta.ppf(0.025, np.maximum(missed, 1), n - missed + 1), 0.0)
    columns = zip(thresholds, skipped, missed, low, upper(0.975), upper(confidence), strict=True)
    return tuple(
        Point(
            threshold=float(t), skipped=int(s), missed=int(m), miss_rate=int(m) / n, interval=(float(a), float(b)),
            bound=float(bound),
        )
        for t, s, m, a, b, bound in columns
    )  # fmt: skip


def choose(curve: Sequence[Point], max_miss_rate: float) -> Point:
    """The last point, from the lowest threshold upwards, before the first whose bound is too high; 0 skips nothing."""
    chosen = Point(threshold=0.0, skipped=0, missed=0, miss_rate=0.0, interval=(0.0, 0.0), bound=0.0)
    for point in curve:
        if point.bound > max_miss_rate:
            break
        chosen = point
    return chosen


def needed_plans(settings: GateSettings) -> int:
    """The fewest plans from which the bound can follow, if none of them is missed."""
    return math.ceil(math.log(1.0 - settings.confidence) / math.log(1.0 - settings.max_miss_rate))


def write_calibration(run: Run, calibration: Calibration) -> Path:
    """Write the run's calibration, atomically, and record `gate.*`."""
    path = run.path(*FILE)
    atomic_write_text(path, calibration.model_dump_json(indent=2) + "\n")
    run.forget("gate")
    unit = f"Halstead {calibration.measure}"
    if calibration.chosen is None:
        run.record("gate.threshold", calibration.threshold, unit=unit)
        run.record("gate.open_because", calibration.open_because)
        return path
    run.record("gate.threshold", calibration.threshold, n=calibration.plans, unit=unit)
    chosen, n = calibration.chosen, calibration.plans
    run.record("gate.saved", calibration.saved, n=n, interval=wilson(chosen.skipped, n))
    run.record("gate.miss_rate", chosen.miss_rate, n=n, interval=chosen.interval)
    run.record("gate.miss_rate.bound", chosen.bound, n=n)
    missed = wilson(chosen.missed, calibration.rejected)
    run.record("gate.rejections_missed", calibration.rejections_missed, n=calibration.rejected, interval=missed)
    run.record("gate.unjudged", calibration.unjudged, unit="plans")
    return path


def read_calibration(run: Run) -> Calibration | None:
    """The run's calibration, None where it has none."""
    path = run.root.joinpath(*FILE)
    return Calibration.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else None


def _require_enough(n: int, rejected: int, unjudged: int, settings: GateSettings, asked_above: float | None) -> None:
    if asked_above != 0.0:
        raise NotCalibrated(
            f"system.complexity_threshold={asked_above}: the plans at or below it were never put to the model "
            "evaluator, so nobody knows which of them it would have rejected; simulate with "
            "system.complexity_threshold=0"
        )
    needed = needed_plans(settings)
    if n < needed:
        raise NotCalibrated(
            f"gate.max_miss_rate={settings.max_miss_rate:g} at confidence {settings.confidence:g} needs at least "
            f"{needed:,} judged plans, because fewer bound no rate that low; this run has {n:,} ({unjudged:,} more "
            "without a verdict); simulate more conversations, or allow a higher max_miss_rate"
        )
    if not rejected:
        raise NotCalibrated(
            f"the model evaluator rejected none of {n:,} plans that passed the rules, so nothing can be learnt about "
            "what a gate would miss; simulate more conversations, or a teacher that errs "
            "(simulate.teacher.mistake_rate)"
        )


def _bootstrap_bound(plans: Sequence[JudgedPlan], threshold: float, confidence: float) -> float:
    """The `confidence` quantile of the miss rate when whole conversations are drawn again, with replacement."""
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for plan in plans:
        sums[plan.sid][0] += plan.rejected and plan.complexity <= threshold
        sums[plan.sid][1] += 1
    table = np.array(list(sums.values()))
    rng = np.random.default_rng(0)
    drawn = [table[rng.integers(0, len(table), len(table))].sum(axis=0) for _ in range(_RESAMPLES)]
    return float(np.quantile([missed / n for missed, n in drawn], confidence))
