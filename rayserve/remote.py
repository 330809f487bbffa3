"""The gateway's side of the agents: proxies with the agents' own interface over Serve handles.

A proxy answers for a deployment that died as an agent does whose model failed: no value, and a call with status
`error`. Invariant: what could not be checked counts as refused, and a plan that may have run is never sent again.
"""

import asyncio
from typing import Any, TypeVar

from ray.exceptions import RayActorError
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
    TextSink,
    UnderstanderResult,
    UnderstanderTask,
    UnknownSession,
)
from agentmill.domains.base import Json, Violation
from agentmill.models.chat import AgentName, ChatReply, ChatRequest, ModelError
from rayserve.answers import EngineAnswer
from rayserve.settings import AgentSettings

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
            if attempt < self._settings.retries:
                await asyncio.sleep(self._settings.retry_delay_s * 2**attempt)
        return failed

    def _failed(self, error: Exception) -> AgentCall:
        text = f"the {self._agent}'s deployment did not answer: {type(error).__name__}"
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
        raise AssertionError("unreachable: the stream ends with its result")


class RemoteExecutor:
    """The Executor's proxy. A plan is sent once; a session whose replica is gone is an unknown one."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def open(self, session_id: str, world_seed: int) -> Json:
        facts: Json = await self._handle.open.remote(session_id, world_seed)
        return facts

    async def run(self, task: ExecutorTask) -> ExecutorResult:
        result: ExecutorResult | None = await self._sent("run", task.session, task)
        return _known(result, task.session)

    async def snapshot(self, session_id: str) -> Json:
        snapshot: Json | None = await self._sent("snapshot", session_id, session_id)
        return _known(snapshot, session_id)

    async def close(self, session_id: str) -> None:
        if not await self._sent("close", session_id, session_id):
            raise UnknownSession(session_id)

    async def ping(self) -> None:
        await self._handle.ping.remote()

    async def _sent(self, method: str, session_id: str, argument: Any) -> Any:
        try:
            return await getattr(self._handle, method).remote(argument)
        except RayActorError as error:
            raise UnknownSession(session_id) from error


def _known(value: T | None, session_id: str) -> T:
    if value is None:
        raise UnknownSession(session_id)
    return value
