"""`agentmill bench simulation`: how much of a model server's time our side of a simulation makes use of.

Whole conversations, as the actors of the stage `simulate` play them (`Rollout`: agents, rules, sandbox, a world each,
the flow, the HTTP client, the Arrow rows), against a local endpoint with a fixed latency. The expert has recorded the
answers before. Our side, its sandbox included, has one core; the endpoint has the others.

The ideal is `in flight / latency` calls per second. Where one core cannot make so many calls, the share of the ideal
says how far from it the core is, and calls_per_s_per_core what it can do. Beside it stand the client and the flow
alone, without agents and worlds, and the same conversations in a pool of threads with a blocking client.
"""

import asyncio
import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

from agentmill.agents.settings import TeamSettings
from agentmill.agents.team import Team
from agentmill.config import ConfigError
from agentmill.domains.base import Domain, Scenario, load_domain
from agentmill.log import progress
from agentmill.models.chat import ChatModel, ChatReply, ChatRequest, Message
from agentmill.plans.sandbox import Sandbox
from benchmarks.endpoint import LATENCY_S, MODEL, Endpoint
from simulation.models import ModelSettings
from simulation.pacing import Flows, blocks_at_once
from simulation.rollout import Rollout, converse

SIZES = (16, 32, 64, 256, 2048)
THREADS = 256
SYSTEM = TeamSettings(prompts="full")  # what a model behind an endpoint is told
BLOCK_ROWS = 16
_SEED = 20_260_618
_AT_ONCE = 20
_SAMPLE = 4000  # requests of the client alone
_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Window:
    """How long each measurement warms up and then counts, in seconds."""

    warm_s: float = 5.0
    counted_s: float = 10.0


@dataclass(frozen=True)
class Count:
    """Calls per second of one measurement, and the shares of a core that our side and the endpoint used for them."""

    rate: float
    ours: float
    endpoint: float


@dataclass(frozen=True)
class Rate:
    """What was counted at `in_flight`, once for each repeat."""

    in_flight: int
    counts: tuple[Count, ...]

    @property
    def median(self) -> float:
        """Calls per second."""
        return statistics.median(count.rate for count in self.counts)

    @property
    def span(self) -> tuple[float, float]:
        """The lowest and the highest calls per second."""
        rates = [count.rate for count in self.counts]
        return min(rates), max(rates)

    @property
    def ideal(self) -> float:
        """In flight / latency, in calls per second."""
        return self.in_flight / LATENCY_S

    @property
    def own(self) -> float:
        """The median share of a core that our side used: well below 1 at saturation, others had the core too."""
        return statistics.median(count.ours for count in self.counts)

    @property
    def endpoint(self) -> float:
        """The largest share of a core that the endpoint used: near 1, the endpoint was what was measured."""
        return max(count.endpoint for count in self.counts)


@dataclass(frozen=True)
class Against:
    """What is measured against, and for how long."""

    url: str
    pid: int
    domain: str
    folder: str
    window: Window


@dataclass(frozen=True)
class Measured:
    """Whole conversations at each size, the client alone, and the threads."""

    ours: tuple[Rate, ...]
    client: Rate
    threads: Rate
    conversations: int
    prompts: int


class Recording:
    """Asks another model and keeps what it answered."""

    def __init__(self, model: ChatModel) -> None:
        self._model = model
        self.answers: dict[tuple[Message, ...], ChatReply] = {}

    async def complete(self, request: ChatRequest) -> ChatReply:
        """See ChatModel."""
        if request.messages not in self.answers:
            self.answers[request.messages] = await self._model.complete(request)
        return self.answers[request.messages]


Work = tuple[Callable[..., Awaitable[Count]], int, Sequence[Any]]  # what is counted, in flight, and with what


def measure(
    domain: str,
    conversations: int = 2400,
    repeats: int = 3,
    window: Window | None = None,
    sizes: Sequence[int] = SIZES,
    threads: int = THREADS,
) -> Measured:
    """Record the conversations, then measure every size, the client alone and the threads, `repeats` times in turn.

    Raises:
        ConfigError: when the domain has no expert, or the machine one core only.
    """
    our_core, their_cores = _cores()
    scenarios = list(load_domain(domain).scenarios(conversations, _SEED, "train"))
    answers = asyncio.run(recorded(load_domain(domain), scenarios))
    asked = [ChatRequest(agent="planner", messages=messages) for messages in itertools.islice(answers, _SAMPLE)]
    works: list[Work] = [
        *((_ours, size, scenarios) for size in sizes),
        (_client, threads, asked),
        (_threads, threads, scenarios),
    ]
    counted: dict[tuple[str, int], list[Count]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, Endpoint(answers, Path(folder), cores=their_cores) as endpoint:
        against = Against(endpoint.url, endpoint.pid, domain, folder, window or Window())
        with progress("bench", repeats * len(works), "measurements") as bar:
            for work, size, material in works * repeats:
                count = _apart(work, our_core, (against, size, material))
                counted[work.__name__, size].append(count)
                bar.advance(1, what=work.__name__.strip("_"), in_flight=size, per_s=count.rate)
    rates = {(what, size): Rate(size, tuple(counts)) for (what, size), counts in counted.items()}
    ours = tuple(rates[_ours.__name__, size] for size in sizes)
    client, threaded = rates[_client.__name__, threads], rates[_threads.__name__, threads]
    return Measured(ours, client, threaded, conversations, len(answers))


def _cores() -> tuple[int, set[int]]:
    """Our core, and the endpoint's."""
    first, *others = sorted(os.sched_getaffinity(0))
    if not others:
        raise ConfigError("bench simulation needs two cores: one for our side and one for the endpoint; this has one")
    return first, set(others)


async def recorded(domain: Domain, scenarios: Sequence[Scenario]) -> dict[tuple[Message, ...], ChatReply]:
    """What the expert answers in these conversations, for the prompts that an endpoint's model is given."""
    if domain.expert is None:
        raise ConfigError(f"domain={domain.name!r} has no expert to record; bench one that has")
    model = Recording(domain.expert(0.0))
    speaker = _model("http://127.0.0.1/v1")
    async with Sandbox(1) as sandbox:
        team = Team.local(domain, model, sandbox, SYSTEM)
        with progress("record", len(scenarios), "conversations") as bar:
            for start in range(0, len(scenarios), _AT_ONCE):
                part = scenarios[start : start + _AT_ONCE]
                await asyncio.gather(*(converse(team, model, s, sid=s.sid, seed=0, speaker=speaker) for s in part))
                bar.advance(len(part))
    return model.answers


def _model(url: str) -> ModelSettings:
    return ModelSettings(kind="endpoint", url=url, name=MODEL)


def _apart(work: Callable[..., Awaitable[Count]], core: int, given: tuple[Any, ...]) -> Count:
    """What `work` counts in a new process on that core."""
    context = multiprocessing.get_context("spawn")
    told, tell = context.Pipe(duplex=False)
    process = context.Process(target=_counting, args=(work, core, given, tell))
    process.start()
    tell.close()
    try:
        count: Count = told.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"{work.__name__} ended without a count (exit code {process.exitcode})") from None
    process.join()
    return count


def _counting(work: Callable[..., Awaitable[Count]], core: int, given: tuple[Any, ...], tell: Any) -> None:
    os.sched_setaffinity(0, {core})

    async def counted() -> Count:
        return await work(*given)

    tell.send(asyncio.run(counted()))


async def _count(calls: Callable[[], int], against: Against) -> Count:
    """Calls per second in the window, and the CPU time that both sides used meanwhile."""

    def used() -> tuple[float, float]:
        mine = psutil.Process()
        ours = sum(sum(one.cpu_times()[:2]) for one in (mine, *mine.children(recursive=True)))
        return ours, sum(psutil.Process(against.pid).cpu_times()[:2])

    await asyncio.sleep(against.window.warm_s)
    began, before, cpu = time.perf_counter(), calls(), used()
    await asyncio.sleep(against.window.counted_s)
    seconds = time.perf_counter() - began
    ours, endpoint = ((after - earlier) / seconds for after, earlier in zip(used(), cpu, strict=True))
    return Count((calls() - before) / seconds, ours, endpoint)


async def _ours(against: Against, in_flight: int, scenarios: Sequence[Scenario]) -> Count:
    """Blocks of conversations through the actor of the stage `simulate`, as many at once as the job gives it."""
    model = _model(against.url)
    stop = str(Path(against.folder, "stop"))
    rollout = Rollout(against.domain, SYSTEM, model, model, 0, _TIMEOUT_S, in_flight, stop)
    blocks = _blocks(scenarios)

    async def play() -> None:
        for block in blocks:
            done = await rollout(block)
            for error in filter(None, done["error"].to_pylist()):
                raise RuntimeError(f"a conversation failed: {error}")

    try:
        return await _while(play, blocks_at_once([model], in_flight, BLOCK_ROWS), lambda: rollout.flows.calls, against)
    finally:
        await rollout.close()


def _blocks(scenarios: Sequence[Scenario]) -> Iterator[pa.Table]:
    """Blocks of rows without end, each conversation under an id of its own."""
    numbered = enumerate(itertools.cycle([scenario.model_dump_json() for scenario in scenarios]))
    while True:
        rows = [{"sid": f"o{number}", "scenario_json": text} for number, text in itertools.islice(numbered, BLOCK_ROWS)]
        yield pa.Table.from_pylist(rows)


async def _client(against: Against, in_flight: int, asked: Sequence[ChatRequest]) -> Count:
    """The flow and the HTTP client alone: recorded requests, over and over."""
    flows = Flows(in_flight, str(Path(against.folder, "stop")))
    model = flows.paced("teacher", _model(against.url), load_domain(against.domain))
    requests = itertools.cycle(asked)

    async def ask() -> None:
        for request in requests:
            await model.complete(request)

    try:
        return await _while(ask, in_flight, lambda: flows.calls, against)
    finally:
        await flows.close()


async def _while(work: Callable[[], Awaitable[None]], times: int, calls: Callable[[], int], against: Against) -> Count:
    """What is counted while `work` runs that many times at once."""
    running = [asyncio.ensure_future(work()) for _ in range(times)]
    try:
        count = await _count(calls, against)
        for task in running:
            if task.done():
                task.result()  # it failed, and says why
        return count
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _threads(against: Against, threads: int, scenarios: Sequence[Scenario]) -> Count:
    """A conversation a thread, with a blocking client."""
    from benchmarks.threads import SharedSandbox, Threads

    async with SharedSandbox(1) as sandbox:
        crew = Threads(load_domain(against.domain), SYSTEM, against.url, MODEL, sandbox, threads)
        crew.start(scenarios, _model(against.url))
        try:
            return await _count(lambda: crew.model.calls, against)
        finally:
            await asyncio.to_thread(crew.stop)
