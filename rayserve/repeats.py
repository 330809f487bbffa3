"""Requests that a client sends again: the standard header `Idempotency-Key` makes them safe to repeat.

A client that lost its connection cannot know whether its turn ran. With a key it asks again and gets the very reply
of the first request, streamed or not, even while that one is still being made; nothing runs twice. Invariants: a key
is its client's own; the same key with another request is refused; the end of a turn is kept, errors included, because
a turn that failed may have changed the world. Only what was refused before a turn began is not kept: it may be tried
again with the same key. Memory is bounded as that of the conversations: by their number and their time to live.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from rayserve.openai_api import ApiError
from rayserve.settings import SessionSettings
from rayserve.turns import Answered, Asked

KEY_HEADER = "Idempotency-Key"
REPLAYED_HEADER = "Idempotent-Replayed"
_KEY_PATTERN = re.compile(r"^[\x21-\x7e][\x20-\x7e]{0,254}$")
_NOTHING_RAN = (409, 429, 503)


class Pieces:
    """Text that arrives piece by piece, for any number of readers, each from the beginning."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._ended = False
        self._news = asyncio.Event()

    async def put(self, piece: str) -> None:
        self._pieces.append(piece)
        self._tell()

    def end(self) -> None:
        self._ended = True
        self._tell()

    async def __aiter__(self) -> AsyncIterator[str]:
        place = 0
        while True:
            news = self._news
            while place < len(self._pieces):
                place += 1
                yield self._pieces[place - 1]
            if self._ended and place == len(self._pieces):
                return
            await news.wait()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


@dataclass(frozen=True)
class Exchange:
    """A request whose turn has begun: its task, and the text that it streams."""

    asked: Asked
    task: "asyncio.Task[Answered]"
    pieces: Pieces


Begin = Callable[[], Coroutine[Any, Any, Exchange]]


@dataclass
class _Kept:
    """A request under a key. `ended` is when its turn ended, None while it runs."""

    request: str
    exchange: "asyncio.Task[Exchange]"
    ended: float | None = None


@dataclass
class Repeats:
    """The requests that came with a key. It lives on one event loop."""

    settings: SessionSettings
    clock: Callable[[], float] = time.monotonic
    _kept: dict[tuple[str, str], _Kept] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._kept)

    async def exchange(self, asked: Asked, begin: Begin) -> Exchange:
        """The exchange that `begin` makes, or the one that the same request with the same key began before.

        Raises:
            ApiError: 422, when the key came with another request; whatever `begin` raises.
        """
        if asked.key is None:
            return await begin()
        self._forget()
        place = (asked.owner, asked.key)
        kept = self._kept.get(place)
        if kept is None:
            kept = self._kept[place] = _Kept(asked.digest, asyncio.create_task(begin()))
            kept.exchange.add_done_callback(lambda begun: self._begun(place, begun))
        elif kept.request != asked.digest:
            message = (
                f"{KEY_HEADER} {asked.key[:80]!r} came with another request before; use a new key for a new request"
            )
            raise ApiError(422, message, code="idempotency_key_reused", param=KEY_HEADER)
        return await asyncio.shield(kept.exchange)

    def _begun(self, place: tuple[str, str], begun: "asyncio.Task[Exchange]") -> None:
        if begun.cancelled() or begun.exception() is not None:
            self._kept.pop(place, None)
        else:
            begun.result().task.add_done_callback(lambda task: self._ended(place, task))

    def _ended(self, place: tuple[str, str], task: "asyncio.Task[Answered]") -> None:
        failure = None if task.cancelled() else task.exception()
        if isinstance(failure, ApiError) and failure.status in _NOTHING_RAN:
            self._kept.pop(place, None)
        else:
            self._kept[place].ended = self.clock()

    def _forget(self) -> None:
        """Drop what has been kept long enough, and the oldest where there is no room for one more."""
        ended = sorted((kept.ended, place) for place, kept in self._kept.items() if kept.ended is not None)
        surplus = len(self._kept) + 1 - self.settings.max_count
        for rank, (when, place) in enumerate(ended):
            if rank < surplus or self.clock() - when > self.settings.ttl_s:
                del self._kept[place]


def checked_key(given: str | None) -> str | None:
    """The key of a request, None where it has none.

    Raises:
        ApiError: 400 for something that is no key.
    """
    if given is None or _KEY_PATTERN.match(given):
        return given
    message = f"{KEY_HEADER} {given[:80]!r}: use 1 to 255 printable ASCII characters, for example a UUID"
    raise ApiError(400, message, code="invalid_idempotency_key", param=KEY_HEADER)
