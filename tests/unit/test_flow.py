"""The controller of calls in flight, against servers of known capacity in virtual time."""

import asyncio
import contextlib
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agentmill.models.chat import ChatReply, ChatRequest, LoadListener, Message, ModelError
from agentmill.runs import Run
from simulation.flow import COOLDOWN_S, CROWD, START, Crowd, Flow
from simulation.models import ModelSettings
from simulation.pacing import Flows, Paced, forget_flows, record_flows
from tests.fakes import ScriptedModel, library
from tests.fakes import reply as said
from tests.virtual import run_virtual

SECONDS = 30.0  # of virtual time, of which 0.25 s are one call of a server with room
REQUEST = ChatRequest(agent="planner", messages=(Message(role="user", content="u"),))


@dataclass
class Server:
    """Answers `width` calls at a time in `seconds` each, others wait; pushes back those beyond `most`."""

    width: int
    seconds: float = 0.25
    most: int = 10**9
    listener: LoadListener | None = None
    inside: int = 0
    answered: int = 0
    highest: int = 0
    refused: int = 0
    reports_queue: bool = False
    _slots: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._slots = asyncio.Semaphore(self.width)

    async def complete(self, request: ChatRequest) -> ChatReply:
        while self.inside >= self.most and self.listener is not None:
            self.refused += 1
            self.listener.pushed_back()
            await asyncio.sleep(random.uniform(0.25, 0.5))  # as the client waits before it asks again
        self.inside += 1
        self.highest = max(self.highest, self.inside)
        try:
            if self.reports_queue and self.listener is not None:
                self.listener.queued(max(0, self.inside - self.width))
            async with self._slots:
                await asyncio.sleep(self.seconds * random.uniform(0.9, 1.1))
            self.answered += 1
            return said("ok")
        finally:
            self.inside -= 1


async def ask_for(model: Paced, seconds: float, callers: int) -> None:
    """That many callers, each asking again as soon as it has its answer."""
    clock = asyncio.get_running_loop().time
    end = clock() + seconds

    async def caller() -> None:
        while clock() < end:
            await model.complete(REQUEST)

    await asyncio.gather(*(caller() for _ in range(callers)))


def paced(server: Server, maximum: int, seconds: float = SECONDS, callers: int = 1200) -> Flow:
    async def run() -> Flow:
        flow = Flow(maximum, now=asyncio.get_running_loop().time)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await ask_for(Paced(server, flow), seconds, callers)
        return flow

    random.seed(7)
    return run_virtual(run())


def test_a_server_with_room_gets_all_that_is_allowed_and_no_more() -> None:
    server = Server(width=10_000)
    flow = paced(server, 512, seconds=10)
    assert (flow.limit, server.highest, flow.decreases) == (512, 512, 0)


@pytest.mark.parametrize("width", [4, 40, 200])
def test_the_limit_settles_where_the_server_is_busy_and_little_waits(width: int) -> None:
    server = Server(width=width)
    flow = paced(server, 1024)
    assert server.answered > 0.8 * SECONDS * width / server.seconds
    assert width / 3 <= flow.limit <= 5 * width
    assert server.highest <= 8 * max(width, START)


def test_an_engine_that_batches_is_filled_although_its_latency_grows() -> None:
    class Batching(Server):
        async def complete(self, request: ChatRequest) -> ChatReply:
            """Latency of 20 ms and a fifth of a millisecond for each call beside it: up to 5,000 calls/s."""
            self.inside += 1
            try:
                await asyncio.sleep(0.02 + 0.0002 * self.inside)
                self.answered += 1
                return said("ok")
            finally:
                self.inside -= 1

    server = Batching(width=1)
    flow = paced(server, 256, seconds=30)
    assert flow.peak == 256
    assert flow.limit >= 128
    assert server.answered / 30 > 0.75 * 256 / (0.02 + 0.0002 * 256)


def test_refusals_halve_the_limit_once_a_burst_and_it_comes_back() -> None:
    server = Server(width=10_000, most=100)
    flow = paced(server, 1024)
    assert 40 <= flow.limit <= 128
    assert 1 <= flow.decreases <= SECONDS / COOLDOWN_S
    assert server.answered > 0.5 * SECONDS * 100 / server.seconds
    assert server.refused < 0.05 * server.answered


def test_a_long_queue_at_the_engine_halves_the_limit() -> None:
    told, silent = Server(width=64, reports_queue=True), Server(width=64)
    flow = paced(told, 512)
    paced(silent, 512)
    assert flow.decreases > 0
    assert told.highest <= silent.highest
    assert told.answered > 0.8 * SECONDS * 64 / told.seconds


def test_one_call_is_always_possible() -> None:
    async def run() -> Flow:
        clock = asyncio.get_running_loop().time
        flow = Flow(64, now=clock)
        for _ in range(20):
            flow.pushed_back()
            await asyncio.sleep(2 * COOLDOWN_S)
        await ask_for(Paced(Server(width=1), flow), 1, 3)
        return flow

    flow = run_virtual(run())
    assert flow.calls > 0
    assert flow.limit >= 1


async def test_places_are_given_in_order_and_a_cancelled_waiter_loses_none() -> None:
    flow, order = Flow(1), list[int]()
    free = asyncio.Event()

    async def call(number: int) -> None:
        async with flow.place("planner"):
            order.append(number)
            await free.wait()

    tasks = [asyncio.create_task(call(number)) for number in range(4)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    tasks[0].cancel()  # frees the only place, in the same step in which its successor is cancelled
    await asyncio.sleep(0)
    tasks[2].cancel()
    free.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order[0] == 0 and order[-1] == 3
    assert flow.in_flight == 0


def test_waiting_for_a_place_is_not_the_models_time() -> None:
    async def run() -> list[str]:
        flow = Flow(1, now=asyncio.get_running_loop().time)
        model = Paced(Server(width=1, seconds=1.0), flow, timeout_s=1.5)
        return [answer.text for answer in await asyncio.gather(*(model.complete(REQUEST) for _ in range(8)))]

    assert run_virtual(run()) == ["ok"] * 8


def test_a_call_that_takes_too_long_is_an_error_that_counts_as_a_push() -> None:
    async def run() -> int:
        flow = Flow(8, now=asyncio.get_running_loop().time)
        with pytest.raises(ModelError, match=r"no answer within 0\.5 s"):
            await Paced(Server(width=1, seconds=9.0), flow, timeout_s=0.5).complete(REQUEST)
        return flow.pushes

    assert run_virtual(run()) == 1


def test_conversations_are_admitted_as_the_limit_rises() -> None:
    """Each of 500 conversations makes ten calls: with the limit so low, most wait outside and not in the middle."""

    async def run() -> tuple[int, float, int]:
        flow = Flow(64, now=asyncio.get_running_loop().time)
        crowd, model = Crowd([flow]), Paced(Server(width=10_000), flow)
        most = done = 0

        async def converse() -> None:
            nonlocal most, done
            async with crowd.conversation():
                most = max(most, crowd.inside)
                for _ in range(10):
                    await model.complete(REQUEST)
            done += 1

        first = crowd.room
        await asyncio.gather(*(converse() for _ in range(500)))
        return most, first, done

    most, first, done = run_virtual(run())
    assert (most, first, done) == (CROWD * 64, CROWD * START, 500)


async def test_without_limited_models_there_is_room_for_all() -> None:
    crowd = Crowd([])
    async with crowd.conversation(), crowd.conversation():
        assert crowd.inside == 2


async def test_roles_on_one_server_share_its_limit_and_their_figures_are_recorded(tmp_path: Path) -> None:
    flows = Flows(32, str(tmp_path / "stop"))
    same = {"kind": "endpoint", "url": "http://127.0.0.1:9/v1", "name": "a"}
    flows.paced("teacher", ModelSettings(**same), library())
    flows.paced("user", ModelSettings(**same, temperature=0.7), library())
    flows.paced("judge", ModelSettings(**{**same, "name": "b"}), library())
    assert flows.crowd.room == CROWD * 2 * START
    flows.note()
    run = Run.create(tmp_path / "run", {}, "test")
    record_flows(run, "simulate", tmp_path)
    found = {name: figure.value for name, figure in run.figures("simulate.in_flight").items()}
    assert {name.split(".")[2] for name in found} == {"teacher", "user", "judge"}
    assert (found["simulate.in_flight.teacher.final"], found["simulate.in_flight.judge.decreases"]) == (START, 0)
    forget_flows(tmp_path)
    assert not (tmp_path / "flows").exists()


async def test_the_expert_needs_no_limit(tmp_path: Path) -> None:
    from agentmill.domains.automotive import build

    flows = Flows(1, str(tmp_path / "stop"))
    assert not isinstance(flows.paced("teacher", ModelSettings(), build()), Paced)
    flows.note()
    assert list(tmp_path.iterdir()) == []
    assert (await Paced(ScriptedModel(planner="x"), Flow(1)).complete(REQUEST)).text == "x"
