"""The gateway's side of the agents: proxies with the agents' own interface over Serve handles.

A proxy answers for a deployment that died, or whose code failed, as an agent does whose model failed: no value, and a
call with status `error`. Invariants: what could not be checked counts as refused; a plan that may have run is sent
again only where the world has outlived the replica and the plan's key keeps it from running twice.
"""

import asyncio
import logging
from typing import Any, TypeVar

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

from agentmill.agents.contracts import (
    AgentCall,
    EvaluatorResult,
    EvaluatorTask,
    ExecutorResult,
    ExecutorTask,
    ExplainerResult,
    ExplainerTask,
    PlannerResult,
    PlannerTask,
    SwitchRefused,
    TextSink,
    UnderstanderResult,
    UnderstanderTask,
    UnknownSession,
    WorldUnavailable,
)
from agentmill.domains.base import Json, Violation, WorldSettings
from agentmill.domains.database import SENTENCES
from agentmill.domains.switching import UnknownSwitch
from agentmill.models.chat import AgentName, ChatReply, ChatRequest, ModelError
from rayserve.answers import EngineAnswer
from rayserve.settings import AgentSettings

_log = logging.getLogger(__name__)
T = TypeVar("T")
UNCHECKED = Violation(code="UNCHECKED", message="The plan could not be checked; plan again.")
GONE = (RayActorError, BackPressureError)


class RemoteAgent:
    """What the four proxies share: a call that is made again when the replica died."""

    def __init__(self, agent: AgentName, handle: DeploymentHandle, settings: AgentSettings) -> None:
        self._agent, self._handle, self._settings = agent, handle, settings

    async def _call(self, method: str, argument: Any) -> Any:
        """The deployment's answer, or the AgentCall that says why there is none."""
        for attempt in range(self._settings.retries + 1):
            try:
                return await getattr(self._handle, method).remote(argument)
            except GONE as error:
                failed = self._failed(error)
            except Exception as error:  # noqa: BLE001 - a bug there: it costs the answer, never the turn
                _log.exception("the %s failed", self._agent)
                return self._failed(error)
            if attempt < self._settings.retries:
                await asyncio.sleep(self._settings.retry_delay_s * 2**attempt)
        return failed

    def _failed(self, error: Exception) -> AgentCall:
        cause = error.cause if isinstance(error, RayTaskError) else error
        text = f"the {self._agent}'s deployment did not answer: {type(cause).__name__}"
        return AgentCall(agent=self._agent, messages=(), output="", status="error", error=text)

    async def complete(self, request: ChatRequest) -> ChatReply:
        """One model call as this agent makes it. See ChatModel."""
        answer = await self._call("complete", request)
        if isinstance(answer, AgentCall):
            raise ModelError(answer.error)
        assert isinstance(answer, EngineAnswer)
        return answer.unwrap()

    async def ping(self) -> None:
        """Raise what is wrong with the deployment, if anything is."""
        await self._handle.ping.remote()


class RemoteUnderstander(RemoteAgent):
    async def run(self, task: UnderstanderTask) -> UnderstanderResult:
        result = await self._call("run", task)
        return UnderstanderResult(understanding=None, calls=(result,)) if isinstance(result, AgentCall) else result


class RemotePlanner(RemoteAgent):
    async def run(self, task: PlannerTask) -> PlannerResult:
        result = await self._call("run", task)
        return PlannerResult(plan=None, calls=(result,)) if isinstance(result, AgentCall) else result


class RemoteEvaluator(RemoteAgent):
    async def run(self, task: EvaluatorTask) -> EvaluatorResult:
        result = await self._call("run", task)
        if isinstance(result, AgentCall):
            return EvaluatorResult(violations=(UNCHECKED,), complexity=0.0, calls=(result,))
        return result


class RemoteExplainer(RemoteAgent):
    """The one proxy that streams. Text that was passed on cannot be taken back, so there is no second attempt then."""

    async def run(self, task: ExplainerTask, stream: TextSink | None = None) -> ExplainerResult:
        if stream is None:
            result = await self._call("run", task)
            return ExplainerResult(reply=None, calls=(result,)) if isinstance(result, AgentCall) else result
        try:
            async for piece in self._handle.options(stream=True).stream.remote(task):
                if isinstance(piece, ExplainerResult):
                    return piece
                await stream(piece)
        except GONE as error:
            return ExplainerResult(reply=None, calls=(self._failed(error),))
        except Exception as error:  # noqa: BLE001 - as above
            _log.exception("the %s failed while it answered", self._agent)
            return ExplainerResult(reply=None, calls=(self._failed(error),))
        raise AssertionError("unreachable: the stream ends with its result")


class RemoteExecutor:
    """The Executor's proxy.

    Private worlds die with their replica: a plan is sent once, and a session whose replica is gone is an unknown one.
    A shared world is a database that outlives it: the session is opened again on the next replica and the plan is
    sent again, under its key.
    """

    def __init__(self, handle: DeploymentHandle, world: WorldSettings, settings: AgentSettings) -> None:
        self._handle, self._settings, self._shared = handle, settings, world.shared
        self._seeds: dict[str, int] = {}  # of the open sessions in a shared world

    async def open(self, session_id: str, world_seed: int) -> Json:
        facts: Json = await self._asked("open", session_id, session_id, world_seed)
        if self._shared:
            self._seeds[session_id] = world_seed
        return facts

    async def run(self, task: ExecutorTask) -> ExecutorResult:
        try:
            result: ExecutorResult | None = await self._asked("run", task.session, task)
        except WorldUnavailable as error:
            return ExecutorResult(results={}, error=str(error), facts=None)
        return _known(result, task.session)

    async def switch(self, session_id: str, name: str) -> Json:
        if self._shared:
            raise SwitchRefused(name)
        facts: Json | str | None = await self._asked("switch", session_id, session_id, name)
        if isinstance(facts, str):
            raise UnknownSwitch(facts)
        return _known(facts, session_id)

    async def snapshot(self, session_id: str) -> Json:
        snapshot: Json | None = await self._asked("snapshot", session_id, session_id)
        return _known(snapshot, session_id)

    async def close(self, session_id: str) -> None:
        self._seeds.pop(session_id, None)
        if not await self._asked("close", session_id, session_id):
            raise UnknownSession(session_id)

    async def ping(self) -> None:
        await self._handle.ping.remote()

    async def _asked(self, method: str, session_id: str, *arguments: Any) -> Any:
        """The replica's answer; None where it does not know the session, and nobody can open it again.

        Raises:
            UnknownSession: when the replica died, and the private world with it.
            WorldUnavailable: when a shared world's replicas keep dying, or none has room for one more request.
        """
        for attempt in range(self._settings.retries + 1 if self._shared else 1):
            if attempt:
                await asyncio.sleep(self._settings.retry_delay_s * 2 ** (attempt - 1))
            try:
                answer = await getattr(self._handle, method).remote(*arguments)
                if answer is None and session_id in self._seeds:  # another replica than the one that opened it
                    await self._handle.open.remote(session_id, self._seeds[session_id])
                    answer = await getattr(self._handle, method).remote(*arguments)
                return answer
            except BackPressureError as error:
                raise WorldUnavailable(SENTENCES["unavailable"]) from error
            except RayTaskError as error:
                if isinstance(error.cause, WorldUnavailable):
                    raise WorldUnavailable(str(error.cause)) from error
                raise
            except RayActorError as error:
                lost = error
        if self._shared:
            raise WorldUnavailable(SENTENCES["unavailable"]) from lost
        raise UnknownSession(session_id) from lost


def _known(value: T | None, session_id: str) -> T:
    if value is None:
        raise UnknownSession(session_id)
    return value
