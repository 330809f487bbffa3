"""The OpenAI-compatible client against a real HTTP server of our own that answers as told."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from agentmill.models.chat import ChatReply, ChatRequest, Message, ModelError, Sampling, StreamingModel
from agentmill.models.openai_client import OpenAIModel
from agentmill.models.retrying import delay_s

REQUEST = ChatRequest(
    agent="planner",
    messages=(Message(role="system", content="s"), Message(role="user", content="u")),
    sampling=Sampling(temperature=0.7, max_tokens=9, seed=3),
)


async def ask(model: OpenAIModel, request: ChatRequest) -> ChatReply:
    """One answer of a model that is closed then."""
    try:
        return await model.complete(request)
    finally:
        await model.close()


class Endpoint:
    """Answers each request with the next of `answers`: (status, body); keeps what it was sent."""

    def __init__(self, answers: list[tuple[int, Any]]) -> None:
        self.answers = answers
        self.seen: list[dict[str, Any]] = []
        self.asked_with: list[dict[str, str]] = []
        self.headers: dict[str, str] = {}
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                endpoint.seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                endpoint.asked_with.append({name.lower(): value for name, value in self.headers.items()})
                status, body = endpoint.answers.pop(0)
                data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/event-stream" if isinstance(body, str) else "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.send_header("retry-after-ms", "10")
                for name, value in endpoint.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def serve() -> Iterator[Callable[..., Endpoint]]:
    opened: list[Endpoint] = []

    def start(*answers: tuple[int, Any]) -> Endpoint:
        opened.append(Endpoint(list(answers)))
        return opened[-1]

    yield start
    for endpoint in opened:
        endpoint.server.shutdown()
        endpoint.server.server_close()


def completion(text: str | None, finish: str = "stop", refusal: str | None = None) -> tuple[int, dict[str, Any]]:
    message = {"role": "assistant", "content": text, "refusal": refusal}
    return 200, {
        "id": "c", "object": "chat.completion", "created": 1, "model": "tiny",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
    }  # fmt: skip


def streamed(texts: list[str], finish: str, refusal: str | None = None) -> tuple[int, str]:
    """The same as server-sent events, a chunk for each text."""
    deltas: list[dict[str, Any]] = [{"content": text} for text in texts] + [{"refusal": refusal}] * bool(refusal)
    chunks: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas
    ]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    chunks.append({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}})
    common = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "tiny"}
    return 200, "".join(f"data: {json.dumps(common | chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"


def failure(status: int) -> tuple[int, dict[str, Any]]:
    return status, {"error": {"message": "no", "type": "x", "code": None}}


async def test_a_request_is_sent_and_its_answer_read(serve: Callable[..., Endpoint]) -> None:
    endpoint = serve(completion("hello", "length"))
    reply = await ask(OpenAIModel(endpoint.url, "m"), REQUEST)
    assert (reply.text, reply.model, reply.prompt_tokens, reply.completion_tokens) == ("hello", "tiny", 5, 2)
    assert reply.finish_reason == "length"
    assert reply.latency_s > 0
    sent = endpoint.seen[0]
    assert sent["messages"] == [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    assert (sent["model"], sent["temperature"], sent["max_tokens"], sent["seed"]) == ("m", 0.7, 9, 3)


async def test_a_schema_is_passed_on(serve: Callable[..., Endpoint]) -> None:
    endpoint = serve(completion("{}"))
    await ask(OpenAIModel(endpoint.url, "m"), REQUEST.model_copy(update={"response_schema": {"type": "object"}}))
    sent = endpoint.seen[0]["response_format"]["json_schema"]
    assert (sent["schema"], sent["strict"]) == ({"type": "object"}, False)


async def test_a_grammar_is_passed_on_as_vllms_server_reads_it_unless_it_is_switched_off(
    serve: Callable[..., Endpoint],
) -> None:
    endpoint = serve(completion("a"), completion("a"))
    request = REQUEST.model_copy(update={"response_grammar": 'root ::= "a"'})
    await ask(OpenAIModel(endpoint.url, "m"), request)
    await ask(OpenAIModel(endpoint.url, "m", grammars=False), request)
    assert endpoint.seen[0]["structured_outputs"] == {"grammar": 'root ::= "a"'}
    assert "structured_outputs" not in endpoint.seen[1]


async def test_a_server_that_refuses_a_structure_is_quoted(serve: Callable[..., Endpoint]) -> None:
    refusal = {"error": {"message": "Unrecognized request argument: structured_outputs", "type": "x", "code": None}}
    endpoint = serve((400, refusal))
    request = REQUEST.model_copy(update={"response_grammar": 'root ::= "a"'})
    with pytest.raises(ModelError, match=r"answered 400: .*structured_outputs") as failed:
        await ask(OpenAIModel(endpoint.url, "m"), request)
    assert not failed.value.retryable


@pytest.mark.parametrize(
    ("text", "finish", "refusal", "message"),
    [
        (None, "stop", "I cannot help with that", "m refused to answer: I cannot help with that"),
        ("Half a sen", "content_filter", None, "a content filter stopped the answer of m"),
        (None, "content_filter", None, "a content filter stopped the answer of m"),
    ],
)
async def test_a_refusal_is_an_error_that_says_so_and_may_be_tried_again(
    serve: Callable[..., Endpoint], text: str | None, finish: str, refusal: str | None, message: str
) -> None:
    endpoint = serve(completion(text, finish, refusal), streamed([text] if text else [], finish, refusal))
    pieces: list[str] = []

    async def sink(piece: str) -> None:
        pieces.append(piece)

    model = OpenAIModel(endpoint.url, "m")
    for answering in (model.complete(REQUEST), model.stream(REQUEST, sink)):
        with pytest.raises(ModelError, match=message) as failed:
            await answering
        assert failed.value.retryable
    assert pieces == ([text] if text else [])
    await model.close()


async def test_what_can_be_retried_is_retried(serve: Callable[..., Endpoint]) -> None:
    endpoint = serve(failure(503), failure(429), completion("hello"))
    assert (await ask(OpenAIModel(endpoint.url, "m"), REQUEST)).text == "hello"
    assert len(endpoint.seen) == 3


async def test_retries_are_bounded(serve: Callable[..., Endpoint]) -> None:
    endpoint = serve(*[failure(500)] * 9)
    with pytest.raises(ModelError, match="answered 500") as failed:
        await ask(OpenAIModel(endpoint.url, "m", max_retries=2), REQUEST)
    assert failed.value.retryable
    assert len(endpoint.seen) == 3


async def test_a_refused_request_is_not_retried(serve: Callable[..., Endpoint]) -> None:
    endpoint = serve(failure(400))
    with pytest.raises(ModelError, match="answered 400") as failed:
        await ask(OpenAIModel(endpoint.url, "m"), REQUEST)
    assert not failed.value.retryable
    assert len(endpoint.seen) == 1


async def test_an_empty_answer_and_a_dead_endpoint_are_errors(serve: Callable[..., Endpoint]) -> None:
    endpoint = serve(completion(None))
    with pytest.raises(ModelError, match="no text"):
        await ask(OpenAIModel(endpoint.url, "m"), REQUEST)
    with pytest.raises(ModelError) as failed:
        await ask(OpenAIModel("http://127.0.0.1:9/v1", "m", max_retries=0), REQUEST)
    assert failed.value.retryable


async def test_a_streamed_answer_comes_in_pieces(serve: Callable[..., Endpoint]) -> None:
    endpoint = serve(streamed(["Hel", "lo"], "stop"))
    pieces: list[str] = []

    async def sink(text: str) -> None:
        pieces.append(text)

    model = OpenAIModel(endpoint.url, "m")
    assert isinstance(model, StreamingModel)
    reply = await model.stream(REQUEST, sink)
    assert pieces == ["Hel", "lo"]
    assert (reply.text, reply.completion_tokens, reply.finish_reason) == ("Hello", 2, "stop")
    await model.close()


class Heard:
    """A listener that writes down what it is told."""

    def __init__(self) -> None:
        self.pushed, self.waiting = 0, list[int]()

    def pushed_back(self) -> None:
        self.pushed += 1

    def queued(self, waiting: int) -> None:
        self.waiting.append(waiting)


async def test_a_listener_hears_of_every_refusal_for_load_and_of_no_other(serve: Callable[..., Endpoint]) -> None:
    endpoint = serve(failure(503), failure(429), failure(500), completion("hello"), failure(400))
    model, heard = OpenAIModel(endpoint.url, "m"), Heard()
    model.listener = heard
    await model.complete(REQUEST)
    with pytest.raises(ModelError):
        await model.complete(REQUEST)
    await model.close()
    assert heard.pushed == 2


async def test_the_engines_queue_is_asked_for_once_in_a_while_and_passed_on(serve: Callable[..., Endpoint]) -> None:
    load = {"endpoint-load-metrics": 'JSON {"named_metrics": {"num_requests_waiting": 7.0}}'}
    endpoint = serve(completion("a"), completion("b"))
    endpoint.headers = load
    model, heard = OpenAIModel(endpoint.url, "m"), Heard()
    model.listener = heard
    await model.complete(REQUEST)
    await model.complete(REQUEST)
    await model.close()
    assert heard.waiting[0] == 7
    assert [headers.get("endpoint-load-metrics-format") for headers in endpoint.asked_with] == ["JSON", None]


@pytest.mark.parametrize(
    ("headers", "low", "high"),
    [
        ({}, 1.0, 2.0),
        ({"retry-after": "3"}, 3.0, 3.75),
        ({"retry-after-ms": "200"}, 0.2, 0.25),
        ({"retry-after": "9999"}, 60.0, 75.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0.0, 0.0),
        ({"retry-after": "soon"}, 1.0, 2.0),
    ],
)
def test_the_wait_before_a_retry_is_jittered_or_what_the_server_asks_for(
    headers: dict[str, str], low: float, high: float
) -> None:
    waits = {delay_s(2, headers) for _ in range(50)}
    assert all(low <= wait <= high for wait in waits)
    assert len(waits) > 1 or high == 0


@pytest.mark.parametrize("body", ["<html>", "[]", '{"choices": [{}]}'])
async def test_an_answer_of_another_kind_is_told(serve: Callable[..., Endpoint], body: str) -> None:
    endpoint = serve((200, body))
    model = OpenAIModel(endpoint.url, "m")
    with pytest.raises(ModelError, match="did not answer as an OpenAI-compatible endpoint"):
        await model.complete(REQUEST)
    await model.close()


async def test_a_time_out_is_told_and_heard() -> None:
    server = await asyncio.start_server(lambda reader, writer: asyncio.sleep(5), "127.0.0.1", 0)
    async with server:
        model = OpenAIModel(
            f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", "m", timeout_s=0.1, max_retries=0
        )
        heard = model.listener = Heard()
        with pytest.raises(ModelError, match=r"no answer within 0\.1 s") as failed:
            await model.complete(REQUEST)
        await model.close()
    assert (failed.value.retryable, heard.pushed) == (True, 1)


async def test_a_stream_that_ends_in_an_error_is_no_reply(serve: Callable[..., Endpoint]) -> None:
    status, text = streamed(["Hel"], "stop")
    endpoint = serve((status, text.replace("data: [DONE]", 'data: {"error": {"message": "out of memory"}}')))
    model = OpenAIModel(endpoint.url, "m")
    with pytest.raises(ModelError, match="broke off: out of memory"):
        await model.stream(REQUEST, lambda text: asyncio.sleep(0))
    await model.close()
