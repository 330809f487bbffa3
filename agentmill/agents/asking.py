"""How an agent asks its model: validate, and ask again a bounded number of times.

The first attempt is greedy, those after an invalid output sample with a seed of their own. With `feedback` such an
attempt is shown that output and what was wrong with it, else the prompt stays as it was. Every attempt is kept as an
AgentCall: `ok`, `invalid` (what came did not pass the agent's validation, `error` says why) or `error` (nothing came).
A model's failure ends here, a bug of its implementation included: the caller gets None, never an exception. After an
attempt with a prescribed structure that brought nothing the others go without it, because the structure may be what
the engine refused or failed at.
"""

import asyncio
import logging
import time
import zlib
from collections.abc import Callable
from typing import Generic, Literal, TypeVar

from agentmill.agents.contracts import AgentCall, TextSink
from agentmill.agents.frames import fold
from agentmill.agents.settings import TeamSettings
from agentmill.agents.state import DialogueState
from agentmill.domains.base import Domain, Json
from agentmill.models.chat import (
    AgentName,
    ChatModel,
    ChatReply,
    ChatRequest,
    Message,
    ModelError,
    Sampling,
    StreamingModel,
)

_log = logging.getLogger(__name__)
V = TypeVar("V")
MAX_SHOWN = 2_000
AGAIN = "Answer the message above again, in the form that was asked for."
UNSTRUCTURED = "further attempts do without the prescribed structure"


class Invalid(ValueError):
    """A model's output is not what the agent asked for; the message says why."""


class Asked(Generic[V]):
    """The validated value, None when every attempt failed, and the calls made."""

    def __init__(self, value: V | None, calls: list[AgentCall]) -> None:
        self.value = value
        self.calls = tuple(calls)


def derived_seed(seed: int, *parts: object) -> int:
    """A seed that depends on all of `parts`, the same in every process."""
    return zlib.crc32(":".join(map(str, (seed, *parts))).encode()) & 0x7FFFFFFF


class ModelAgent:
    """What the four agents with a model share: the domain's static prompt, the settings and the retries.

    Where the business has changed they work on the domain as it is then. `told` says which changes a frame shows: all
    of them, or those alone that make an intent need more entities.
    """

    name: AgentName
    told: Literal["all", "asking"] = "asking"

    def __init__(self, domain: Domain, model: ChatModel, settings: TeamSettings) -> None:
        self.domain = domain
        self.model = model
        self.settings = settings

    def state_fields(self, state: DialogueState) -> Json:
        """The frame fields of a state: its requests, those of its entities that they have use for, and the changes."""
        fields = state.fields(self.domain.under(state.switches).slots_of(state.requests))
        changes = self.domain.changes(state.switches, asking=self.told == "asking")
        return {**fields, "changes": changes} if changes else fields

    async def ask(
        self,
        frame: str,
        validate: Callable[[str], V],
        seed: int,
        stream: TextSink | None = None,
        structure: Json | None = None,
        switches: tuple[str, ...] = (),
    ) -> Asked[V]:
        """Ask until `validate` accepts the output; it raises Invalid for what it refuses.

        The system text is that of the domain with `switches` in force.
        With `stream` an output is passed on as it is made. What has been passed on cannot be taken back, so there is
        no other attempt after that. `structure` is the request's response_schema or response_grammar.
        """
        calls: list[AgentCall] = []
        texts = self.domain.under(switches).prompts[self.settings.prompts]
        prompt = (Message(role="system", content=texts[self.name]), Message(role="user", content=frame))
        for attempt in range(self.settings.attempts):
            request = self._request(prompt, derived_seed(seed, self.name, attempt), calls, structure)
            sink = _Sink(stream)
            began = time.perf_counter()
            try:
                async with asyncio.timeout(self.settings.call_timeout_s):
                    reply = await self._complete(request, sink)
            except (ModelError, TimeoutError) as error:
                calls.append(self._failed(request, error, time.perf_counter() - began))
                hopeless = isinstance(error, ModelError) and not error.retryable and not request.structured
                if sink.used or hopeless:
                    break
                structure = None
                continue
            value, problem = _validated(reply, validate)
            calls.append(self._answered(request, reply, problem))
            if not problem:
                return Asked(value, calls)
            if sink.used:
                break
        return Asked(None, calls)

    async def _complete(self, request: ChatRequest, sink: "_Sink") -> ChatReply:
        try:
            if sink.target is not None and isinstance(self.model, StreamingModel):
                return await self.model.stream(request, sink)
            return await self.model.complete(request)
        except (ModelError, TimeoutError):
            raise
        except Exception as error:  # a model's code is not ours, and no bug of it may reach the customer
            _log.exception("the model of the %s failed", self.name)
            raise ModelError(f"the model failed: {type(error).__name__}: {error}") from error

    def _request(
        self, prompt: tuple[Message, ...], seed: int, earlier: list[AgentCall], structure: Json | None
    ) -> ChatRequest:
        sampling = Sampling(
            temperature=self.settings.retry_temperature if any(call.status == "invalid" for call in earlier) else 0.0,
            max_tokens=getattr(self.settings.max_tokens, self.name),
            seed=seed,
        )
        messages = prompt
        if self.settings.feedback and earlier and earlier[-1].status == "invalid":
            messages += feedback(earlier[-1])
        return ChatRequest(agent=self.name, messages=messages, sampling=sampling, **(structure or {}))

    def _failed(self, request: ChatRequest, error: ModelError | TimeoutError, seconds: float) -> AgentCall:
        text = str(error) or f"no answer within {self.settings.call_timeout_s:g} s"
        if request.structured:
            text = f"{text}; {UNSTRUCTURED}"
        return AgentCall(
            agent=self.name, messages=request.messages, output="", status="error", error=text, latency_s=seconds
        )

    def _answered(self, request: ChatRequest, reply: ChatReply, problem: str) -> AgentCall:
        return AgentCall(
            agent=self.name,
            messages=request.messages,
            output=reply.text,
            status="invalid" if problem else "ok",
            error=problem,
            model=reply.model,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            latency_s=reply.latency_s,
        )


def feedback(refused: AgentCall) -> tuple[Message, Message]:
    """An output that was refused and why, as the messages that a further attempt is shown after its prompt."""
    said = Message(role="assistant", content=refused.output[:MAX_SHOWN])
    return said, Message(role="user", content=f"That was refused: {fold(refused.error)}. {AGAIN}")


class _Sink:
    """Passes pieces of text on, line breaks folded to spaces, and remembers that it did."""

    def __init__(self, target: TextSink | None) -> None:
        self.target = target
        self.used = False
        self._space = False

    async def __call__(self, text: str) -> None:
        assert self.target is not None
        words = text.split()
        if words:
            lead = " " if self.used and (self._space or text[0].isspace()) else ""
            self.used = True
            await self.target(lead + " ".join(words))
        self._space = (self._space and not words) or text[-1:].isspace()


def _validated(reply: ChatReply, validate: Callable[[str], V]) -> tuple[V | None, str]:
    """The value and "", or None and why the output was refused."""
    if reply.finish_reason == "length":
        return None, f"cut after {reply.completion_tokens} tokens"
    try:
        return validate(reply.text), ""
    except Invalid as refused:
        return None, str(refused)
