"""The OpenAI chat API as the gateway speaks it: what is accepted, what is answered, and how every error looks.

`parse_chat` turns the bytes of a request into a ChatBody or raises ApiError, which carries the HTTP status and the
fields of OpenAI's error object. Invariant: whatever a client sends, it gets a completion or such an object.
"""

import difflib
import json
from collections.abc import Collection, Iterable
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from agentmill.agents.frames import fold
from agentmill.models.chat import ChatRequest, Message, Sampling
from rayserve.settings import SERVED_AGENTS, GatewaySettings

SESSION_ID_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"
# Sampling belongs to the agents' settings: these are checked, because clients send them, and named as ignored.
IGNORED = (
    "temperature",
    "top_p",
    "max_tokens",
    "max_completion_tokens",
    "stop",
    "presence_penalty",
    "frequency_penalty",
)
# These would change what a reply is: they are refused where they ask for something else than the default.
UNSUPPORTED = (
    "tools",
    "functions",
    "tool_choice",
    "function_call",
    "response_format",
    "logprobs",
    "audio",
    "logit_bias",
)

B = TypeVar("B", bound=BaseModel)


class ApiError(Exception):
    """An answer that is an error: HTTP status and OpenAI's error object."""

    def __init__(
        self, status: int, message: str, *, code: str, param: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """The error object as OpenAI shapes it."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = "rate_limit_error" if self.status == 429 else kind
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


class TextPart(BaseModel):
    """One part of a message's content; only text is understood."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One message of the client's list; extra fields of it (names, refusals, annotations) are let through unread."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(BaseModel):
    include_usage: bool = False


class Extension(BaseModel):
    """The project's own request field: `trace` asks for every agent's prompt and output with the reply."""

    model_config = ConfigDict(extra="forbid")

    trace: bool = False


class ChatBody(BaseModel):
    """The body of POST /v1/chat/completions."""

    model_config = ConfigDict(extra="allow")

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    n: Literal[1] | None = None
    temperature: float | None = Field(None, ge=0.0, le=2.0)
    top_p: float | None = Field(None, ge=0.0, le=1.0)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    stop: str | list[str] | None = None
    presence_penalty: float | None = Field(None, ge=-2.0, le=2.0)
    frequency_penalty: float | None = Field(None, ge=-2.0, le=2.0)
    user: str = ""
    metadata: dict[str, Any] | None = None
    agentmill: Extension = Extension()

    @field_validator("user", mode="before")
    @classmethod
    def _no_user(cls, value: Any) -> Any:
        return "" if value is None else value

    @property
    def ignored(self) -> list[str]:
        """Fields that were sent and have no effect here."""
        return [name for name in IGNORED if getattr(self, name) is not None]

    @property
    def dialogue(self) -> list[tuple[str, str]]:
        """(role, text) of the customer's and the assistant's messages; instructions to a model are left out."""
        return [(m.role, m.text) for m in self.messages if m.role in ("user", "assistant")]


class SessionBody(BaseModel):
    """The body of POST /v1/sessions: the seed of the world that the conversation plays in."""

    model_config = ConfigDict(extra="forbid")

    world_seed: int = Field(0, ge=0, lt=2**63)


class SwitchBody(BaseModel):
    """The body of POST /v1/sessions/{id}/switches: the change of the business that takes hold."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=160)


class AgentBody(BaseModel):
    """The body of POST /v1/agents/{agent}/complete: one model call as that agent makes it."""

    model_config = ConfigDict(extra="forbid")

    messages: list[Message] = Field(min_length=1)
    temperature: float = Field(0.0, ge=0.0, le=2.0)
    max_tokens: int = Field(256, ge=1, le=8192)
    seed: int | None = None

    def request(self, agent: str) -> ChatRequest:
        """The model request of `agent`.

        Raises:
            ApiError: 404, where no such agent asks a model.
        """
        asking = [name for name in SERVED_AGENTS if name != "executor"]
        for name in asking:
            if name == agent:
                sampling = Sampling(temperature=self.temperature, max_tokens=self.max_tokens, seed=self.seed)
                return ChatRequest(agent=name, messages=tuple(self.messages), sampling=sampling)
        raise unknown("agent", agent, asking)


def parse_body(model: type[B], raw: bytes) -> B:
    """Read a JSON body.

    Raises:
        ApiError: 400, naming the first field that is wrong, its value and the rule.
    """
    try:
        data = json.loads(raw or b"{}")
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {error}; send a JSON object", code="invalid_json") from error
    if b"\\ud" in raw.lower() and not _is_unicode(data):
        raise ApiError(400, "the body has half a surrogate pair; send whole characters", code="invalid_json")
    if not isinstance(data, dict):
        raise ApiError(400, f"the body is a JSON {type(data).__name__}; send an object", code="invalid_json")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _invalid(error) from error


def parse_chat(raw: bytes, settings: GatewaySettings) -> ChatBody:
    """Read and check a chat request.

    Raises:
        ApiError: 400 for a body that cannot be answered, 404 for another model.
    """
    body = parse_body(ChatBody, raw)
    if body.model != settings.model_name:
        raise unknown("model", body.model, [settings.model_name])
    extra = body.model_extra or {}
    for name in UNSUPPORTED:
        if extra.get(name) not in (None, [], {}, "none", "auto", False, {"type": "text"}):
            raise _unsupported(name)
    if len(body.messages) > settings.max_messages:
        message = f"{len(body.messages)} messages, at most {settings.max_messages}; send the latest ones"
        raise ApiError(400, message, code="too_many_messages", param="messages")
    last = body.messages[-1]
    if last.role != "user":
        message = f"the last message is from {last.role!r}; the system answers a message of role 'user'"
        raise ApiError(400, message, code="invalid_last_message", param="messages")
    if not fold(last.text):
        raise ApiError(400, "the last message is empty; send some text", code="empty_message", param="messages")
    if len(last.text) > settings.max_input_chars:
        message = f"the last message has {len(last.text)} characters, at most {settings.max_input_chars}; shorten it"
        raise ApiError(400, message, code="context_length_exceeded", param="messages")
    return body


def unknown(what: str, given: str, known: Collection[str]) -> ApiError:
    """404 for a name that does not exist, with the nearest one that does."""
    guess = difflib.get_close_matches(given, list(known), n=1)
    meant = f" (did you mean {guess[0]!r}?)" if guess else ""
    message = f"{what} {given[:80]!r} does not exist{meant}; known: {', '.join(known)}"
    return ApiError(404, message, code=f"{what}_not_found", param=what)


def completion_id(trace_id: str) -> str:
    return f"chatcmpl-{trace_id}"


def completion(
    trace_id: str, created: int, model: str, text: str, usage: dict[str, int], extension: dict[str, Any]
) -> dict[str, Any]:
    """A whole answer: OpenAI's chat completion object and the extension field `agentmill`."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text, "refusal": None}, "logprobs": None}
    return {
        "id": completion_id(trace_id),
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [{**choice, "finish_reason": "stop"}],
        "usage": usage,
        "agentmill": extension,
    }


class Chunks:
    """The server-sent events of one streamed answer, as text ready to be written."""

    def __init__(self, trace_id: str, created: int, model: str) -> None:
        self._head = {
            "id": completion_id(trace_id),
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
        }

    def opening(self) -> str:
        return self._event({"role": "assistant", "content": ""})

    def delta(self, text: str) -> str:
        return self._event({"content": text})

    def closing(self, usage: dict[str, int], extension: dict[str, Any], *, include_usage: bool) -> Iterable[str]:
        """The last chunk with the extension field, the usage where it was asked for, and the end mark."""
        yield self._event({}, finish_reason="stop", agentmill=extension)
        if include_usage:
            yield sse({**self._head, "choices": [], "usage": usage})
        yield "data: [DONE]\n\n"

    def _event(self, delta: dict[str, Any], finish_reason: str | None = None, **extra: Any) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return sse({**self._head, "choices": [choice], **extra})


def sse(data: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"


def models(name: str, created: int) -> dict[str, Any]:
    """The answer of GET /v1/models."""
    return {"object": "list", "data": [{"id": name, "object": "model", "created": created, "owned_by": "agentmill"}]}


def _is_unicode(data: Any) -> bool:
    """Whether every text in it can be written as UTF-8; JSON's escapes can spell what no tokenizer takes."""
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _unsupported(name: str) -> ApiError:
    message = f"{name} is not supported: the system chooses its own tools and its replies are plain text; leave it out"
    return ApiError(400, message, code="unsupported_parameter", param=name)


def _invalid(error: ValidationError) -> ApiError:
    problem = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in problem["loc"])
    shown = "" if problem["type"] == "missing" else f" ({_shown(problem.get('input'))})"
    message = f"{path or 'body'}{shown}: {problem['msg'].removeprefix('Value error, ')}"
    return ApiError(400, message, code="invalid_value", param=str(problem["loc"][0]) if problem["loc"] else None)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
