"""What crosses the boundary of the shared engine. Plain, so that an agent's process imports no engine to read it."""

from dataclasses import dataclass, fields

from pydantic import BaseModel

from agentmill.models.chat import ChatReply, ModelError


class EngineAnswer(BaseModel):
    """Either a reply, or why there is none and whether asking again can help."""

    reply: ChatReply | None = None
    error: str = ""
    retryable: bool = True

    def unwrap(self) -> ChatReply:
        """The reply.

        Raises:
            ModelError: when the engine refused.
        """
        if self.reply is None:
            raise ModelError(self.error, retryable=self.retryable)
        return self.reply


@dataclass(frozen=True)
class EngineCounts:
    """What an engine has counted since it started: tokens generated and requests preempted; prompt tokens that were
    looked up in the prefix cache, and those found there; drafts (verification steps that had drafted tokens), drafted
    tokens, and those accepted."""

    generated: int = 0
    preempted: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    drafts: int = 0
    drafted: int = 0
    accepted: int = 0

    @property
    def mgl(self) -> float | None:
        """The mean generated length, 1 + accepted / drafts; None where nothing was drafted."""
        return 1 + self.accepted / self.drafts if self.drafts else None

    def __sub__(self, before: "EngineCounts") -> "EngineCounts":
        return EngineCounts(*(getattr(self, one.name) - getattr(before, one.name) for one in fields(self)))

    def __add__(self, other: "EngineCounts") -> "EngineCounts":
        return EngineCounts(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))
