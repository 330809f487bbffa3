"""The agents as Ray Serve deployments, and the proxies through which the gateway's Team reaches them.

Each deployment wraps the very agent class that runs in process elsewhere; what it asks is one of three models: the
shared engine through a Serve handle, the domain's expert, or an OpenAI-compatible endpoint. Invariants: losing a
replica costs at most the turn that it served (agents without state are asked again, the Executor is not, because a
plan may have run); a model's refusal is a ModelError, never an empty reply.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

from agentmill.agents.contracts import ExecutorResult, ExecutorTask, ExplainerTask, TextSink, UnknownSession
from agentmill.agents.evaluator import Evaluator
from agentmill.agents.executor import Executor
from agentmill.agents.explainer import Explainer
from agentmill.agents.planner import Planner
from agentmill.agents.settings import TeamSettings
from agentmill.agents.understander import Understander
from agentmill.config import ConfigError
from agentmill.domains.base import Domain, Json, WorldSettings, load_domain
from agentmill.domains.switching import UnknownSwitch
from agentmill.models.chat import AgentName, ChatModel, ChatReply, ChatRequest, ModelError
from agentmill.plans.sandbox import Sandbox
from rayserve.answers import EngineAnswer
from rayserve.settings import AgentSettings, EngineSettings, ServedModel

AGENTS = {"understander": Understander, "planner": Planner, "evaluator": Evaluator, "explainer": Explainer}


@asynccontextmanager
async def _engine_call(timeout_s: float) -> AsyncIterator[None]:
    """What goes wrong in one call of the engine, as a ModelError; a dead replica stays a RayActorError."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except BackPressureError as error:
        raise ModelError("the engine's queue is full; send fewer requests at a time") from error
    except RayTaskError as error:
        raise ModelError(f"the engine failed: {type(error.cause).__name__}") from error
    except TimeoutError as error:
        raise ModelError(f"the engine gave no answer within {timeout_s:g} s") from error


class ServeModel:
    """A ChatModel on the shared engine's Serve handle; it streams where it is asked to.

    A call whose replica died is made again, after a growing delay: an answer has no effect on anything, so that
    asking twice is safe. A stream that broke off after some text is not begun again.
    """

    def __init__(self, engine: DeploymentHandle, settings: EngineSettings, agents: AgentSettings) -> None:
        self._engine = engine
        self._streaming = engine.options(stream=True)
        self._settings, self._agents = settings, agents

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer one request. See ChatModel."""
        for attempt in range(self._agents.retries + 1):
            try:
                async with _engine_call(self._settings.timeout_s):
                    answer: EngineAnswer = await self._engine.complete.remote(request)
                    return answer.unwrap()
            except RayActorError as error:
                await self._wait(attempt, error)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def stream(self, request: ChatRequest, sink: TextSink) -> ChatReply:
        """Answer one request piece by piece. See StreamingModel."""
        for attempt in range(self._agents.retries + 1):
            said = False
            try:
                async with _engine_call(self._settings.timeout_s):
                    async for piece in self._streaming.stream.remote(request):
                        if isinstance(piece, EngineAnswer):
                            return piece.unwrap()
                        said = True
                        await sink(piece)
                raise ModelError("the engine's stream ended without its last item")
            except RayActorError as error:
                if said:
                    raise ModelError("the engine's replica died while it answered") from error
                await self._wait(attempt, error)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def ping(self) -> None:
        """Raise what is wrong with the engine, if anything is."""
        await self._engine.check_health.remote()

    async def _wait(self, attempt: int, error: RayActorError) -> None:
        if attempt >= self._agents.retries:
            raise ModelError(f"the engine's replica died {attempt + 1} times: {type(error).__name__}") from error
        await asyncio.sleep(self._agents.retry_delay_s * 2**attempt)


def served_model(
    model: ServedModel, domain: Domain, engine: DeploymentHandle | None, settings: EngineSettings, agents: AgentSettings
) -> ChatModel:
    """Who answers for the agents, by configuration.

    Raises:
        ConfigError: when the domain has no expert, or the endpoint's key is not in the environment.
    """
    if model.kind == "engine":
        assert engine is not None, "the application binds the engine where kind=engine"
        return ServeModel(engine, settings, agents)
    if model.kind == "expert":
        if domain.expert is None:
            raise ConfigError(f"serve.model.kind=expert: domain {domain.name} ships none; choose engine or endpoint")
        return domain.expert(model.mistake_rate)
    from agentmill.models.openai_client import OpenAIModel

    key = os.environ.get(model.api_key_env, "") if model.api_key_env else ""
    if model.api_key_env and not key:
        raise ConfigError(f"serve.model.api_key_env={model.api_key_env}: the variable is not set; export it")
    return OpenAIModel(model.url, model.name, api_key=key, timeout_s=model.timeout_s, grammars=model.grammars)


class AgentServer:
    """One of the four agents that ask a model."""

    def __init__(
        self,
        agent: AgentName,
        domain: str,
        system: TeamSettings,
        model: ServedModel,
        engine_settings: EngineSettings,
        agent_settings: AgentSettings,
        engine: DeploymentHandle | None,
    ) -> None:
        pack = load_domain(domain)
        self._model = served_model(model, pack, engine, engine_settings, agent_settings)
        self._agent: Any = AGENTS[agent](pack, self._model, system)

    async def run(self, task: Any) -> Any:
        """The agent's own `run`: its task in, its result out."""
        return await self._agent.run(task)

    async def stream(self, task: ExplainerTask) -> AsyncIterator[Any]:
        """The Explainer's `run`: pieces of text while they are made, then its result."""
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        running = asyncio.create_task(self._agent.run(task, pieces.put))
        running.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            yield await running
        finally:
            running.cancel()  # without effect on one that is done

    async def complete(self, request: ChatRequest) -> EngineAnswer:
        """One model call as this agent makes it, with no validation after it."""
        try:
            return EngineAnswer(reply=await self._model.complete(request))
        except ModelError as error:
            return EngineAnswer(error=str(error), retryable=error.retryable)

    async def ping(self) -> None:
        """Raise what is wrong with the model behind this agent, if anything is."""
        if isinstance(self._model, ServeModel):
            await self._model.ping()


class ExecutorServer:
    """The Executor with its sandbox and all worlds: exactly one replica, because private worlds are in its memory."""

    def __init__(self, domain: str, processes: int, worlds: WorldSettings) -> None:
        self._domain = load_domain(domain)
        self._worlds = worlds
        self._sandbox = Sandbox(processes)
        self._executor: Executor | None = None
        self._starting = asyncio.Lock()

    async def open(self, session_id: str, world_seed: int) -> Json:
        return await (await self._ready()).open(session_id, world_seed)

    async def run(self, task: ExecutorTask) -> ExecutorResult | None:
        """The plan's result; None where the session has no world here."""
        try:
            return await (await self._ready()).run(task)
        except UnknownSession:
            return None

    async def switch(self, session_id: str, name: str) -> Json | str | None:
        """The world's facts after a change of the business; why it cannot be made; None where there is no world."""
        try:
            return await (await self._ready()).switch(session_id, name)
        except UnknownSession:
            return None
        except UnknownSwitch as error:
            return str(error)

    async def snapshot(self, session_id: str) -> Json | None:
        """The session's world; None where it has none here."""
        try:
            return await (await self._ready()).snapshot(session_id)
        except UnknownSession:
            return None

    async def close(self, session_id: str) -> bool:
        """Whether there was a world to close."""
        try:
            await (await self._ready()).close(session_id)
        except UnknownSession:
            return False
        return True

    async def ping(self) -> None:
        """Raise what is wrong with the worlds' database, if anything is."""
        await (await self._ready()).ping()

    async def _ready(self) -> Executor:
        async with self._starting:
            if self._executor is None:
                await self._sandbox.__aenter__()
                self._executor = Executor(self._domain, self._sandbox, self._worlds)
            return self._executor
