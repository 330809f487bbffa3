"""The plans that `simulate` recorded, each with its complexity and the model evaluator's verdict.

    simulate/calls -> [JudgedPlan], and how many plans got no verdict

Every recorded plan that passed the rules is one row; the same plan in another state is another row. Invariant: a plan
is judged by the last of the attempts to ask about it, and one on which no verdict came is counted, never guessed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from agentmill.agents.evaluator import Verdict
from agentmill.agents.frames import parse_frame
from agentmill.plans.complexity import Measure, halstead
from agentmill.plans.parse import Plan, PlanError, unfenced
from agentmill.runs import Run, RunError
from simulation.tables import iter_parts, prompt_of

_COLUMNS = ["call_id", "sid", "turn", "index", "agent", "messages_json", "output", "status"]


@dataclass(frozen=True)
class JudgedPlan:
    """One recorded plan: the conversation it is from, its complexity, and whether the model evaluator rejected it."""

    sid: str
    complexity: float
    rejected: bool


def recorded_plans(run: Run, measure: Measure) -> tuple[list[JudgedPlan], int]:
    """The plans of `simulate` with a verdict of the model evaluator, and the number of those without one.

    Raises:
        RunError: when the run has no finished stage `simulate`, or holds a plan that this version cannot read.
    """
    if run.completed("simulate") is None:
        raise RunError(
            f"{run.root}: the stage simulate is not finished, so there are no plans to calibrate the gate on; run "
            "`agentmill run CONFIG --until simulate` first"
        )
    complexity = _complexities(measure)
    plans: list[JudgedPlan] = []
    unjudged = 0
    for call in _last_attempts(run.path("simulate", "calls")):
        text = parse_frame(prompt_of(call["messages_json"])[-1]["content"]).get("plan", "")
        try:
            found = complexity(text)
        except PlanError as error:
            raise RunError(
                f"{run.root}: the plan of call {call['call_id']} cannot be read ({error}); it was recorded by another "
                "version of agentmill; run the stage simulate again with this one"
            ) from error
        if call["status"] == "ok":
            verdict = Verdict.model_validate_json(unfenced(call["output"]))
            plans.append(JudgedPlan(call["sid"], found, not verdict.ok))
        else:
            unjudged += 1
    return plans, unjudged


def _last_attempts(folder: Path) -> Iterator[dict[str, Any]]:
    """The evaluator's calls that decided: of several attempts at one plan, which follow each other, the last."""
    before: dict[str, Any] | None = None
    for part in iter_parts(folder, _COLUMNS):
        for call in part.filter(pc.equal(part["agent"], "evaluator")).to_pylist():
            if before is not None and not _is_retry(before, call):
                yield before
            before = call
    if before is not None:
        yield before


def _is_retry(before: dict[str, Any], call: dict[str, Any]) -> bool:
    """Whether `call` tries again what `before` did not answer. Between two plans the Planner speaks."""
    place = (before["sid"], before["turn"], before["index"] + 1)
    return before["status"] != "ok" and (call["sid"], call["turn"], call["index"]) == place


def _complexities(measure: Measure) -> Callable[[str], float]:
    """Plan text -> complexity; the same few hundred plans come again and again."""
    return lru_cache(maxsize=None)(lambda text: halstead(Plan.parse(text)).of(measure))
