"""Per-agent measures on held-out calls: what an output is worth against the refined one (y*).

Rates come with n and a 95 % Wilson interval; F1 over (entity, value) pairs with a bootstrap interval over calls.
An output that cannot be read counts as wrong, never as missing. The measures follow the issue's names:
understander.intent, understander.entities, planner.equivalent, planner.executable, explainer.grounded,
evaluator.agreement.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agentmill.agents.evaluator import Verdict
from agentmill.plans.compare import equivalent
from agentmill.plans.parse import Plan, PlanError, unfenced
from agentmill.runs import wilson

_RESAMPLES = 1000


@dataclass(frozen=True)
class Measure:
    """A value with the number of calls behind it and its 95 % interval."""

    value: float
    n: int
    interval: tuple[float, float]


@dataclass(frozen=True)
class Heard:
    """One understanding against the right one: hits, invented or wrong pairs, missed pairs."""

    intent: bool
    confirmed: bool
    question: bool
    exact: bool
    hits: int
    wrong: int
    missed: int


def rate(hits: Sequence[bool]) -> Measure:
    """The share of true values with its Wilson interval."""
    count, won = len(hits), sum(hits)
    return Measure(won / count if count else 0.0, count, wilson(won, count))


def entity_f1(heard: Sequence[Heard], seed: int = 0) -> Measure:
    """Micro-averaged F1 over (entity, value) pairs: 2 hits / (2 hits + wrong + missed); 1 where there are no pairs."""
    table = np.array([(h.hits, h.wrong, h.missed) for h in heard], dtype=np.int64).reshape(-1, 3)
    if not len(table):
        return Measure(0.0, 0, (0.0, 1.0))
    picks = np.random.default_rng(seed).integers(0, len(table), size=(_RESAMPLES, len(table)))
    samples = _f1(table[picks].sum(axis=1))
    low, high = np.quantile(samples, [0.025, 0.975])
    return Measure(float(_f1(table.sum(axis=0, keepdims=True))[0]), len(table), (float(low), float(high)))


def _f1(sums: "np.ndarray[Any, np.dtype[np.int64]]") -> "np.ndarray[Any, np.dtype[np.float64]]":
    """F1 of each row of (hits, wrong, missed) sums, [rows]."""
    total = 2 * sums[:, 0] + sums[:, 1] + sums[:, 2]
    return np.where(total > 0, 2 * sums[:, 0] / np.maximum(total, 1), 1.0)


def compare_understanding(reference: str, output: str) -> Heard:
    """Compare two understandings. Values are equal only with the same type: "2019" is not 2019."""
    right = json.loads(reference)
    expected = _pairs(right.get("entities"))
    said = _object(output)
    if said is None:
        return Heard(False, False, False, False, 0, 0, len(expected))
    found = _pairs(said.get("entities"))
    return Heard(
        intent=said.get("intent") == right.get("intent"),
        confirmed=said.get("confirmed") is right.get("confirmed"),
        question=said.get("question") == right.get("question"),
        exact=found == expected,
        hits=len(found & expected),
        wrong=len(found - expected),
        missed=len(expected - found),
    )


def same_plan(reference: str, output: str) -> bool:
    """Whether two plans are equivalent up to the names of their variables."""
    try:
        return equivalent(Plan.parse(reference), Plan.parse(output))
    except PlanError:
        return False


def same_verdict(reference: str, output: str) -> bool:
    """Whether two Evaluators agree: the same violations, in any order."""
    try:
        right, said = (Verdict.model_validate_json(unfenced(text)) for text in (reference, output))
    except ValueError:
        return False
    return right.ok == said.ok and set(right.violations) == set(said.violations)


def _pairs(entities: object) -> set[tuple[str, str]]:
    pairs = entities.items() if isinstance(entities, dict) else ()
    return {(str(name), json.dumps(value, sort_keys=True)) for name, value in pairs}


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(unfenced(text))
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
