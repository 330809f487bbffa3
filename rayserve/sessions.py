"""Which conversation a request belongs to, and for how long conversations are kept.

A client names its conversation by an id, or it only sends its own message list, as the plain OpenAI client does:
then the conversation is the one whose visible messages so far have the same digest. Invariants: a digest that was
matched is used up, so two customers who say the same words never share a conversation; a conversation belongs to the
client that first spoke in it, whoever else names its id; one in the middle of a turn is never closed.
"""

import asyncio
import hashlib
import json
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from agentmill.agents.contracts import Session
from agentmill.agents.frames import fold
from rayserve.settings import SessionSettings

Dialogue = Sequence[tuple[str, str]]


@dataclass
class Conversation:
    """One open conversation. `lock` is held during a turn; `digest` is where a message list finds it.

    `owner` is whose it is, None until a client has spoken in it.
    """

    session: Session
    world_seed: int
    used: float
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0
    digest: str | None = None
    owner: str | None = None

    @property
    def busy(self) -> bool:
        return self.lock.locked() or self.waiting > 0


def dialogue_digest(dialogue: Dialogue, owner: str) -> str:
    """The digest of (role, text) messages; `owner` (a key, a user's name) keeps clients that say it apart."""
    visible = [[role, fold(text)] for role, text in dialogue]
    return hashlib.sha256(json.dumps([owner, visible], ensure_ascii=True).encode()).hexdigest()


class SessionStore:
    """All open conversations of one gateway. Not safe for threads: it lives on one event loop."""

    def __init__(self, settings: SessionSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._by_id: dict[str, Conversation] = {}
        self._by_digest: dict[str, list[str]] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def find(self, session_id: str) -> Conversation | None:
        """The open conversation of this id; finding it counts as use."""
        conversation = self._by_id.get(session_id)
        if conversation is None or self._expired(conversation):
            return None
        conversation.used = self._clock()
        return conversation

    def claim(self, digest: str) -> Conversation | None:
        """The conversation whose messages so far have this digest; it is used up as a way to find it."""
        ids = self._by_digest.get(digest, [])
        while ids:
            conversation = self.find(ids[-1])
            if conversation is not None:
                self._forget_digest(conversation)
                return conversation
            ids.pop()
        self._by_digest.pop(digest, None)
        return None

    def add(self, session: Session, world_seed: int) -> Conversation:
        """Keep a new conversation."""
        conversation = Conversation(session, world_seed, self._clock())
        self._by_id[session.id] = conversation
        return conversation

    def remember(self, conversation: Conversation, digest: str) -> None:
        """From now on a message list with this digest continues the conversation."""
        self._forget_digest(conversation)
        if self._by_id.get(conversation.session.id) is conversation:
            conversation.digest = digest
            self._by_digest.setdefault(digest, []).append(conversation.session.id)

    def remove(self, session_id: str) -> Conversation | None:
        """Stop keeping a conversation; returns it if it was kept."""
        conversation = self._by_id.pop(session_id, None)
        if conversation is not None:
            self._forget_digest(conversation)
        return conversation

    def overdue(self) -> list[Conversation]:
        """Remove and return what has been idle too long, and the idlest where there is no room for one more."""
        idle = sorted((c for c in self._by_id.values() if not c.busy), key=lambda c: c.used)
        surplus = len(self._by_id) + 1 - self._settings.max_count
        gone = [c for rank, c in enumerate(idle) if rank < surplus or self._expired(c)]
        for conversation in gone:
            self.remove(conversation.session.id)
        return gone

    def _expired(self, conversation: Conversation) -> bool:
        return not conversation.busy and self._clock() - conversation.used > self._settings.ttl_s

    def _forget_digest(self, conversation: Conversation) -> None:
        if conversation.digest is None:
            return
        ids = self._by_digest.get(conversation.digest, [])
        if conversation.session.id in ids:
            ids.remove(conversation.session.id)
        if not ids:
            self._by_digest.pop(conversation.digest, None)
        conversation.digest = None


def new_session_id() -> str:
    return uuid.uuid4().hex


def seeded_session(session_id: str, dialogue: Dialogue) -> Session:
    """A new session for a message list whose beginning is unknown here.

    Nothing is replayed: the state starts empty, only the assistant's last words are known to the Understander.
    """
    session = Session(id=session_id)
    replies = [text for role, text in dialogue if role == "assistant"]
    if replies:
        session.last_reply = fold(replies[-1])
    return session
