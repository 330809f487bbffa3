"""The proxies and the engine's model: what is asked again after a replica's death, and what is not."""

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.exceptions import BackPressureError

from agentmill.agents.contracts import (
    EvaluatorTask,
    ExecutorResult,
    ExecutorTask,
    ExplainerResult,
    ExplainerTask,
    PlannerResult,
    PlannerTask,
    SwitchRefused,
    UnknownSession,
    WorldUnavailable,
)
from agentmill.agents.state import DialogueState
from agentmill.domains.base import WorldSettings
from agentmill.domains.database import SENTENCES
from agentmill.domains.switching import UnknownSwitch
from agentmill.models.chat import ChatReply, ChatRequest, Message, ModelError
from rayserve.agents import ExecutorServer, ServeModel
from rayserve.answers import EngineAnswer
from rayserve.remote import RemoteEvaluator, RemoteExecutor, RemoteExplainer, RemotePlanner
from rayserve.settings import AgentSettings, EngineSettings

QUICK = AgentSettings(retries=2, retry_delay_s=0.001)
STATE = DialogueState(intent="find")
REQUEST = ChatRequest(agent="planner", messages=(Message(role="user", content="hi"),))
REPLY = ChatReply(text="yes", model="student", prompt_tokens=1, completion_tokens=1, latency_s=0.1)


class Handle:
    """A deployment handle that gives `outcomes` one after the other: values to return, exceptions to raise.

    With `stream=True` an outcome is the list of what the stream yields; an exception in it breaks the stream off.
    """

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.asked = 0
        self.calls: list[tuple[Any, ...]] = []
        self.streaming = False

    def options(self, stream: bool) -> "Handle":
        self.streaming = stream
        return self

    def __getattr__(self, method: str) -> Any:
        return type("Method", (), {"remote": partial(self._remote, method)})

    def _remote(self, method: str, *arguments: Any) -> Any:
        self.asked += 1
        self.calls.append((method, *arguments))
        outcome = self.outcomes.pop(0)
        return self._stream(outcome) if isinstance(outcome, list) else self._answer(outcome)

    async def _answer(self, outcome: Any) -> Any:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _stream(self, outcomes: list[Any]) -> AsyncIterator[Any]:
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
            yield outcome


def model(handle: Handle) -> ServeModel:
    return ServeModel(handle, EngineSettings(timeout_s=5), QUICK)


def sink(into: list[str]) -> Callable[[str], Any]:
    async def take(text: str) -> None:
        into.append(text)

    return take


async def test_a_call_to_an_engine_that_died_is_made_again() -> None:
    handle = Handle(ActorDiedError(), EngineAnswer(reply=REPLY))
    assert await model(handle).complete(REQUEST) == REPLY
    assert handle.asked == 2


async def test_an_engine_that_stays_dead_is_a_model_error_that_may_be_tried_later() -> None:
    handle = Handle(*[ActorDiedError() for _ in range(3)])
    with pytest.raises(ModelError, match="died 3 times") as caught:
        await model(handle).complete(REQUEST)
    assert caught.value.retryable
    assert handle.asked == 3


async def test_a_refusal_by_the_engine_is_a_model_error_and_not_asked_again() -> None:
    handle = Handle(EngineAnswer(error="the prompt is too long", retryable=False))
    with pytest.raises(ModelError, match="too long") as caught:
        await model(handle).complete(REQUEST)
    assert not caught.value.retryable
    assert handle.asked == 1


async def test_an_engine_that_fails_is_a_model_error() -> None:
    failed = RayTaskError("complete", "a traceback", RuntimeError("EngineDeadError"))
    with pytest.raises(ModelError, match="the engine failed: RuntimeError"):
        await model(Handle(failed)).complete(REQUEST)


async def test_a_full_queue_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="queue is full"):
        await model(Handle(BackPressureError(num_queued_requests=9, max_queued_requests=9))).complete(REQUEST)


async def test_a_stream_that_died_before_its_first_word_is_begun_again_and_later_not() -> None:
    said: list[str] = []
    handle = Handle([ActorDiedError()], ["ye", "s", EngineAnswer(reply=REPLY)])
    assert await model(handle).stream(REQUEST, sink(said)) == REPLY
    assert said == ["ye", "s"]
    broken = Handle(["ye", ActorDiedError()])
    with pytest.raises(ModelError, match="died while it answered"):
        await model(broken).stream(REQUEST, sink(said))
    assert broken.asked == 1


async def test_an_agent_whose_replica_died_is_asked_again() -> None:
    handle = Handle(ActorDiedError(), PlannerResult(plan="x = f()"))
    result = await RemotePlanner("planner", handle, QUICK).run(PlannerTask(state=STATE))
    assert result.plan == "x = f()"


async def test_an_agent_that_stays_dead_gives_no_value_and_says_so() -> None:
    handle = Handle(*[ActorDiedError() for _ in range(3)])
    result = await RemotePlanner("planner", handle, QUICK).run(PlannerTask(state=STATE))
    assert result.plan is None
    assert (result.calls[0].status, "ActorDiedError" in result.calls[0].error) == ("error", True)


async def test_a_plan_that_could_not_be_checked_is_refused() -> None:
    handle = Handle(*[ActorDiedError() for _ in range(3)])
    evaluator = RemoteEvaluator("evaluator", handle, QUICK)
    result = await evaluator.run(EvaluatorTask(state=STATE, plan="x = f()"))
    assert [violation.code for violation in result.violations] == ["UNCHECKED"]


TASK = ExecutorTask(session="one", plan="x = f()", state=STATE, key="one:1")
RAN = ExecutorResult(results={}, error=None, facts={})
PRIVATE, SHARED = WorldSettings(), WorldSettings(url="sqlite:////tmp/world.db", shared=True)


async def test_a_plan_in_a_private_world_that_may_have_run_is_never_sent_again() -> None:
    handle = Handle(ActorDiedError())
    with pytest.raises(UnknownSession):
        await RemoteExecutor(handle, PRIVATE, QUICK).run(TASK)
    assert handle.asked == 1


async def test_a_session_that_the_executor_does_not_know_is_unknown() -> None:
    executor = RemoteExecutor(Handle(RAN, None, None, False), PRIVATE, QUICK)
    assert await executor.run(TASK) == RAN
    for action in (executor.run(TASK), executor.snapshot("one"), executor.close("one")):
        with pytest.raises(UnknownSession):
            await action


async def test_a_plan_in_a_shared_world_is_sent_again_to_a_replica_that_opens_the_session_again() -> None:
    handle = Handle({"open": True}, ActorDiedError(), None, {"open": True}, RAN)
    executor = RemoteExecutor(handle, SHARED, QUICK)
    assert await executor.open("one", 7) == {"open": True}
    assert await executor.run(TASK) == RAN
    assert handle.calls == [("open", "one", 7), ("run", TASK), ("run", TASK), ("open", "one", 7), ("run", TASK)]


async def test_a_closed_session_of_a_shared_world_is_not_opened_again() -> None:
    handle = Handle({"open": True}, True, None)
    executor = RemoteExecutor(handle, SHARED, QUICK)
    await executor.open("one", 7)
    await executor.close("one")
    with pytest.raises(UnknownSession):
        await executor.run(TASK)


async def test_a_shared_world_whose_replicas_keep_dying_costs_the_plan_and_not_the_conversation() -> None:
    handle = Handle({"open": True}, *[ActorDiedError() for _ in range(6)])
    executor = RemoteExecutor(handle, SHARED, QUICK)
    await executor.open("one", 7)
    assert await executor.run(TASK) == ExecutorResult(results={}, error=SENTENCES["unavailable"], facts=None)
    with pytest.raises(WorldUnavailable):
        await executor.snapshot("one")


async def test_a_database_that_is_away_is_said_by_the_proxy_as_by_the_executor() -> None:
    away = RayTaskError("open", "a trace", WorldUnavailable("The database does not answer."))
    with pytest.raises(WorldUnavailable, match=r"^The database does not answer\.$"):
        await RemoteExecutor(Handle(away), PRIVATE, QUICK).open("one", 7)
    full = Handle(BackPressureError(num_queued_requests=9, max_queued_requests=9))
    assert (await RemoteExecutor(full, PRIVATE, QUICK).run(TASK)).error == SENTENCES["unavailable"]
    with pytest.raises(RayTaskError):
        await RemoteExecutor(Handle(RayTaskError("open", "a trace", ValueError("twice"))), PRIVATE, QUICK).open(
            "one", 7
        )


async def test_the_explainers_pieces_come_before_its_result() -> None:
    said: list[str] = []
    task = ExplainerTask(utterance="hi", state=STATE, results=None)
    whole = ExplainerResult(reply="Hello there")
    explainer = RemoteExplainer("explainer", Handle(["Hello", " there", whole]), QUICK)
    assert await explainer.run(task, sink(said)) == whole
    assert said == ["Hello", " there"]
    broken = RemoteExplainer("explainer", Handle(["Hello", ActorDiedError()]), QUICK)
    assert (await broken.run(task, sink(said))).reply is None


async def test_a_switch_reaches_the_executors_replica_and_what_refuses_it_comes_back() -> None:
    handle = Handle({"open": True}, "there is no book Hamlet", None, ActorDiedError())
    executor = RemoteExecutor(handle, WorldSettings(), QUICK)
    assert await executor.switch("s", "copy_lost:Dune") == {"open": True}
    assert handle.calls == [("switch", "s", "copy_lost:Dune")]
    with pytest.raises(UnknownSwitch, match="there is no book Hamlet"):
        await executor.switch("s", "copy_lost:Hamlet")
    for _ in range(2):
        with pytest.raises(UnknownSession):
            await executor.switch("s", "copy_lost:Dune")


async def test_a_shared_world_is_not_switched_and_no_replica_is_asked() -> None:
    handle = Handle()
    shared = WorldSettings(url="postgresql+psycopg://host/cars", shared=True)
    with pytest.raises(SwitchRefused):
        await RemoteExecutor(handle, shared, QUICK).switch("s", "copy_lost:Dune")
    assert handle.asked == 0


async def test_the_executors_deployment_answers_with_facts_or_with_what_refuses_a_switch() -> None:
    server = ExecutorServer("automotive", 1, WorldSettings())
    await server.open("s", 1)
    facts = await server.switch("s", "closed_day:friday")
    assert isinstance(facts, dict)
    assert facts["hours"]["friday"] is None
    assert "there is no day someday" in str(await server.switch("s", "closed_day:someday"))
    assert await server.switch("none", "closed_day:friday") is None
    assert (await server.snapshot("s") or {})["hours"]["friday"] is None
