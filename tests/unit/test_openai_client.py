"""The OpenAI-compatible client against a real HTTP server of our own that answers as told."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from agentmill.models.chat import ChatRequest, Message, ModelError, Sampling, StreamingModel
from agentmill.models.openai_client import OpenAIModel

REQUEST = ChatRequest(
    agent="planner",
    messages=(Message(role="system", content="s"), Message(role="user", content="u")),
    sampling=Sampling(temperature=0.7, max_tokens=9, seed=3),
)


class Endpoint:
    """Answers each request with the next of `answers`: (status, body); keeps what it was sent."""

    def __init__(self, answers: list[tuple[int, Any]]) -> None:
        self.answers = answers
        self.seen: list[dict[str, Any]] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                endpoint.seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                status, body = endpoint.answers.pop(0)
                data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/event-stream" if isinstance(body, str) else "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.send_header("retry-after-ms", "10")
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
    reply = await OpenAIModel(endpoint.url, "m").complete(REQUEST)
    assert (reply.text, reply.model, reply.prompt_tokens, reply.completion_tokens) == ("hello", "tiny", 5, 2)
    assert reply.finish_reason == "length"
    assert reply.latency_s > 0
    sent = endpoint.seen[0]
    assert sent["messages"] == [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    assert (sent["model"], sent["temperature"], sent["max_tokens"], sent["seed"]) == ("m", 0.7, 9, 3)


async def test_a_schema_is_passed_on(serve: Callable[..., Endpoint]) -> None:
    endpoint = serve(completion("{}"))
    await OpenAIModel(endpoint.url, "m").complete(REQUEST.model_copy(update={"response_schema": {"type": "object"}}))
    sent = endpoint.seen[0]["response_format"]["json_schema"]
    assert (sent["schema"], sent["strict"]) == ({"type": "object"}, False)


async def test_a_grammar_is_passed_on_as_vllms_server_reads_it_unless_it_is_switched_off(
    serve: Callable[..., Endpoint],
) -> None:
    endpoint = serve(completion("a"), completion("a"))
    request = REQUEST.model_copy(update={"response_grammar": 'root ::= "a"'})
    await OpenAIModel(endpoint.url, "m").complete(request)
    await OpenAIModel(endpoint.url, "m", grammars=False).complete(request)
    assert endpoint.seen[0]["structured_outputs"] == {"grammar": 'root ::= "a"'}
    assert "structured_outputs" not in endpoint.seen[1]


async def test_a_server_that_refuses_a_structure_is_quoted(serve: Callable[..., Endpoint]) -> None:
    refusal = {"error": {"message": "Unrecognized request argument: structured_outputs", "type": "x", "code": None}}
    endpoint = serve((400, refusal))
    request = REQUEST.model_copy(update={"response_grammar": 'root ::= "a"'})
    with pytest.raises(ModelError, match=r"answered 400: .*structured_outputs") as failed:
        await OpenAIModel(endpoint.url, "m").complete(request)
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
    assert (await OpenAIModel(endpoint.url, "m").complete(REQUEST)).text == "hello"
    assert len(endpoint.seen) == 3


async def test_retries_are_bounded(serve: Callable[..., Endpoint]) -> None:
    endpoint = serve(*[failure(500)] * 9)
    with pytest.raises(ModelError, match="answered 500") as failed:
        await OpenAIModel(endpoint.url, "m", max_retries=2).complete(REQUEST)
    assert failed.value.retryable
    assert len(endpoint.seen) == 3


async def test_a_refused_request_is_not_retried(serve: Callable[..., Endpoint]) -> None:
    endpoint = serve(failure(400))
    with pytest.raises(ModelError, match="answered 400") as failed:
        await OpenAIModel(endpoint.url, "m").complete(REQUEST)
    assert not failed.value.retryable
    assert len(endpoint.seen) == 1


async def test_an_empty_answer_and_a_dead_endpoint_are_errors(serve: Callable[..., Endpoint]) -> None:
    endpoint = serve(completion(None))
    with pytest.raises(ModelError, match="no text"):
        await OpenAIModel(endpoint.url, "m").complete(REQUEST)
    with pytest.raises(ModelError) as failed:
        await OpenAIModel("http://127.0.0.1:9/v1", "m", max_retries=0).complete(REQUEST)
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
