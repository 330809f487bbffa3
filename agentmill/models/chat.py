"""The one seam to any model: `async complete(ChatRequest) -> ChatReply`.

The caller does not know who answers: an OpenAI-compatible endpoint, a Ray Serve handle, the domain's expert
or a scripted fake. A model that cannot answer raises ModelError; it never returns an empty reply in its place.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, Protocol, Self, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, model_validator

AgentName = Literal["understander", "planner", "evaluator", "executor", "explainer", "user", "judge"]
Role = Literal["system", "user", "assistant"]


class Message(BaseModel):
    """One chat message as the OpenAI chat API has it."""

    model_config = ConfigDict(frozen=True)

    role: Role
    content: str


class Sampling(BaseModel):
    """How to draw the reply. `seed` makes a sampled reply repeatable where the model supports it."""

    model_config = ConfigDict(frozen=True)

    temperature: float = Field(0.0, ge=0.0, le=2.0)
    max_tokens: int = Field(256, ge=1)
    seed: int | None = None


class ChatRequest(BaseModel):
    """One model call by one agent. `agent` is for accounting and routing, never part of the prompt.

    A model that can be guided keeps its output to the JSON schema or the grammar (GBNF); one that cannot be answers as
    it would without them, so that the caller validates in any case.
    """

    model_config = ConfigDict(frozen=True)

    agent: AgentName
    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    response_schema: dict[str, Any] | None = None
    response_grammar: str | None = None

    @model_validator(mode="after")
    def _one_structure(self) -> Self:
        if self.response_schema is not None and self.response_grammar is not None:
            raise ValueError("response_schema and response_grammar exclude each other: an output has one structure")
        return self

    @property
    def structured(self) -> bool:
        """Whether the output's structure is prescribed."""
        return self.response_schema is not None or self.response_grammar is not None


def frame_of(messages: Sequence[Message]) -> str:
    """The frame of an agent's prompt: its first user message. What follows it speaks of outputs that were refused."""
    return next(message.content for message in messages if message.role == "user")


class ChatReply(BaseModel):
    """What the model said and what it cost. `model` names who answered, `expert` for a domain's expert."""

    model_config = ConfigDict(frozen=True)

    text: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: Literal["stop", "length"] = "stop"
    latency_s: float


class ModelError(Exception):
    """The model did not answer (time-out, refusal, broken connection). `retryable` says if trying again can help."""

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.retryable = retryable


class LoadListener(Protocol):
    """Hears what a model's server says of its load."""

    def pushed_back(self) -> None:
        """A request was refused because there is too much to do (429, 503), or was not answered in time."""
        ...

    def queued(self, waiting: int) -> None:
        """So many requests wait in the server's queue."""
        ...


@runtime_checkable
class ReportsLoad(Protocol):
    """A model that tells a listener about its server's load."""

    listener: LoadListener | None


class ChatModel(Protocol):
    """Anything that answers. Implementations are safe for many concurrent calls on one event loop."""

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer one request.

        Raises:
            ModelError: when no answer came.
        """
        ...


@runtime_checkable
class StreamingModel(Protocol):
    """A ChatModel that can also pass its reply on while it is made."""

    async def complete(self, request: ChatRequest) -> ChatReply: ...

    async def stream(self, request: ChatRequest, sink: Callable[[str], Awaitable[None]]) -> ChatReply:
        """Answer one request, giving each piece of text to `sink` as it comes; the pieces together are the text.

        Raises:
            ModelError: when no answer came, or it broke off. Pieces may have been passed on before.
        """
        ...
