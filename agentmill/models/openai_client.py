"""ChatModel over any OpenAI-compatible endpoint (vLLM, a hosted API, our own gateway).

The `openai` package retries what can be retried (time-outs, broken connections, 408, 409, 429, 5xx) with exponential
backoff and honours Retry-After, at most `max_retries` times; what is left over becomes a ModelError. The package is
imported at the first call, since that takes half a second.
"""

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from agentmill.models.chat import ChatReply, ChatRequest, ModelError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_NO_KEY = "none"
_MAX_SHOWN = 300


class OpenAIModel:
    """One model of an endpoint. Safe for many concurrent calls on one event loop; `close` when done.

    `base_url` ends in /v1. Without an `api_key` a placeholder is sent: local servers want none. A request's grammar
    goes along in the field that vLLM's server reads (`structured_outputs`) unless `grammars` is false: servers that do
    not know the field ignore it or answer 400, which is a ModelError like any other refusal.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        max_retries: int = 4,
        grammars: bool = True,
    ) -> None:
        self.base_url = base_url
        self.model = model
        self.timeout_s = timeout_s
        self.max_retries = max_retries
        self.grammars = grammars
        self._api_key = api_key or _NO_KEY
        self._client: AsyncOpenAI | None = None

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer one request.

        Raises:
            ModelError: when no answer came after the retries, it was empty, or the model refused to answer.
        """
        from openai import OpenAIError

        began = time.perf_counter()
        try:
            answer = await self._opened().chat.completions.create(**self._arguments(request))
        except OpenAIError as error:
            raise _model_error(error, self.base_url) from error
        if not answer.choices:
            raise ModelError(f"{self.base_url}: the answer of {self.model} has no choices")
        choice = answer.choices[0]
        self._require_answer(choice.message.refusal, choice.finish_reason)
        return self._reply(
            choice.message.content, choice.finish_reason, answer.usage, time.perf_counter() - began, answer.model
        )

    async def stream(self, request: ChatRequest, sink: Callable[[str], Awaitable[None]]) -> ChatReply:
        """Answer one request, giving each piece of text to `sink` as it comes.

        Raises:
            ModelError: when no answer came, it broke off, or the model refused; pieces may have been passed on before.
        """
        from openai import OpenAIError

        began = time.perf_counter()
        pieces: list[str] = []
        refusal: list[str] = []
        finish, usage, name = "stop", None, self.model
        try:
            chunks = await self._opened().chat.completions.create(
                **self._arguments(request), stream=True, stream_options={"include_usage": True}
            )
            async for chunk in chunks:
                usage, name = chunk.usage or usage, chunk.model or name
                for choice in chunk.choices:
                    finish = choice.finish_reason or finish
                    refusal.append(choice.delta.refusal or "")
                    if choice.delta.content:
                        pieces.append(choice.delta.content)
                        await sink(choice.delta.content)
        except OpenAIError as error:
            raise _model_error(error, self.base_url) from error
        self._require_answer("".join(refusal), finish)
        return self._reply("".join(pieces), finish, usage, time.perf_counter() - began, name)

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    def _opened(self) -> "AsyncOpenAI":
        if self._client is None:
            from openai import AsyncOpenAI

            self._client = AsyncOpenAI(
                base_url=self.base_url, api_key=self._api_key, timeout=self.timeout_s, max_retries=self.max_retries
            )
        return self._client

    def _arguments(self, request: ChatRequest) -> dict[str, Any]:
        sampling = request.sampling
        arguments: dict[str, Any] = {
            "model": self.model,
            "messages": [message.model_dump() for message in request.messages],
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
        }
        if sampling.seed is not None:
            arguments["seed"] = sampling.seed
        if request.response_schema is not None:
            # OpenAI's strict mode wants every property required; an entity that was not heard has to be left out.
            schema = {"name": request.agent, "schema": request.response_schema, "strict": False}
            arguments["response_format"] = {"type": "json_schema", "json_schema": schema}
        if request.response_grammar is not None and self.grammars:
            arguments["extra_body"] = {"structured_outputs": {"grammar": request.response_grammar}}
        return arguments

    def _require_answer(self, refusal: str | None, finish: str | None) -> None:
        if refusal:
            raise ModelError(f"{self.base_url}: {self.model} refused to answer: {refusal[:_MAX_SHOWN]}")
        if finish == "content_filter":
            raise ModelError(f"{self.base_url}: a content filter stopped the answer of {self.model}")

    def _reply(self, text: str | None, finish: str | None, usage: Any, seconds: float, name: str) -> ChatReply:
        if not text:
            raise ModelError(f"{self.base_url}: {self.model} answered with no text (finish_reason={finish})")
        return ChatReply(
            text=text,
            model=name or self.model,
            prompt_tokens=usage.prompt_tokens if usage else 0,
            completion_tokens=usage.completion_tokens if usage else 0,
            finish_reason="length" if finish == "length" else "stop",
            latency_s=seconds,
        )


def _model_error(error: Exception, base_url: str) -> ModelError:
    """The error in our terms; whether trying again can help follows from the kind and the HTTP status."""
    from openai import APIConnectionError, APIStatusError

    if isinstance(error, APIStatusError):
        retryable = error.status_code in (408, 409, 429) or error.status_code >= 500
        return ModelError(f"{base_url} answered {error.status_code}: {error.message}", retryable=retryable)
    return ModelError(f"{base_url}: {error}", retryable=isinstance(error, APIConnectionError))
