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


@dataclass(frozen=True)
class ClipCount:
    """How many values lay outside of their calibrated range, of all that were looked at."""

    clipped: int = 0
    total: int = 0

    @property
    def rate(self) -> float | None:
        """The share outside; None where nothing was looked at."""
        return self.clipped / self.total if self.total else None

    def __add__(self, other: "ClipCount") -> "ClipCount":
        return ClipCount(self.clipped + other.clipped, self.total + other.total)

    def __sub__(self, before: "ClipCount") -> "ClipCount":
        return ClipCount(self.clipped - before.clipped, self.total - before.total)


@dataclass(frozen=True)
class RangeDrift:
    """What an engine has sampled of its linear layers' inputs since it started, by layer (as transformers names it)."""

    by_layer: dict[str, ClipCount]

    @property
    def total(self) -> ClipCount:
        """Over all layers."""
        return sum(self.by_layer.values(), ClipCount())

    @property
    def worst(self) -> str | None:
        """The layer with the highest rate; None where nothing was looked at."""
        rates = {layer: count.rate for layer, count in self.by_layer.items() if count.rate is not None}
        return max(rates, key=lambda layer: rates[layer], default=None)

    def __sub__(self, before: "RangeDrift") -> "RangeDrift":
        old = before.by_layer
        return RangeDrift({layer: count - old.get(layer, ClipCount()) for layer, count in self.by_layer.items()})
