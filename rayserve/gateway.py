"""The HTTP side: an OpenAI-compatible API before the five agents, and the Serve deployment that holds it.

`http_app` is an ASGI application over Conversations, with or without Ray. Invariant: every answer is JSON (or
server-sent events) in OpenAI's shapes, errors too; a stack trace stays in the log, beside the trace id that the
client was given.

A streamed reply is the Explainer's tokens as the engine makes them, so nothing can be taken back: the Explainer's
retries happen only before its first word, and a stream that breaks off later goes on with the safe reply. What the
other agents say is never streamed; a question back or a safe reply comes in one piece. A request that comes again
with its `Idempotency-Key` gets the same answer (see `rayserve.repeats`).
"""

import asyncio
import hashlib
import logging
import re
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from agentmill.agents.contracts import WorldUnavailable
from agentmill.models.chat import ModelError
from rayserve.openai_api import (
    SESSION_ID_PATTERN,
    AgentBody,
    ApiError,
    Chunks,
    SessionBody,
    SwitchBody,
    completion,
    models,
    parse_body,
    parse_chat,
    sse,
    unknown,
)
from rayserve.repeats import KEY_HEADER, REPLAYED_HEADER, Exchange, Pieces, Repeats, checked_key
from rayserve.sessions import Conversation
from rayserve.settings import GatewaySettings
from rayserve.turns import RETRY_LATER, Answered, Asked, Conversations

_log = logging.getLogger("ray.serve")  # Serve keeps this one in its replicas' log files
SESSION_HEADER = "X-Session-Id"


def http_app(conversations: Conversations) -> FastAPI:
    """The gateway's routes over `conversations`; the sessions API only where the settings open it."""
    app = FastAPI(title="agentmill", docs_url=None, redoc_url=None, openapi_url=None)
    gateway = conversations.settings.gateway
    repeats = Repeats(conversations.settings.sessions)
    _add_errors(app)

    @app.get("/health")
    async def health() -> Response:
        parts = await conversations.ping()
        failed = {name: state for name, state in parts.items() if state != "ok"}
        body = {"status": "failed" if failed else "ok", "model": gateway.model_name, "parts": parts}
        return JSONResponse({**body, "sessions": len(conversations)}, status_code=503 if failed else 200)

    @app.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return models(gateway.model_name, conversations.started)

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        if name != gateway.model_name:
            raise unknown("model", name, [gateway.model_name])
        model: dict[str, Any] = models(name, conversations.started)["data"][0]
        return model

    @app.get("/v1/gate")
    async def gate() -> dict[str, Any]:
        return conversations.gate.shown()

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = parse_chat(await _read(request, gateway), gateway)
        key = checked_key(request.headers.get(KEY_HEADER))
        asked = Asked(body, _session_id(request, body.metadata), _owner(request, body.user), key)
        exchange = await repeats.exchange(asked, lambda: _begin(conversations, asked))
        headers = {"X-Request-Id": exchange.asked.trace_id}
        if exchange.asked is not asked:
            headers[REPLAYED_HEADER] = "true"
        if body.stream:
            return await _streamed(gateway.model_name, exchange, headers)
        answered = await asyncio.shield(exchange.task)
        return JSONResponse(_completion(gateway.model_name, exchange.asked, answered), headers=headers)

    if conversations.settings.sessions_api:
        _add_sessions(app, conversations)
    return app


def _add_sessions(app: FastAPI, conversations: Conversations) -> None:
    """Routes for evaluation: a conversation in a world of a given seed, that world, its changes, single agents."""
    gateway = conversations.settings.gateway

    @app.post("/v1/sessions", status_code=201)
    async def open_session(request: Request) -> dict[str, Any]:
        body = parse_body(SessionBody, await _read(request, gateway))
        return _shown(await conversations.open(body.world_seed))

    @app.get("/v1/sessions/{session_id}")
    async def show_session(session_id: str) -> dict[str, Any]:
        conversation, world = await conversations.snapshot(session_id)
        return {**_shown(conversation), "world": world}

    @app.post("/v1/sessions/{session_id}/switches")
    async def switch_session(session_id: str, request: Request) -> dict[str, Any]:
        body = parse_body(SwitchBody, await _read(request, gateway))
        return _shown(await conversations.switch(session_id, body.name))

    @app.delete("/v1/sessions/{session_id}")
    async def close_session(session_id: str) -> dict[str, Any]:
        await conversations.close(session_id)
        return {"id": session_id, "deleted": True}

    @app.post("/v1/agents/{agent}/complete")
    async def complete(agent: str, request: Request) -> dict[str, Any]:
        body = parse_body(AgentBody, await _read(request, gateway))
        return (await conversations.ask(body.request(agent))).model_dump(mode="json")


def _shown(conversation: Conversation) -> dict[str, Any]:
    session = conversation.session
    return {
        "id": session.id,
        "world_seed": conversation.world_seed,
        "turn": session.turn,
        "state": session.state.model_dump(mode="json"),
        "facts": session.facts,
    }


async def _begin(conversations: Conversations, asked: Asked) -> Exchange:
    """Begin the turn of a request that was not made before."""
    pieces = Pieces()
    task = await conversations.begin(asked, pieces.put if asked.body.stream else None)
    task.add_done_callback(lambda _: pieces.end())
    return Exchange(asked, task, pieces)


def _completion(model: str, asked: Asked, answered: Answered) -> dict[str, Any]:
    return completion(asked.trace_id, asked.created, model, answered.text, answered.usage, answered.extension)


async def _streamed(model: str, exchange: Exchange, headers: dict[str, str]) -> Response:
    """A streamed answer. Errors before the first event are ordinary HTTP errors; later ones are an event."""
    pieces = aiter(exchange.pieces)
    first = await anext(pieces, None)
    if first is None:
        await asyncio.shield(exchange.task)  # a turn that failed before it said anything raises here
    events = _events(model, exchange, first, pieces)
    return StreamingResponse(events, media_type="text/event-stream", headers={**headers, "Cache-Control": "no-cache"})


async def _events(model: str, exchange: Exchange, first: str | None, pieces: AsyncIterator[str]) -> AsyncIterator[str]:
    """A chunk for each piece of text, then the extension field, then the end mark."""
    asked, task = exchange.asked, exchange.task
    chunks = Chunks(asked.trace_id, asked.created, model)
    yield chunks.opening()
    piece = first
    while piece is not None:
        yield chunks.delta(piece)
        piece = await anext(pieces, None)
    await asyncio.wait({task})
    failure = task.exception()
    if failure is not None:
        yield sse((failure if isinstance(failure, ApiError) else _fault(failure, asked.trace_id)).body())
        return
    answered = task.result()
    options = asked.body.stream_options
    include_usage = options is not None and options.include_usage
    for event in chunks.closing(answered.usage, answered.extension, include_usage=include_usage):
        yield event


async def _read(request: Request, settings: GatewaySettings) -> bytes:
    """The request's body.

    Raises:
        ApiError: 413 as soon as it is longer than allowed.
    """
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > settings.max_body_bytes:
            message = f"the body is longer than {settings.max_body_bytes} bytes; send fewer or shorter messages"
            raise ApiError(413, message, code="body_too_large")
    return bytes(body)


def _session_id(request: Request, metadata: dict[str, Any] | None) -> str | None:
    """The conversation that the client names, by header or by metadata.

    Raises:
        ApiError: 400 for something that is no session id.
    """
    given = request.headers.get(SESSION_HEADER) or (metadata or {}).get("session_id")
    if given is None or given == "":
        return None
    if not isinstance(given, str) or not re.match(SESSION_ID_PATTERN, given):
        message = f"session id {str(given)[:80]!r}: use 1 to 64 letters, digits, '-' and '_'"
        raise ApiError(400, message, code="invalid_session_id", param="metadata")
    return given


def _owner(request: Request, user: str) -> str:
    """What keeps one client's message lists apart from another's; a key is not kept in the clear."""
    key = request.headers.get("Authorization", "")
    return hashlib.sha256(f"{key}\n{user}".encode("utf-8", "replace")).hexdigest()


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        return JSONResponse(error.body(), status_code=error.status, headers=error.headers)

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> Response:
        message = f"{request.method} {request.url.path[:120]}: {error.detail}; try POST /v1/chat/completions"
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
        answer = ApiError(error.status_code, message, code=code)
        return JSONResponse(answer.body(), status_code=error.status_code, headers=error.headers)

    @app.exception_handler(ModelError)
    async def no_model(request: Request, error: ModelError) -> Response:
        answer = ApiError(502 if error.retryable else 400, f"the model gave no answer: {error}", code="model_error")
        return JSONResponse(answer.body(), status_code=answer.status)

    @app.exception_handler(WorldUnavailable)
    async def no_world(request: Request, error: WorldUnavailable) -> Response:
        answer = ApiError(503, f"{error} Try again later.", code="world_unavailable", headers=RETRY_LATER)
        return JSONResponse(answer.body(), status_code=answer.status, headers=answer.headers)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        answer = _fault(error, uuid.uuid4().hex)
        return JSONResponse(answer.body(), status_code=answer.status, headers=answer.headers)


def _fault(error: BaseException, trace_id: str) -> ApiError:
    """A fault of ours: told in the log, and to the client only by its trace id."""
    _log.error("trace=%s failed", trace_id, exc_info=error)
    message = f"the server failed; its log has the cause under trace {trace_id}"
    return ApiError(500, message, code="internal_error", headers={"X-Request-Id": trace_id})
