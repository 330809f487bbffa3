"""A model that may be away for a while: a circuit breaker in front of it, so that an outage costs time and no rows.

    closed --(`failures_in_a_row` calls failed)--> open: everybody waits, one call at a time probes, the pauses grow
    open   --(a probe is answered)--> closed          open --(nothing answered for `outage_s`)--> ModelDown

Invariants: while the model answers nobody at all, no call is given up: it waits and is made again. A call is given up
(ModelError) only when it failed `attempts` times while the model answered others, or when the model says that trying
again does not help. ModelDown means that the work is to be stopped and continued later; it is never a row's failure.
"""

import asyncio
import logging
import os
import time
import zlib
from dataclasses import dataclass

from pydantic import Field

from agentmill.config import Strict
from agentmill.models.chat import ChatModel, ChatReply, ChatRequest, ModelError

_BACKOFF_S, _BACKOFF_MAX_S = 0.25, 8.0
_HEED_S = 0.5
_log = logging.getLogger(__name__)


class ModelDown(Exception):
    """A model has answered nothing for so long that the stage is to stop. The message says since when and why."""


class Stopped(Exception):
    """The job was told to stop while a call waited for its model."""


class OutageSettings(Strict):
    """When a model counts as away. After `failures_in_a_row` failed calls the actor waits and probes, first after
    `probe_s` and then twice as long each time up to `probe_max_s`; after `outage_s` without an answer the stage stops.
    """

    failures_in_a_row: int = Field(8, ge=1)
    probe_s: float = Field(1.0, gt=0.0)
    probe_max_s: float = Field(30.0, gt=0.0)
    outage_s: float = Field(600.0, ge=0.0)


@dataclass
class Outages:
    """What the breaker has seen: how often it opened, and for how many seconds in all."""

    count: int = 0
    seconds: float = 0.0


class Guarded:
    """A ChatModel behind the breaker. `stop` is the file that ends a job ("" for none)."""

    def __init__(
        self, model: ChatModel, settings: OutageSettings, *, name: str, attempts: int = 2, stop: str = ""
    ) -> None:
        self.model = model
        self.settings = settings
        self.name = name
        self.attempts = attempts
        self.stop = stop
        self.outages = Outages()
        self._answers = 0
        self._row = 0  # failures since the last answer
        self._since = 0.0  # when the first of them was
        self._open = False
        self._given_up = False
        self._probes = 0
        self._probing = asyncio.Lock()

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer one request, however long the model is away within `outage_s`.

        Raises:
            ModelError: when it failed and the model answers others, or trying again does not help.
            ModelDown: when the model has answered nothing for `outage_s`.
            Stopped: when the job was told to stop.
        """
        own = 0
        while True:
            if self._given_up:
                raise Stopped(self.stop)
            answers = self._answers
            try:
                return await self._admitted(request)
            except ModelError as error:
                if not error.retryable:
                    raise
                own += self._answers > answers
                if own >= self.attempts:
                    raise
                if not self._open:
                    await self._pause(_jittered(min(_BACKOFF_S * 2**own, _BACKOFF_MAX_S), request))

    def give_up(self) -> None:
        """Make no call any more: those that are under way may end, the others are Stopped."""
        self._given_up = True

    async def _admitted(self, request: ChatRequest) -> ChatReply:
        """The call at once where the model is there, in turn where it is not."""
        if not self._open:
            return await self._made(request)
        async with self._probing:
            if self._away():  # nobody has been answered while this call waited for its turn
                pause = min(self.settings.probe_s * 2**self._probes, self.settings.probe_max_s)
                self._probes += 1
                await self._pause(pause)
                return await self._made(request)
        return await self._made(request)

    def _away(self) -> bool:
        return self._open

    async def _made(self, request: ChatRequest) -> ChatReply:
        try:
            reply = await self.model.complete(request)
        except ModelError as error:
            if error.retryable:
                self._failed(error)
            else:
                self._answered()  # a refusal is an answer: the model is there
            raise
        self._answered()
        return reply

    def _answered(self) -> None:
        if self._open:
            away = time.monotonic() - self._since
            self.outages.seconds += away
            _log.warning("%s answers again after %.0f s", self.name, away)
        self._answers += 1
        self._row, self._probes, self._open = 0, 0, False

    def _failed(self, error: ModelError) -> None:
        now = time.monotonic()
        self._since = self._since if self._row else now
        self._row += 1
        if self._row >= self.settings.failures_in_a_row and not self._open:
            self._open = True
            self.outages.count += 1
            _log.warning("%s does not answer; waiting and probing: %s", self.name, error)
        away = now - self._since
        if self._open and away >= self.settings.outage_s:
            self.give_up()
            limit = f"outage_s={self.settings.outage_s:g}"
            raise ModelDown(
                f"{self.name} has answered nothing for {away:.0f} s ({limit}); the last: {error}"
            ) from error

    async def _pause(self, seconds: float) -> None:
        """Wait, and look meanwhile whether the job is to stop."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self._given_up or (self.stop and os.path.exists(self.stop)):
                raise Stopped(self.stop)
            await asyncio.sleep(min(left, _HEED_S))


def _jittered(seconds: float, request: ChatRequest) -> float:
    """Half to all of the seconds, spread over the calls so that they do not come back at once."""
    share = zlib.crc32(request.messages[-1].content.encode()) / 2**32
    return seconds * (0.5 + share / 2)
