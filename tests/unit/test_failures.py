"""Whatever fails behind a turn, the customer gets a reply: a model, its code, the domain pack, a deployment."""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from ray.exceptions import RayTaskError

from agentmill.agents.contracts import Session, TurnOutcome, UnknownSession
from agentmill.agents.executor import Executor
from agentmill.agents.settings import TeamSettings
from agentmill.agents.team import Team
from agentmill.domains.base import Rule
from agentmill.models.chat import ChatModel, ChatReply, ChatRequest, ModelError
from agentmill.plans.sandbox import Sandbox
from rayserve.agents import AGENTS, AgentServer
from rayserve.remote import RemoteEvaluator, RemoteExplainer, RemotePlanner, RemoteUnderstander
from rayserve.settings import AgentSettings, EngineSettings, ServedModel
from tests.fakes import ScriptedModel, StreamingScript, heard, library

DOMAIN = library()
RIGHT: dict[str, Any] = {
    "understander": heard("find", title="Dune"),
    "planner": 'book = find_book(title="Dune")',
    "evaluator": '{"ok":true,"violations":[]}',
    "explainer": "Here.",
}
FAILURES: dict[str, Any] = {
    "refusal": ModelError("m refused to answer: no"),
    "bug": RuntimeError("a bug"),
    "malformed": "}{",
    "empty": "",
}
CASES = [(a, f) for a in RIGHT for f in FAILURES if (a, f) != ("explainer", "malformed")]  # any text is a reply
QUICK = AgentSettings(retries=1, retry_delay_s=0.001)


class Silent(ScriptedModel):
    """Never answers the agents in `silent`."""

    def __init__(self, *silent: str, **scripts: Any) -> None:
        super().__init__(**scripts)
        self.silent = silent

    async def complete(self, request: ChatRequest) -> ChatReply:
        if request.agent in self.silent:
            await asyncio.sleep(60)
        return await super().complete(request)


class Wired:
    """A deployment handle whose replica is an object of this process; what it raises comes as Ray passes it on."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def options(self, stream: bool) -> "Wired":
        return self

    def __getattr__(self, method: str) -> Any:
        call = getattr(self._server, method)
        return type("Method", (), {"remote": lambda _, task: self._passed_on(call, task)})()

    def _passed_on(self, call: Any, task: Any) -> Any:
        answer = call(task)
        return answer if hasattr(answer, "__aiter__") else self._awaited(answer)

    async def _awaited(self, answer: Any) -> Any:
        try:
            return await answer
        except Exception as error:
            raise RayTaskError("run", "a traceback", error) from error


def remote_team(model: ChatModel, sandbox: Sandbox, settings: TeamSettings) -> Team:
    """A team whose agents are reached as the gateway reaches them."""

    def handle(agent: Any) -> Any:
        expert = ServedModel(kind="expert")
        server = AgentServer(agent, "automotive", settings, expert, EngineSettings(), QUICK, None)
        server._model, server._agent = model, AGENTS[agent](DOMAIN, model, settings)
        return Wired(server)

    return Team(
        DOMAIN,
        RemoteUnderstander("understander", handle("understander"), QUICK),
        RemotePlanner("planner", handle("planner"), QUICK),
        RemoteEvaluator("evaluator", handle("evaluator"), QUICK),
        Executor(DOMAIN, sandbox),
        RemoteExplainer("explainer", handle("explainer"), QUICK),
        settings,
    )


def local_team(model: ChatModel, sandbox: Sandbox, settings: TeamSettings) -> Team:
    return Team.local(DOMAIN, model, sandbox, settings)


@pytest_asyncio.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(processes=1) as sandbox:
        yield sandbox


async def say(team: Team, stream: Any = None) -> tuple[TurnOutcome, Session]:
    session = await team.start("s", world_seed=0)
    return await team.turn(session, "Where is Dune?", seed=1, stream=stream), session


@pytest.mark.parametrize("make_team", [local_team, remote_team])
@pytest.mark.parametrize(("agent", "failure"), CASES)
async def test_a_model_that_keeps_failing_ends_in_a_reply(
    sandbox: Sandbox, make_team: Any, agent: str, failure: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = ScriptedModel(**{**RIGHT, agent: FAILURES[failure]})
    outcome, session = await say(make_team(model, sandbox, TeamSettings(attempts=2)))
    expected = ("Here.", "answered") if agent == "evaluator" else (DOMAIN.safe_reply, "safe_reply")
    assert (outcome.turn.reply, outcome.turn.status) == expected
    failed = [call.status for call in outcome.calls if call.agent == agent]
    assert failed == ["invalid" if failure in ("malformed", "empty") else "error"] * 2
    assert session.turn == 1
    assert ("a bug" in caplog.text and "Traceback" in caplog.text) == (failure == "bug")


@pytest.mark.parametrize("make_team", [local_team, remote_team])
@pytest.mark.parametrize(("agent", "failure"), CASES)
async def test_a_model_that_fails_once_is_asked_again(
    sandbox: Sandbox, make_team: Any, agent: str, failure: str
) -> None:
    model = ScriptedModel(**{**RIGHT, agent: [FAILURES[failure], RIGHT[agent]]})
    outcome, _ = await say(make_team(model, sandbox, TeamSettings(attempts=2)))
    assert outcome.turn.status == "answered"


@pytest.mark.parametrize("make_team", [local_team, remote_team])
@pytest.mark.parametrize("agent", RIGHT)
async def test_a_model_that_does_not_answer_in_time_ends_in_a_reply(
    sandbox: Sandbox, make_team: Any, agent: str
) -> None:
    settings = TeamSettings(attempts=2, call_timeout_s=0.02)
    outcome, _ = await say(make_team(Silent(agent, **RIGHT), sandbox, settings))
    assert outcome.turn.status == ("answered" if agent == "evaluator" else "safe_reply")
    failed = [call for call in outcome.calls if call.agent == agent]
    assert [call.error for call in failed] == ["no answer within 0.02 s"] * 2


class Breaking(StreamingScript):
    """Streams a few characters and fails as no model should."""

    async def stream(self, request: ChatRequest, sink: Any) -> ChatReply:
        for character in "Hello":
            await sink(character)
        raise KeyError("choices")


@pytest.mark.parametrize("make_team", [local_team, remote_team])
async def test_a_stream_that_fails_unforeseen_goes_on_with_the_safe_reply(sandbox: Sandbox, make_team: Any) -> None:
    pieces: list[str] = []

    async def sink(text: str) -> None:
        pieces.append(text)

    outcome, _ = await say(make_team(Breaking(**RIGHT), sandbox, TeamSettings()), sink)
    assert "".join(pieces) == outcome.turn.reply == f"Hello {DOMAIN.safe_reply}"
    assert outcome.turn.status == "safe_reply"


def _broken_rule(plan: Any, state: Any, facts: Any) -> str | None:
    raise KeyError("hours")


async def test_a_bug_of_the_domain_pack_ends_in_a_reply_and_the_conversation_goes_on(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    broken = replace(DOMAIN, rules=(Rule("BROKEN", "A rule with a bug.", _broken_rule),))
    team = Team.local(broken, ScriptedModel(**RIGHT), sandbox, TeamSettings())
    outcome, session = await say(team)
    assert (outcome.turn.reply, outcome.turn.status) == (DOMAIN.safe_reply, "safe_reply")
    assert "Traceback" in caplog.text and "_broken_rule" in caplog.text
    assert [call.agent for call in outcome.calls] == ["understander", "planner"]
    assert not session.state.proposed
    team.evaluator = Team.local(DOMAIN, ScriptedModel(**RIGHT), sandbox, TeamSettings()).evaluator
    assert (await team.turn(session, "Where is Dune?", seed=1)).turn.status == "answered"


async def test_a_bug_in_a_deployment_is_an_agent_without_an_answer(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    team = remote_team(ScriptedModel(**RIGHT), sandbox, TeamSettings())
    handle: Any = Wired(Failing())
    team.planner = RemotePlanner("planner", handle, QUICK)
    outcome, _ = await say(team)
    assert outcome.turn.status == "safe_reply"
    assert "the planner's deployment did not answer: ZeroDivisionError" in outcome.calls[-1].error
    assert "Traceback" in caplog.text


class Failing:
    async def run(self, task: Any) -> Any:
        raise ZeroDivisionError


async def test_a_world_that_is_gone_is_said(sandbox: Sandbox) -> None:
    team = local_team(ScriptedModel(**RIGHT), sandbox, TeamSettings())
    session = await team.start("s", world_seed=0)
    await team.executor.close("s")
    with pytest.raises(UnknownSession):
        await team.turn(session, "Where is Dune?", seed=1)
