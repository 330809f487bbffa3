"""The served conversations: picks the conversation of a request, runs its turn, accounts for it.

Knows nothing of HTTP or Ray: the Team and the Executor are given, local or remote. Invariants: turns of one
conversation never overlap; a turn that has begun runs to its end even if the client has gone, so that the state and
the world stay in step; a conversation whose turn failed half-way is closed, never continued; no reply waits for a
shadow verdict, except where the client asked for the trace, which shows it.
"""

import asyncio
import hashlib
import json
import logging
import time
import uuid
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentmill.agents.contracts import (
    ExecutorAgent,
    Session,
    SwitchRefused,
    TextSink,
    TurnOutcome,
    UnknownSession,
)
from agentmill.agents.frames import fold
from agentmill.agents.gate import GateCounts, settled
from agentmill.domains.switching import UnknownSwitch
from agentmill.models.chat import ChatReply, ChatRequest
from agentmill.records import GateMark
from rayserve.openai_api import ApiError, ChatBody, unknown
from rayserve.sessions import Conversation, SessionStore, dialogue_digest, new_session_id, seeded_session
from rayserve.settings import SERVED_AGENTS, ServeSettings

if TYPE_CHECKING:
    from agentmill.agents.team import Team

_log = logging.getLogger("ray.serve")  # Serve keeps this one in its replicas' log files
RETRY_LATER = {"Retry-After": "1"}


@dataclass(frozen=True)
class Asked:
    """One chat request as the conversations see it: the checked body, the named conversation, whose client it is.

    `key` is the client's own name for this request, if it gave one.
    """

    body: ChatBody
    session_id: str | None
    owner: str
    key: str | None = None
    trace_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def digest(self) -> str:
        """What tells this request from another one of the same client."""
        content = json.dumps([self.session_id, self.body.model_dump(mode="json")], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


@dataclass(frozen=True)
class Answered:
    """What a turn gave: the reply, OpenAI's usage numbers and the extension field."""

    text: str
    usage: dict[str, int]
    extension: dict[str, Any]


class Conversations:
    """All conversations of one gateway. `ask` makes one model call as a named agent does; `ping` checks the parts.

    `gate` counts what became of the plans; `count` is told each of its marks too.
    """

    def __init__(
        self,
        settings: ServeSettings,
        team: "Team",
        executor: ExecutorAgent,
        ask: Callable[[ChatRequest], Awaitable[ChatReply]],
        ping: Callable[[], Awaitable[dict[str, str]]],
        count: Callable[[GateMark], None] = lambda mark: None,
    ) -> None:
        self.settings = settings
        self.started = int(time.time())
        self.ask, self.ping = ask, ping
        self.gate = GateCounts()
        self._count = count
        self._team, self._executor = team, executor
        self._store = SessionStore(settings.sessions)
        self._running: set[asyncio.Task[Answered]] = set()
        self._judging: set[asyncio.Task[TurnOutcome]] = set()
        self._naming = asyncio.Lock()

    def __len__(self) -> int:
        return len(self._store)

    async def begin(self, asked: Asked, stream: TextSink | None = None) -> "asyncio.Task[Answered]":
        """Start the turn that `asked` is for; the task goes on when nobody waits for it any more.

        Raises:
            ApiError: 429, where too many turns are running; 403, where the named conversation is another client's.
            WorldUnavailable: when a new conversation's world cannot be reached.
        """
        if len(self._running) >= self.settings.gateway.max_ongoing_requests:
            message = f"{len(self._running)} turns are running, which is the limit; try again in a second"
            raise ApiError(429, message, code="too_many_requests", headers=RETRY_LATER)
        conversation = await self._conversation(asked)
        conversation.owner = asked.owner
        conversation.waiting += 1  # from here on it is busy and cannot be closed
        task = asyncio.create_task(self._turn(asked, conversation, stream))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def open(self, world_seed: int, session: Session | None = None) -> Conversation:
        """Open a conversation in a fresh world; closes what is overdue first."""
        await self._close_overdue()
        session = session or Session(id=new_session_id())
        session.facts = await self._executor.open(session.id, world_seed)
        return self._store.add(session, world_seed)

    async def snapshot(self, session_id: str) -> tuple[Conversation, dict[str, Any]]:
        """A conversation and its world as it is now.

        Raises:
            ApiError: 404 for an unknown id, 410 when its world is gone.
        """
        conversation = self._known(session_id)
        try:
            return conversation, await self._executor.snapshot(session_id)
        except UnknownSession as error:
            raise self._lost(conversation) from error

    async def switch(self, session_id: str, name: str) -> Conversation:
        """Let a change of the business take hold in a conversation's world, between two of its turns.

        Raises:
            ApiError: 404 for an unknown id, 400 for a switch that the pack has not, 409 where the world is shared or
                another turn holds on, 410 when the world is gone.
        """
        conversation = self._known(session_id)
        try:
            async with self._alone(conversation):
                await self._team.switch(conversation.session, name)
        except UnknownSwitch as error:
            raise ApiError(400, str(error), code="unknown_switch", param="name") from error
        except SwitchRefused as error:
            raise ApiError(409, str(error), code="world_shared", param="name") from error
        except UnknownSession as error:
            raise self._lost(conversation) from error
        return conversation

    async def close(self, session_id: str) -> None:
        """Close a conversation and its world.

        Raises:
            ApiError: 404 for an unknown id.
        """
        conversation = self._known(session_id)
        async with conversation.lock:
            await self._discard(conversation)

    async def _conversation(self, asked: Asked) -> Conversation:
        """The conversation that the client names, or that its messages so far lead to, or a new one."""
        before = asked.body.dialogue[:-1]
        if asked.session_id is not None:
            async with self._naming:  # two requests may name the same new conversation at once
                named = self._store.find(asked.session_id)
                if named is not None and named.owner not in (None, asked.owner):
                    message = "this session id belongs to another client; leave it out or use one of your own"
                    raise ApiError(403, message, code="session_of_another_client", param="metadata")
                return named or await self.open(0, seeded_session(asked.session_id, before))
        if before:
            found = self._store.claim(dialogue_digest(before, asked.owner))
            if found is not None:
                return found
        return await self.open(0, seeded_session(new_session_id(), before))

    async def _turn(self, asked: Asked, conversation: Conversation, stream: TextSink | None) -> Answered:
        start = time.perf_counter()
        session = conversation.session
        utterance = fold(asked.body.messages[-1].text)
        seed = asked.body.seed
        if seed is None:
            seed = zlib.crc32(f"{session.id}/{session.turn}".encode())
        try:
            async with self._alone(conversation):
                outcome = await self._team.turn(session, utterance, seed, stream)
        except ApiError:
            raise  # another turn of this conversation goes on: it is not ours to close
        except TimeoutError as error:
            await self._discard(conversation)
            message = f"no reply within {self.settings.gateway.turn_timeout_s:g} s; start a new conversation"
            raise ApiError(504, message, code="turn_timeout") from error
        except UnknownSession as error:
            raise self._lost(conversation) from error
        except BaseException:
            await self._discard(conversation)
            raise
        finally:
            conversation.waiting -= 1
        self._after(asked, conversation, outcome.turn.reply)
        _log.info(
            "trace=%s session=%s turn=%d status=%s intent=%s calls=%d gate=%s seconds=%.3f",
            asked.trace_id, session.id, session.turn, outcome.turn.status, outcome.turn.intent, len(outcome.calls),
            outcome.turn.gate, time.perf_counter() - start,
        )  # fmt: skip
        judging = self._judge(asked, outcome)
        traced = await asyncio.shield(judging) if asked.body.agentmill.trace and self.settings.gateway.trace else None
        return self._answered(asked, session, outcome, traced)

    def _judge(self, asked: Asked, outcome: TurnOutcome) -> "asyncio.Task[TurnOutcome]":
        """Wait for the turn's shadow verdict, if there is one, in the background, and count what the gate did."""
        task = asyncio.create_task(self._judged(asked, outcome))
        self._judging.add(task)
        task.add_done_callback(self._judging.discard)
        return task

    async def _judged(self, asked: Asked, outcome: TurnOutcome) -> TurnOutcome:
        if outcome.shadow is not None:
            await asyncio.wait({outcome.shadow.verdict})
            failure = outcome.shadow.verdict.exception()
            if failure is None:
                outcome = await settled(outcome)
            else:  # a fault of ours, but the turn is over and was right: its plan stays unjudged
                _log.error("trace=%s shadow verdict failed", asked.trace_id, exc_info=failure)
        self.gate.add(outcome.turn.gate)
        self._count(outcome.turn.gate)
        return outcome

    @asynccontextmanager
    async def _alone(self, conversation: Conversation) -> AsyncIterator[None]:
        """Hold the conversation for one turn of at most `turn_timeout_s`; waiting for it has the same limit.

        Raises:
            ApiError: 409, when another turn of it holds on.
            TimeoutError: when the turn itself takes too long.
        """
        limit_s = self.settings.gateway.turn_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                await conversation.lock.acquire()
        except TimeoutError as error:
            message = f"another turn of this conversation still runs after {limit_s:g} s; try again later"
            raise ApiError(409, message, code="conversation_busy") from error
        try:
            async with asyncio.timeout(limit_s):
                yield
        finally:
            conversation.lock.release()

    def _after(self, asked: Asked, conversation: Conversation, reply: str) -> None:
        conversation.used = time.monotonic()
        if asked.session_id is None:
            dialogue = [*asked.body.dialogue, ("assistant", reply)]
            self._store.remember(conversation, dialogue_digest(dialogue, asked.owner))

    def _answered(self, asked: Asked, session: Session, outcome: TurnOutcome, traced: TurnOutcome | None) -> Answered:
        """The answer. What a shadow verdict cost is in the trace only: the customer did not ask for it."""
        prompt = sum(call.prompt_tokens for call in outcome.calls)
        completion = sum(call.completion_tokens for call in outcome.calls)
        usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        extension: dict[str, Any] = {
            "trace_id": asked.trace_id,
            "session_id": session.id,
            "status": outcome.turn.status,
            "agents": agent_usage(outcome),
        }
        trace = asked.body.agentmill.trace
        ignored = asked.body.ignored + (["agentmill.trace"] if trace and not self.settings.gateway.trace else [])
        if ignored:
            extension["ignored"] = ignored
        if traced is not None:
            extension["calls"] = [call.model_dump(mode="json") for call in traced.calls]
            extension["turn"] = traced.turn.model_dump(mode="json")
        return Answered(outcome.turn.reply, usage, extension)

    def _known(self, session_id: str) -> Conversation:
        conversation = self._store.find(session_id)
        if conversation is None:
            raise unknown("session", session_id, [])
        return conversation

    def _lost(self, conversation: Conversation) -> ApiError:
        self._store.remove(conversation.session.id)
        message = "the conversation's world is gone, because the process that held it was replaced; start a new one"
        return ApiError(410, message, code="session_lost")

    async def _discard(self, conversation: Conversation) -> None:
        self._store.remove(conversation.session.id)
        try:
            await self._executor.close(conversation.session.id)
        except UnknownSession:
            return  # it is closed already, which is what was wanted

    async def _close_overdue(self) -> None:
        for conversation in self._store.overdue():
            await self._discard(conversation)


def agent_usage(outcome: TurnOutcome) -> dict[str, dict[str, float]]:
    """Calls, tokens and seconds of each agent that took part in the turn, in the order of the system M."""
    usage: dict[str, dict[str, float]] = {}
    for agent in SERVED_AGENTS:
        calls = [call for call in outcome.calls if call.agent == agent]
        if calls:
            usage[agent] = {
                "calls": len(calls),
                "prompt_tokens": sum(call.prompt_tokens for call in calls),
                "completion_tokens": sum(call.completion_tokens for call in calls),
                "seconds": round(sum(call.latency_s for call in calls), 6),
            }
    return usage
