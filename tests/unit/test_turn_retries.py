"""A turn that is made again after a crash, a conversation that comes again under its id, a database that is away."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from agentmill.agents.contracts import ExecutorResult, ExecutorTask, Session
from agentmill.agents.executor import Executor
from agentmill.agents.settings import TeamSettings
from agentmill.agents.state import DialogueState
from agentmill.agents.team import Team
from agentmill.domains.base import CHANGED_REPLY, WorldSettings
from agentmill.models.chat import ModelError
from agentmill.plans.sandbox import Sandbox
from tests.clinic import TAKE_PLAN, clinic
from tests.fakes import LEND_PLAN, Library, ScriptedModel, heard, library

AGREES = [heard("lend", confirmed=True)] * 4
SCRIPTS = {
    "understander": [heard("lend", title="Dune", reader="Ana"), *AGREES],
    "planner": ['book = find_book(title="Dune")', *[LEND_PLAN] * 4],
    "evaluator": '{"ok":true,"violations":[]}',
    "explainer": "Here.",
}


@pytest_asyncio.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(processes=1) as sandbox:
        yield sandbox


class Crashing(Executor):
    """Ends after its next change was committed and before anybody hears of it."""

    crashes = 1

    async def run(self, task: ExecutorTask) -> ExecutorResult:
        result = await super().run(task)
        if self.crashes and task.state.confirmed:
            self.crashes -= 1
            raise asyncio.CancelledError  # as when the process ends
        return result


def crashing(sandbox: Sandbox, worlds: list[Library]) -> Team:
    """A team whose Executor crashes once."""
    team = Team.local(library(worlds), ScriptedModel(**SCRIPTS), sandbox, TeamSettings())
    team.executor = Crashing(team.domain, sandbox)
    return team


async def test_a_turn_that_crashed_after_its_commit_books_once_when_it_is_made_again(sandbox: Sandbox) -> None:
    worlds: list[Library] = []
    team = crashing(sandbox, worlds)
    session = await team.start("s", 1)
    await team.turn(session, "Lend Dune to Ana", 1)
    before = session.model_copy(deep=True)
    with pytest.raises(asyncio.CancelledError):
        await team.turn(session, "Yes", 1)
    assert worlds[0].snapshot()["loans"] == [["Dune", "Ana"]]
    assert session == before
    again = await team.turn(session, "Yes", 1)
    assert (again.turn.status, again.turn.turn) == ("answered", 1)
    assert json.loads(again.turn.results_json)["done"] == {"lent": "Dune"}
    assert worlds[0].snapshot()["loans"] == [["Dune", "Ana"]]
    assert worlds[0].snapshot()["books"]["Dune"] == 1


async def test_a_later_conversation_of_the_same_id_and_turn_is_not_taken_for_a_repetition(sandbox: Sandbox) -> None:
    worlds: list[Library] = []
    team = Team.local(library(worlds), ScriptedModel(**SCRIPTS), sandbox, TeamSettings())
    await team.start("s", 1)
    for _ in range(2):
        session = Session(id="s", state=DialogueState(intent="lend", proposed=True))
        session.state.entities.update(title="Dune", reader="Ana")
        team.understander.model = ScriptedModel(understander=AGREES)  # type: ignore[attr-defined]
        team.planner.model = ScriptedModel(planner=LEND_PLAN)  # type: ignore[attr-defined]
        await team.turn(session, "Yes", 1)
    assert worlds[0].snapshot()["loans"] == [["Dune", "Ana"]] * 2


async def test_a_replica_that_takes_over_a_shared_world_goes_on_where_the_other_died(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    shared = WorldSettings(url=f"sqlite:///{tmp_path}/world.db", shared=True)
    task = ExecutorTask(
        session="s",
        plan=TAKE_PLAN.format(patient="Ana"),
        state=DialogueState(intent="visit", confirmed=True),
        key="s:1",
    )
    results = []
    for _ in range(2):  # the second knows nothing of the first
        executor = Executor(clinic(), sandbox, shared)
        await executor.open("s", 1)
        await executor.open("s", 1)
        results.append((await executor.run(task)).results)
    assert results[0] == results[1] == {"free": {"places": 1}, "done": {"taken": True}}
    assert len((await executor.snapshot("s"))["notes"]) == 3


async def test_facts_that_cannot_be_read_any_more_leave_those_from_before(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    team = Team.local(library(), ScriptedModel(**SCRIPTS), sandbox, TeamSettings(max_replans=1))
    session = await team.start("s", 1)
    facts = dict(session.facts)

    async def away(task: ExecutorTask) -> ExecutorResult:
        return ExecutorResult(results={}, error="The database does not answer.", facts=None)

    monkeypatch.setattr(team.executor, "run", away)
    outcome = await team.turn(session, "Lend Dune to Ana", 1)
    assert (outcome.turn.status, outcome.turn.reply) == ("safe_reply", team.domain.safe_reply)
    assert outcome.turn.violations[0] == "EXECUTION"
    assert session.facts == facts


async def test_a_customer_whose_change_cannot_be_explained_is_told_that_it_is_done(sandbox: Sandbox) -> None:
    worlds: list[Library] = []
    down = [ModelError("down")] * 3
    scripts: dict[str, Any] = {**SCRIPTS, "explainer": ["Shall I lend it?", *down]}
    team = Team.local(library(worlds), ScriptedModel(**scripts), sandbox, TeamSettings())
    session = await team.start("s", 1)
    await team.turn(session, "Lend Dune to Ana", 1)
    told = await team.turn(session, "Yes", 1)
    assert worlds[0].snapshot()["loans"] == [["Dune", "Ana"]]
    assert (told.turn.status, told.turn.reply) == ("safe_reply", CHANGED_REPLY)
    assert not session.state.proposed


async def test_a_customer_for_whom_nothing_changed_gets_the_safe_reply(sandbox: Sandbox) -> None:
    scripts: dict[str, Any] = {**SCRIPTS, "explainer": ModelError("down")}
    team = Team.local(library(), ScriptedModel(**scripts), sandbox, TeamSettings())
    session = await team.start("s", 1)
    told = await team.turn(session, "Lend Dune to Ana", 1)
    assert (told.turn.status, told.turn.reply) == ("safe_reply", team.domain.safe_reply)
