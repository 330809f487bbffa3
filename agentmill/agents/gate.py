"""What becomes of plans at the complexity gate: shadow verdicts awaited, marks counted, the miss rate.

A plan that passed the rules is `asked` about or skipped; a share of the skipped ones is judged in the shadow. A miss
is a plan that the model evaluator would have rejected and the gate skipped. Invariant: a rate is given only where
something was counted, and shadow plans without a verdict are told apart, never taken for accepted or rejected.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from agentmill.agents.contracts import EvaluatorResult, TurnOutcome
from agentmill.records import GateMark
from agentmill.runs import wilson


class Share(NamedTuple):
    """A rate, the number of plans behind it and its 95 % interval."""

    value: float
    n: int
    interval: tuple[float, float]


async def settled(outcome: TurnOutcome) -> TurnOutcome:
    """The outcome with its shadow verdict, once that is there: the gate's mark, and the calls where they belong."""
    if outcome.shadow is None:
        return outcome
    verdict = await outcome.shadow.verdict
    place = outcome.shadow.place
    return TurnOutcome(
        turn=outcome.turn.model_copy(update={"gate": shadow_mark(verdict)}),
        calls=(*outcome.calls[:place], *verdict.calls, *outcome.calls[place:]),
    )


def shadow_mark(verdict: EvaluatorResult) -> GateMark:
    """The mark of a skipped plan that was judged in the shadow."""
    if not verdict.judged:
        return "shadow_unjudged"
    return "shadow_rejected" if verdict.violations else "shadow_ok"


class GateCounts:
    """Plans by what became of them at the gate."""

    def __init__(self, marks: Iterable[GateMark] = ()) -> None:
        self._marks = Counter[str](marks)

    def add(self, mark: GateMark) -> None:
        """Count one more plan."""
        self._marks[mark] += 1

    @property
    def skipped(self) -> int:
        """Plans that the model evaluator had no say in, those of the shadow sample included."""
        return self._marks["skipped"] + self.shadowed

    @property
    def shadowed(self) -> int:
        return self.judged + self._marks["shadow_unjudged"]

    @property
    def judged(self) -> int:
        return self._marks["shadow_ok"] + self._marks["shadow_rejected"]

    def rates(self) -> dict[str, Share]:
        """The gate's rates by the last part of their figure's name.

        `rejected_of_skipped` is the share of the judged shadow sample that was rejected, with its Wilson interval.
        `miss_rate` is that share of all plans at the gate, as the calibration bounds it: both ends of the interval are
        multiplied with the skipped share, whose own error is small beside that of the sample.
        """
        gated = self._marks["asked"] + self.skipped
        rates = {"skipped": (self.skipped, gated), "shadow_unjudged": (self.shadowed - self.judged, self.shadowed)}
        rates["rejected_of_skipped"] = (self._marks["shadow_rejected"], self.judged)
        shares = {name: Share(part / n, n, wilson(part, n)) for name, (part, n) in rates.items() if n}
        if self.judged:
            weight, rejected = shares["skipped"].value, shares["rejected_of_skipped"]
            low, high = rejected.interval
            shares["miss_rate"] = Share(weight * rejected.value, rejected.n, (weight * low, weight * high))
        return shares

    def shown(self) -> dict[str, Any]:
        """The counts by mark and the rates, as JSON."""
        plans = {mark: count for mark, count in sorted(self._marks.items()) if mark != "none"}
        return {"plans": plans, "rates": {name: share._asdict() for name, share in self.rates().items()}}
