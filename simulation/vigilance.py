"""How watchful the Evaluator is: a Planner that errs at a known rate, and what becomes of each of its mistakes.

`watch` plays scenarios in process. Planner and Evaluator are wrapped: beside every plan stands the one that the same
Planner gives for the same prompt without errors, and where the two are not equivalent the plan is a mistake. A mistake
is covered by a rule where the checks in code name a violation; what is left only the model evaluator can see.
Invariant: the watching changes nothing in the conversation.

A rule may refuse what even a Planner without errors says, because the rule is how it learns of a limit of the house
(a discount, a term, opening hours): told so, it plans something else. Such a plan is corrected, and counted apart: it
is neither a mistake nor a false alarm. A false alarm is a refusal that the Planner without errors would not heed, or
one by the model alone.

A mistake is caught when the Evaluator returns a violation, so that the plan never runs. It is replanned when another
plan followed in that turn; where the turn had no replan left, the safe reply follows and it counts as caught only.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from agentmill.agents.contracts import EvaluatorResult, EvaluatorTask, PlannerResult, PlannerTask
from agentmill.agents.evaluator import Evaluator
from agentmill.agents.planner import Planner
from agentmill.agents.settings import TeamSettings
from agentmill.agents.team import Team
from agentmill.config import UserError
from agentmill.domains.base import ALL, Domain
from agentmill.models.chat import ChatModel
from agentmill.plans.check import check
from agentmill.plans.compare import equivalent
from agentmill.plans.parse import Plan
from agentmill.plans.sandbox import Sandbox
from simulation.metrics import Measure, rate
from simulation.models import ModelSettings
from simulation.rollout import converse

SPLIT = "heldout"


@dataclass
class WatchedPlan:
    """One plan of the erring Planner, what it should have said, and what became of it."""

    said: str
    right: str
    last_chance: bool
    covered: bool = False
    refused: bool = False
    replanned: bool = False
    corrected: bool = False

    @property
    def mistaken(self) -> bool:
        return not equivalent(Plan.parse(self.said), Plan.parse(self.right))


@dataclass(frozen=True)
class Vigilance:
    """The rates, each with its n (0: not measured) and 95 % Wilson interval; `mistakes` and `plans` are counts.

    `recall` is over the mistakes that a rule covers and must be 1; `model_recall` over those that only the model can
    see. `replanned` is over the caught mistakes whose turn had a replan left. `corrected` is over the plans that the
    Planner without errors makes too, `false_alarms` over those of them that were not corrected.
    """

    conversations: int
    plans: int
    mistakes: int
    recall: Measure
    model_recall: Measure
    replanned: Measure
    corrected: Measure
    false_alarms: Measure


async def watch(
    domain: Domain,
    *,
    scenarios: int,
    mistake_rate: float,
    system: TeamSettings | None = None,
    seed: int = 0,
    mix: str = ALL,
    concurrency: int = 16,
) -> Vigilance:
    """Play held-out scenarios with a Planner that errs, everybody else without errors, and measure the Evaluator.

    Raises:
        UserError: when the domain has no expert, which is what errs at a known rate, or no such mix of scenarios.
    """
    if domain.expert is None:
        raise UserError(
            f"domain={domain.name} has no expert; the Evaluator's recall needs a Planner whose mistakes are known; "
            "give the domain pack an expert"
        )
    right, erring = domain.expert(0.0), domain.expert(mistake_rate)
    system = system or TeamSettings()
    free = asyncio.Semaphore(concurrency)
    draw = domain.source(mix)
    seen: list[list[WatchedPlan]] = []
    async with Sandbox(1) as sandbox:

        async def play(number: int) -> None:
            watched: list[WatchedPlan] = []
            team = watched_team(domain, right, erring, sandbox, system, watched)
            async with free:
                await converse(team, right, drawn[number], sid=f"w{number}", seed=seed, speaker=ModelSettings())
            seen.append(watched)

        drawn = draw(scenarios, seed, SPLIT)
        await asyncio.gather(*map(play, range(len(drawn))))
    return measured([plan for watched in seen for plan in watched], len(drawn))


def watched_team(
    domain: Domain,
    right: ChatModel,
    erring: ChatModel,
    sandbox: Sandbox,
    system: TeamSettings,
    watched: list[WatchedPlan],
) -> Team:
    """A team on the model `right` with a Planner on `erring`, whose plans are put into `watched`; one conversation."""
    team = Team.local(domain, right, sandbox, system)
    unerring = Planner(domain, right, system)
    team.planner = _WatchedPlanner(Planner(domain, erring, system), unerring, watched)
    team.evaluator = _WatchedEvaluator(Evaluator(domain, right, system), unerring, watched)
    return team


def measured(plans: Sequence[WatchedPlan], conversations: int) -> Vigilance:
    """The rates of plans that were watched."""
    mistakes = [plan for plan in plans if plan.mistaken]
    right = [plan for plan in plans if not plan.mistaken]
    return Vigilance(
        conversations=conversations,
        plans=len(plans),
        mistakes=len(mistakes),
        recall=rate([plan.refused for plan in mistakes if plan.covered]),
        model_recall=rate([plan.refused for plan in mistakes if not plan.covered]),
        replanned=rate([plan.replanned for plan in mistakes if plan.refused and not plan.last_chance]),
        corrected=rate([plan.corrected for plan in right]),
        false_alarms=rate([plan.refused for plan in right if not plan.corrected]),
    )


class _WatchedPlanner:
    """The erring Planner; beside each of its plans stands the right one."""

    def __init__(self, erring: Planner, right: Planner, watched: list[WatchedPlan]) -> None:
        self.erring, self.right, self.watched = erring, right, watched
        self.replan = 0

    async def run(self, task: PlannerTask) -> PlannerResult:
        if task.refused is None:
            self.replan = 0
        else:
            self.replan += 1
            self.watched[-1].replanned = self.watched[-1].refused
        said, right = await self.erring.run(task), await self.right.run(task)
        if said.plan is not None and right.plan is not None:
            last_chance = self.replan == self.erring.settings.max_replans
            self.watched.append(WatchedPlan(said=said.plan, right=right.plan, last_chance=last_chance))
        return said


class _WatchedEvaluator:
    """The Evaluator; what it says of a plan is noted beside what the checks in code say."""

    def __init__(self, evaluator: Evaluator, right: Planner, watched: list[WatchedPlan]) -> None:
        self.evaluator, self.right, self.watched = evaluator, right, watched

    async def run(self, task: EvaluatorTask) -> EvaluatorResult:
        result = await self.evaluator.run(task)
        if task.shadow:  # it changes nothing, so it catches nothing
            return result
        plan = self.watched[-1]
        assert plan.said == task.plan, "the Evaluator judges the plan that the Planner has just made"
        plan.refused = bool(result.violations)
        plan.covered = bool(check(Plan.parse(task.plan), self.evaluator.domain, task.state, task.facts))
        plan.corrected = plan.covered and await self._heeded(task, result)
        return result

    async def _heeded(self, task: EvaluatorTask, result: EvaluatorResult) -> bool:
        """Whether the Planner without errors, told of the violations, makes another plan."""
        told = PlannerTask(state=task.state, refused=task.plan, violations=result.violations, seed=task.seed)
        again = await self.right.run(told)
        return again.plan is not None and not equivalent(Plan.parse(again.plan), Plan.parse(task.plan))
