"""The same conversations as public simulators play them: a thread for each, which waits while its model answers.

The agents, the worlds and the sandbox are ours; what differs is who waits: a blocking client (the `openai` package's)
in a pool of threads, in place of one event loop.
"""

import asyncio
import itertools
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING

from agentmill.agents.settings import TeamSettings
from agentmill.agents.team import Team
from agentmill.domains.base import Domain, Scenario
from agentmill.models.chat import ChatReply, ChatRequest, ModelError
from agentmill.plans.sandbox import Sandbox
from simulation.models import ModelSettings
from simulation.rolled import pack
from simulation.rollout import converse

if TYPE_CHECKING:
    from openai import OpenAI


class BlockingModel:
    """A ChatModel that keeps its thread until the answer is there; `calls` counts them over all threads."""

    def __init__(self, client: "OpenAI", name: str) -> None:
        self._client, self._name = client, name
        self._count = itertools.count()
        self.calls = 0
        self.stop = threading.Event()

    async def complete(self, request: ChatRequest) -> ChatReply:
        """See ChatModel."""
        if self.stop.is_set():
            raise ModelError("the measurement is over", retryable=False)
        answer = self._client.chat.completions.create(
            model=self._name,
            messages=[{"role": m.role, "content": m.content} for m in request.messages],  # type: ignore[misc]
            temperature=request.sampling.temperature,
            max_tokens=request.sampling.max_tokens,
            seed=request.sampling.seed,
        )
        self.calls = next(self._count) + 1
        choice, usage = answer.choices[0], answer.usage
        return ChatReply(
            text=choice.message.content or "",
            model=answer.model,
            prompt_tokens=usage.prompt_tokens if usage else 0,
            completion_tokens=usage.completion_tokens if usage else 0,
            finish_reason="length" if choice.finish_reason == "length" else "stop",
            latency_s=0.0,
        )


class SharedSandbox(Sandbox):
    """A sandbox that many event loops share: its turns are kept by a lock between threads."""

    async def __aenter__(self) -> "SharedSandbox":
        await super().__aenter__()
        self._turns = _Turns(self.processes)  # type: ignore[assignment]
        return self


class _Turns:
    def __init__(self, count: int) -> None:
        self._places = threading.Semaphore(count)

    async def __aenter__(self) -> None:
        self._places.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._places.release()


class Threads:
    """`count` threads, each playing one conversation after the other until `stop`."""

    def __init__(self, domain: Domain, system: TeamSettings, url: str, name: str, sandbox: Sandbox, count: int) -> None:
        from openai import DEFAULT_CONNECTION_LIMITS, DefaultHttpxClient, OpenAI

        limits = type(DEFAULT_CONNECTION_LIMITS)(max_connections=count, max_keepalive_connections=count)
        client = OpenAI(base_url=url, api_key="none", http_client=DefaultHttpxClient(limits=limits, trust_env=False))
        self.model = BlockingModel(client, name)
        self._domain, self._system, self._sandbox = domain, system, sandbox
        self._pool = ThreadPoolExecutor(count)
        self._count = count

    def start(self, scenarios: Sequence[Scenario], speaker: ModelSettings) -> None:
        """Begin to play them, again from the first when they are used up."""
        numbered = enumerate(itertools.cycle(scenarios))
        lock = threading.Lock()

        def play() -> None:
            team = Team.local(self._domain, self.model, self._sandbox, self._system)
            while not self.model.stop.is_set():
                with lock:
                    number, scenario = next(numbered)
                playing = converse(team, self.model, scenario, sid=f"t{number}", seed=0, speaker=speaker)
                done = asyncio.run(playing)
                if done.conversation.error and not self.model.stop.is_set():
                    raise RuntimeError(f"a conversation failed: {done.conversation.error}")
                pack([done])

        self._running = [self._pool.submit(play) for _ in range(self._count)]

    def stop(self) -> None:
        """End all threads.

        Raises:
            RuntimeError: when a conversation failed.
        """
        self.model.stop.set()
        self._pool.shutdown()
        for thread in self._running:
            thread.result()
