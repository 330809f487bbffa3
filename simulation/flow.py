"""How many calls a model has in flight: additive increase, multiplicative decrease, one controller a model and process.

    conversations -> Crowd (how many at once) -> pacing.Paced (a ChatModel) -> Flow (waits for a place) -> the model

A Flow learns the limit from what it sees. In epochs of about as many calls as the limit it compares the rate of answers
with the rate at lower limits, and latency with the lowest that the same agent's calls had lately. It raises the limit
while more calls in flight bring more answers (a server with room, or an engine that batches), first by doubling, later
by a constant step. It halves the limit when the server pushes back (429, 503, time-outs), when the server's queue is
long, and when calls take several times the floor while a higher limit brings no more answers: then they only wait.
Waiting calls are no reason to go below twice what the present rate keeps under way without waiting, rate x floor.

Invariants: never more than `limit` calls in flight, and 1 <= limit <= maximum; places are given in the order in which
they were asked for; the limit decides when a call is made and never what it asks, so results do not depend on it.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType

START = 16
FAR = 3.0  # latency in multiples of its floor, above which most of it is waiting
GROWS = 0.15  # d log(rate) / d log(limit) from which a higher limit is worth while: doubling it brings 11 % more
CLOSE, APART = 0.75, 0.5  # rates are compared with those at limits below CLOSE of this one, best at APART of it
CHANGED = 1.25  # a rate that differs so from the last one at this limit: the server has become faster or slower
DECREASE = 0.5
SPARE = 2.0
STEPS = 8  # from half of where it was too much, it takes half as many epochs to be there again
QUEUE_SHARE = 0.25  # of the limit: so many requests in the server's queue are too many
LEAST_EPOCH = 8  # calls
PATIENCE = 2  # so many epochs in a row must say that more calls only wait: one may have been disturbed
COOLDOWN_S = 1.0  # what comes together is one push
MEMORY_EPOCHS = 256  # after so many epochs a floor or a rate is forgotten, and found again
CROWD = 1.5  # conversations for each place: some are busy with a plan while others ask a model


@dataclass(frozen=True)
class FlowReport:
    """What a controller did: its limit now, the highest one, how often it was halved, and how often pushed back."""

    limit: int
    peak: int
    decreases: int
    pushes: int
    calls: int


@dataclass
class _Rate:
    """Answers per second at a limit, and the epoch in which they were counted."""

    limit: float
    rate: float
    epoch: int


class Flow:
    """The limit of one model's calls in flight, at most `maximum`; see the module. For one event loop."""

    def __init__(self, maximum: int, *, now: Callable[[], float] = time.monotonic) -> None:
        self.maximum = maximum
        self.in_flight = 0
        self.decreases = self.pushes = self.calls = 0
        self.now = now
        self._limit = float(min(maximum, START))
        self.peak = int(self._limit)
        self._step = math.inf  # doubling, until the first decrease
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._watchers: list[Callable[[], None]] = []
        self._rates: dict[int, _Rate] = {}  # by quarters of octaves of the limit
        self._floors: tuple[dict[str, float], dict[str, float]] = ({}, {})
        self._epochs = 0
        self._changed_at = self._decreased_at = -math.inf
        self._settling = self._full = False
        self._queue = 0
        self._idle = 0  # epochs in a row in which a higher limit brought nothing
        self._new_epoch()

    @property
    def limit(self) -> int:
        return int(self._limit)

    def report(self) -> FlowReport:
        """Where the limit stands and what happened to it."""
        return FlowReport(self.limit, self.peak, self.decreases, self.pushes, self.calls)

    def watch(self, raised: Callable[[], None]) -> None:
        """Have `raised` called whenever the limit has risen."""
        self._watchers.append(raised)

    def place(self, agent: str) -> "_Place":
        """Wait for a place, and hold it for the block, which is one call by `agent`; one that raises has no latency."""
        return _Place(self, agent)

    def pushed_back(self) -> None:
        """The server refused a call because of its load, or let it run out of time."""
        self.pushes += 1
        if self.now() - self._decreased_at >= COOLDOWN_S:
            self._decrease()

    def queued(self, waiting: int) -> None:
        """So many calls wait in the server's queue."""
        self._queue = max(self._queue, waiting)

    async def enter(self) -> None:
        """Wait for a place. `place` does, and gives it back."""
        if self.in_flight < self.limit and not self._waiting:
            self.in_flight += 1
        else:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():  # it was given the place and cannot use it
                    self.leave()
                raise
        self._full = self._full or self.in_flight >= self.limit

    def leave(self) -> None:
        """Give a place back."""
        self.in_flight -= 1
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self.in_flight < self.limit:
            waiter = self._waiting.popleft()
            if not waiter.done():
                self.in_flight += 1
                waiter.set_result(None)

    def learn(self, agent: str, began: float) -> None:
        """Note an answered call; at the end of an epoch, adjust the limit."""
        self.calls += 1
        if began < self._changed_at:  # made under the limit before, or held up by the server: it says nothing
            return
        seconds = self.now() - began
        if self._settling:  # from here on, what comes is what this limit brings
            self._settling = False
            self._new_epoch()
        older, newer = self._floors
        newer[agent] = min(newer.get(agent, math.inf), seconds)
        floor = max(min(newer[agent], older.get(agent, math.inf)), 1e-6)
        self._floor += floor
        self._slowness += seconds / floor
        self._answered += 1
        if self._answered >= max(self.limit, LEAST_EPOCH):
            self._adjust()

    def _adjust(self) -> None:
        slowness = self._slowness / self._answered
        full, queue = self._full, self._queue
        rate = self._answered / max(self.now() - self._began, 1e-9)
        needed = SPARE * rate * self._floor / self._answered
        growth = self._growth(rate) if full else None
        self._epochs += 1
        if self._epochs % (MEMORY_EPOCHS // 2) == 0:
            self._floors = (self._floors[1], {})
        self._new_epoch()
        if queue > QUEUE_SHARE * self.limit:
            self._decrease()
        elif full and (slowness < FAR if growth is None else growth >= GROWS):
            self._raise()
        elif full:
            self._idle += 1
            if self._idle >= PATIENCE:
                self._decrease(needed) if slowness >= FAR else self._end_doubling()

    def _growth(self, rate: float) -> float | None:
        """How the rate of answers grows with the limit: 1 in proportion, 0 not at all; None where that is not known."""
        place = round(4 * math.log2(self._limit))
        known = self._rates.get(place)
        if known is not None and not 1 / CHANGED < rate / known.rate < CHANGED:
            for one in self._rates.values():
                one.rate *= rate / known.rate
        self._rates[place] = _Rate(self._limit, rate, self._epochs)
        self._rates = {k: one for k, one in self._rates.items() if self._epochs - one.epoch < MEMORY_EPOCHS}
        lower = [one for one in self._rates.values() if one.limit <= CLOSE * self._limit]
        if not lower:
            return None
        best = min(lower, key=lambda one: abs(math.log(one.limit / (APART * self._limit))))
        return math.log(rate / best.rate) / math.log(self._limit / best.limit)

    def _raise(self) -> None:
        self._idle = 0
        before = self.limit
        self._limit = min(float(self.maximum), self._limit + min(self._step, self._limit))
        self.peak = max(self.peak, self.limit)
        if self.limit > before:
            self._settle()
            self._wake()
            for raised in self._watchers:
                raised()

    def _decrease(self, least: float = 1.0) -> None:
        """Halve the limit, but not below `least`."""
        self._idle = 0
        self._end_doubling()
        if least >= self._limit:
            return
        self._limit = max(1.0, least, self._limit * DECREASE)
        self.decreases += 1
        self._decreased_at = self.now()
        self._settle()

    def _settle(self) -> None:
        """Count nothing until the first call that was made under the new limit has been answered."""
        self._changed_at = self.now()
        self._settling = True

    def _end_doubling(self) -> None:
        self._step = max(1.0, self._limit / STEPS)

    def _new_epoch(self) -> None:
        self._began = self.now()
        self._answered = 0
        self._slowness = self._floor = 0.0
        self._queue = 0
        self._full = False


class _Place:
    """A place in a flow for one call, as an asynchronous context."""

    __slots__ = ("_agent", "_began", "_flow")

    def __init__(self, flow: Flow, agent: str) -> None:
        self._flow, self._agent = flow, agent

    async def __aenter__(self) -> None:
        await self._flow.enter()
        self._began = self._flow.now()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flow.leave()
        if kind is None:
            self._flow.learn(self._agent, self._began)


class Crowd:
    """How many conversations are open at a time: somewhat more than the flows' places, so that few wait in the middle.

    Without flows there is room for all.
    """

    def __init__(self, flows: Iterable[Flow]) -> None:
        self._flows = list(flows)
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.inside = 0
        for flow in self._flows:
            flow.watch(self._wake)

    @property
    def room(self) -> float:
        """How many conversations may be open now."""
        return math.ceil(CROWD * sum(flow.limit for flow in self._flows)) if self._flows else math.inf

    @asynccontextmanager
    async def conversation(self) -> AsyncIterator[None]:
        """Wait until one more conversation may be open; it is over when the block ends."""
        if self.inside < self.room and not self._waiting:
            self.inside += 1
        else:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._left()
                raise
        try:
            yield
        finally:
            self._left()

    def _left(self) -> None:
        self.inside -= 1
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self.inside < self.room:
            waiter = self._waiting.popleft()
            if not waiter.done():
                self.inside += 1
                waiter.set_result(None)
