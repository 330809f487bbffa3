"""The complexity gate in a turn: who is asked, what is skipped, and shadow verdicts that change and delay nothing."""

import asyncio
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio

from agentmill.agents.contracts import EvaluatorTask, TurnOutcome
from agentmill.agents.evaluator import Evaluator
from agentmill.agents.gate import GateCounts, settled
from agentmill.agents.settings import TeamSettings
from agentmill.agents.state import DialogueState
from agentmill.agents.team import Team
from agentmill.models.chat import ChatReply, ChatRequest, ModelError
from agentmill.plans.complexity import halstead
from agentmill.plans.parse import Plan
from agentmill.plans.sandbox import Sandbox
from agentmill.runs import wilson
from simulation.tables import turn_row
from tests.fakes import ScriptedModel, heard, library

FIND = 'book = find_book(title="Dune")'
OK, BAD = '{"ok":true,"violations":[]}', '{"ok":false,"violations":["NEEDLESS_CALL"]}'
SCRIPT: dict[str, Any] = {
    "understander": heard("find", title="Dune"), "planner": FIND, "evaluator": OK, "explainer": "Here.",
}  # fmt: skip
SKIP_ALL = {"complexity_threshold": 1000.0}
SHADOW_ALL = {**SKIP_ALL, "shadow_share": 1.0}
Say = Callable[..., Awaitable[TurnOutcome]]


@pytest_asyncio.fixture
async def say() -> AsyncIterator[Say]:
    async with Sandbox(processes=1) as sandbox:

        async def say(model: ScriptedModel | None = None, seed: int = 7, **settings: Any) -> TurnOutcome:
            team = Team.local(library(), model or ScriptedModel(**SCRIPT), sandbox, TeamSettings(**settings))
            session = await team.start("s1", 0)
            return await team.turn(session, "Where is Dune?", seed)

        yield say


async def test_a_plan_above_the_threshold_is_asked_about_and_one_at_it_is_skipped(say: Say) -> None:
    volume = halstead(Plan.parse(FIND)).volume
    assert (await say(complexity_threshold=volume - 0.01)).turn.gate == "asked"
    skipped = await say(complexity_threshold=volume)
    assert skipped.turn.gate == "skipped"
    assert [call.agent for call in skipped.calls] == ["understander", "planner", "explainer"]
    assert turn_row(skipped.turn)["gate"] == "skipped"


async def test_the_gate_compares_the_measure_that_is_set(say: Say) -> None:
    effort = halstead(Plan.parse(FIND)).effort
    outcome = await say(complexity_measure="effort", complexity_threshold=effort)
    assert (outcome.turn.gate, outcome.turn.complexity) == ("skipped", effort)


async def test_a_plan_that_a_rule_refused_and_a_turn_without_a_plan_never_reach_the_gate(say: Say) -> None:
    refused = await say(ScriptedModel(**{**SCRIPT, "planner": "x = burn_book()"}), **SHADOW_ALL)
    silent = await say(ScriptedModel(**{**SCRIPT, "understander": heard("small_talk")}), **SHADOW_ALL)
    assert [outcome.turn.gate for outcome in (refused, silent)] == ["none", "none"]
    assert refused.shadow is silent.shadow is None


@pytest.mark.parametrize(
    ("script", "mark", "calls"),
    [(OK, "shadow_ok", 1), (BAD, "shadow_rejected", 1), ("?", "shadow_unjudged", 2)],
)
async def test_a_shadow_verdict_is_recorded_and_changes_nothing(say: Say, script: str, mark: str, calls: int) -> None:
    outcome = await settled(await say(ScriptedModel(**{**SCRIPT, "evaluator": script}), attempts=2, **SHADOW_ALL))
    assert (outcome.turn.gate, outcome.turn.reply, outcome.turn.replans) == (mark, "Here.", 0)
    assert outcome.turn.violations == ()
    agents = ["understander", "planner", *["evaluator"] * calls, "explainer"]
    assert [call.agent for call in outcome.calls] == agents
    assert outcome.shadow is None


async def test_a_turn_does_not_wait_for_its_shadow(say: Say) -> None:
    leave = asyncio.Event()

    class Slow(ScriptedModel):
        async def complete(self, request: ChatRequest) -> ChatReply:
            if request.agent == "evaluator":
                await leave.wait()
            return await super().complete(request)

    outcome = await say(Slow(**SCRIPT), **SHADOW_ALL)
    assert (outcome.turn.reply, outcome.turn.gate) == ("Here.", "shadow_unjudged")
    assert TurnOutcome.model_validate_json(outcome.model_dump_json()).shadow is None
    leave.set()
    assert (await settled(outcome)).turn.gate == "shadow_ok"


async def test_the_shadow_of_a_turn_that_breaks_off_is_given_up(say: Say) -> None:
    shadows: list[asyncio.Task[Any]] = []

    class Broken(ScriptedModel):
        async def complete(self, request: ChatRequest) -> ChatReply:
            if request.agent == "evaluator":
                shadows.append(asyncio.current_task())  # type: ignore[arg-type]
                await asyncio.sleep(60)
            if request.agent == "explainer":
                await asyncio.sleep(0)
                raise asyncio.CancelledError
            return await super().complete(request)

    with pytest.raises(asyncio.CancelledError):
        await say(Broken(**SCRIPT), **SHADOW_ALL)
    await asyncio.wait(shadows, timeout=5)
    assert shadows[0].cancelled()


async def test_a_model_that_is_down_leaves_the_shadow_unjudged_and_the_turn_answered(say: Say) -> None:
    outcome = await settled(await say(ScriptedModel(**{**SCRIPT, "evaluator": ModelError("down")}), **SHADOW_ALL))
    assert (outcome.turn.status, outcome.turn.gate) == ("answered", "shadow_unjudged")


async def test_the_seed_draws_a_share_of_the_skipped_plans_and_the_same_ones_again(say: Say) -> None:
    async def drawn() -> list[bool]:
        return [(await say(seed=seed, **SKIP_ALL, shadow_share=0.25)).shadow is not None for seed in range(200)]

    first = await drawn()
    assert first == await drawn()
    assert 30 <= sum(first) <= 70
    assert (await say(**SKIP_ALL)).shadow is None


async def test_a_shadow_question_asks_the_model_however_simple_the_plan_is() -> None:
    evaluator = Evaluator(library(), ScriptedModel(evaluator=BAD), TeamSettings(complexity_threshold=None))
    state = DialogueState(intent="find", entities={"title": "Dune"})
    task = EvaluatorTask(state=state, plan=FIND, shadow=True)
    result = await evaluator.run(pickle.loads(pickle.dumps(task)))
    assert result.judged and not result.skipped
    assert [found.code for found in result.violations] == ["NEEDLESS_CALL"]
    assert pickle.loads(pickle.dumps(result)) == result
    assert (await evaluator.run(task.model_copy(update={"shadow": False}))).skipped


def test_rates_are_over_what_was_counted_and_unjudged_shadows_are_apart() -> None:
    marks: dict[Any, int] = {
        "asked": 20, "skipped": 70, "shadow_ok": 6, "shadow_rejected": 2, "shadow_unjudged": 2, "none": 9,
    }  # fmt: skip
    rates = GateCounts(mark for mark, n in marks.items() for _ in range(n)).rates()
    assert (rates["skipped"].value, rates["skipped"].n) == (0.8, 100)
    assert (rates["rejected_of_skipped"].value, rates["rejected_of_skipped"].n) == (0.25, 8)
    assert rates["rejected_of_skipped"].interval == wilson(2, 8)
    assert rates["miss_rate"].value == pytest.approx(0.2)
    assert rates["miss_rate"].interval == pytest.approx(tuple(0.8 * end for end in wilson(2, 8)))
    assert (rates["shadow_unjudged"].value, rates["shadow_unjudged"].n) == (0.2, 10)


def test_what_was_not_counted_has_no_rate() -> None:
    assert GateCounts(["none", "none"]).rates() == {}
    assert list(GateCounts(["asked", "skipped"]).rates()) == ["skipped"]
