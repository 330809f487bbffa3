"""ChatModel over any OpenAI-compatible endpoint (vLLM, a hosted API, our own gateway), on aiohttp.

What can be retried is (time-outs, broken connections, 408, 409, 429, 5xx), with jittered backoff or as the server's
Retry-After asks, at most `max_retries` times; what is left over becomes a ModelError. A retried call is one call.
A `listener` hears when the endpoint had too much to do, and how many requests wait in its queue where it says so.

aiohttp, because a call costs its client a quarter of a millisecond there and several times as much with the `openai`
package; it is imported at the first call.
"""

import asyncio
import json
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from agentmill.models.chat import ChatReply, ChatRequest, LoadListener, ModelError
from agentmill.models.retrying import delay_s, overloaded, retryable

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

T = TypeVar("T")
_MAX_SHOWN = 300
_CONNECT_TIMEOUT_S = 30.0
_MAX_EVENT_BYTES = 2**20
# vLLM's server adds its queue's length to an answer that asks for it. Looking it up costs the server some
# milliseconds, so that only one call in a while asks.
_LOAD = "endpoint-load-metrics"
_ASK_LOAD = {f"{_LOAD}-format": "JSON"}
_ASK_LOAD_EVERY_S = 1.0


class OpenAIModel:
    """One model of an endpoint. Safe for many concurrent calls on one event loop; `close` when done.

    `base_url` ends in /v1. Without an `api_key` none is sent. A request's grammar goes along in the field that vLLM's
    server reads (`structured_outputs`) unless `grammars` is false: servers that do not know the field ignore it or
    answer 400, which is a ModelError like any other refusal. There are as many connections as calls in flight.
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
        self.listener: LoadListener | None = None
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._proxy = _proxy_of(base_url)
        self._session: ClientSession | None = None
        self._load_asked = float("-inf")

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer one request.

        Raises:
            ModelError: when no answer came after the retries, it was empty, or the model refused to answer.
        """
        began = time.perf_counter()
        content = await self._fetched(self._body(request))
        try:
            said = json.loads(content)
            choice = said["choices"][0] if said["choices"] else None
            if choice is None:
                raise ModelError(f"{self.base_url}: the answer of {self.model} has no choices")
            message, finish = choice["message"], choice.get("finish_reason")
            self._require_answer(message.get("refusal"), finish)
            text, usage, name = message.get("content"), said.get("usage"), said.get("model")
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{self.base_url} did not answer as an OpenAI-compatible endpoint: {_shown(content)}"
            ) from error
        return self._reply(text, finish, usage, time.perf_counter() - began, name)

    async def stream(self, request: ChatRequest, sink: Callable[[str], Awaitable[None]]) -> ChatReply:
        """Answer one request, giving each piece of text to `sink` as it comes.

        Raises:
            ModelError: when no answer came, it broke off, or the model refused; pieces may have been passed on before.
        """
        began = time.perf_counter()
        pieces: list[str] = []
        refusal: list[str] = []
        finish, usage, name = "stop", None, self.model
        async with self._opening(self._body(request, stream=True)) as answer:
            async for chunk in self._events(answer):
                usage, name = chunk.get("usage") or usage, chunk.get("model") or name
                for choice in chunk.get("choices") or ():
                    finish = choice.get("finish_reason") or finish
                    delta = choice.get("delta") or {}
                    refusal.append(delta.get("refusal") or "")
                    if delta.get("content"):
                        pieces.append(delta["content"])
                        await sink(delta["content"])
        self._require_answer("".join(refusal), finish)
        return self._reply("".join(pieces), finish, usage, time.perf_counter() - began, name)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _opened(self) -> "ClientSession":
        if self._session is None:
            import aiohttp
            from yarl import URL

            self._endpoint = URL(self._url)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
                timeout=aiohttp.ClientTimeout(total=self.timeout_s, sock_connect=_CONNECT_TIMEOUT_S),
                headers=self._headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=_MAX_EVENT_BYTES,
            )
        return self._session

    async def _fetched(self, body: bytes) -> bytes:
        """The body of an answer with status 200, after the retries."""
        return await self._retried(body, self._read, self._asking())

    async def _read(self, answer: "ClientResponse") -> bytes:
        async with answer:
            self._hear_load(answer)
            return await answer.read()

    @asynccontextmanager
    async def _opening(self, body: bytes) -> AsyncIterator["ClientResponse"]:
        """A response with status 200, after the retries, to be read; a stream that breaks is not begun again.

        Raises:
            ModelError: when there is none, or it broke off.
        """
        import aiohttp

        async def as_it_is(answer: "ClientResponse") -> "ClientResponse":
            return answer

        answer = await self._retried(body, as_it_is, {})
        try:
            async with answer:
                yield answer
        except TimeoutError as error:
            self._pushed_back()
            raise ModelError(f"{self.base_url}: the answer did not end within {self.timeout_s:g} s") from error
        except aiohttp.ClientError as error:
            raise ModelError(f"{self.base_url}: the answer broke off: {_named(error)}") from error

    async def _retried(
        self, body: bytes, use: "Callable[[ClientResponse], Awaitable[T]]", headers: dict[str, str]
    ) -> T:
        """What `use` makes of the first answer with status 200.

        Raises:
            ModelError: when there was none, or it could not be used, `max_retries` + 1 times.
        """
        import aiohttp

        for attempt in range(self.max_retries + 1):
            said: dict[str, str] = {}
            try:
                answer = await self._opened().post(self._endpoint, data=body, headers=headers, proxy=self._proxy)
                if answer.status == 200:
                    return await use(answer)
                said = {name.lower(): value for name, value in answer.headers.items()}
                problem = await self._refused(answer)
            except TimeoutError:
                self._pushed_back()
                problem = ModelError(f"{self.base_url}: no answer within {self.timeout_s:g} s")
            except aiohttp.InvalidURL as error:
                raise ModelError(f"{self.base_url} is no URL that can be asked: {error}", retryable=False) from error
            except aiohttp.ClientError as error:
                problem = ModelError(f"{self.base_url}: {_named(error)}")
            if not problem.retryable or attempt == self.max_retries:
                raise problem
            await asyncio.sleep(delay_s(attempt, said))
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _refused(self, answer: "ClientResponse") -> ModelError:
        """What a status other than 200 means; whether trying again can help follows from it."""
        async with answer:
            content = await answer.read()
        if overloaded(answer.status):
            self._pushed_back()
        told = f"{self.base_url} answered {answer.status}: {_error_message(content)}"
        return ModelError(told, retryable=retryable(answer.status))

    async def _events(self, answer: "ClientResponse") -> AsyncIterator[dict[str, Any]]:
        """The JSON objects of a stream of server-sent events.

        Raises:
            ModelError: when one of them says what went wrong, or is no JSON object.
        """
        async for line in answer.content:
            data = line.removeprefix(b"data:").strip()
            if not line.startswith(b"data:") or data == b"[DONE]":
                continue
            try:
                event = json.loads(data)
            except ValueError as error:
                raise ModelError(f"{self.base_url}: the stream broke off: {_shown(data)}") from error
            if not isinstance(event, dict) or event.get("error"):
                raise ModelError(f"{self.base_url}: the stream broke off: {_error_message(data)}")
            yield event

    def _asking(self) -> dict[str, str]:
        """The headers that ask for the engine's load, when it is time to ask."""
        now = time.monotonic()
        if self.listener is None or now - self._load_asked < _ASK_LOAD_EVERY_S:
            return {}
        self._load_asked = now
        return _ASK_LOAD

    def _hear_load(self, answer: "ClientResponse") -> None:
        report = answer.headers.get(_LOAD, "")
        if self.listener is None or not report.startswith("JSON "):
            return
        try:
            self.listener.queued(int(json.loads(report[5:])["named_metrics"]["num_requests_waiting"]))
        except (ValueError, LookupError, TypeError):
            return  # an endpoint that reports other measures

    def _pushed_back(self) -> None:
        if self.listener is not None:
            self.listener.pushed_back()

    def _body(self, request: ChatRequest, *, stream: bool = False) -> bytes:
        sampling = request.sampling
        fields: dict[str, Any] = {
            "model": self.model,
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
        }
        if sampling.seed is not None:
            fields["seed"] = sampling.seed
        if request.response_schema is not None:
            # OpenAI's strict mode wants every property required; an entity that was not heard has to be left out.
            schema = {"name": request.agent, "schema": request.response_schema, "strict": False}
            fields["response_format"] = {"type": "json_schema", "json_schema": schema}
        if request.response_grammar is not None and self.grammars:
            fields["structured_outputs"] = {"grammar": request.response_grammar}
        if stream:
            fields |= {"stream": True, "stream_options": {"include_usage": True}}
        messages = ",".join(
            _kept_message(one.content) if one.role == "system" else _message(one.role, one.content)
            for one in request.messages
        )
        return f'{{"messages":[{messages}],{json.dumps(fields, ensure_ascii=False)[1:]}'.encode()

    def _require_answer(self, refusal: str | None, finish: str | None) -> None:
        if refusal:
            raise ModelError(f"{self.base_url}: {self.model} refused to answer: {refusal[:_MAX_SHOWN]}")
        if finish == "content_filter":
            raise ModelError(f"{self.base_url}: a content filter stopped the answer of {self.model}")

    def _reply(self, text: str | None, finish: str | None, usage: Any, seconds: float, name: str | None) -> ChatReply:
        if not text:
            raise ModelError(f"{self.base_url}: {self.model} answered with no text (finish_reason={finish})")
        counts = usage if isinstance(usage, dict) else {}
        return ChatReply(
            text=text,
            model=name or self.model,
            prompt_tokens=counts.get("prompt_tokens") or 0,
            completion_tokens=counts.get("completion_tokens") or 0,
            finish_reason="length" if finish == "length" else "stop",
            latency_s=seconds,
        )


def _message(role: str, content: str) -> str:
    return json.dumps({"role": role, "content": content}, ensure_ascii=False)


@lru_cache(maxsize=64)
def _kept_message(content: str) -> str:
    """A system message, which is most of a request and the same in all of an agent's."""
    return _message("system", content)


def _proxy_of(url: str) -> str | None:
    """The proxy that the environment names for an address, looked up once: aiohttp would do so at every call."""
    parts = urlsplit(url)
    if not parts.hostname or urllib.request.proxy_bypass(parts.hostname):
        return None
    if parts.hostname == "localhost" or parts.hostname.startswith("127.") or parts.hostname == "::1":
        return None
    return urllib.request.getproxies().get(parts.scheme)


def _error_message(content: bytes) -> str:
    """What an error's body says: OpenAI's form, or its beginning."""
    try:
        said = json.loads(content)
        error = said.get("error", said)
        message = error["message"] if isinstance(error, dict) else error
    except (ValueError, LookupError, AttributeError, TypeError):
        return _shown(content)
    return str(message)[:_MAX_SHOWN]


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _shown(content: bytes) -> str:
    return content[:_MAX_SHOWN].decode(errors="replace").strip() or "nothing"
