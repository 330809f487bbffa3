"""A local OpenAI-compatible endpoint with a fixed latency: what a model's server looks like to its client.

It runs in a process of its own, on cores of its own, and answers `POST .../chat/completions` with answers that were
recorded before, found by the digest of the messages, `LATENCY_S` after the request has come in whole. Nothing is
computed while it serves, so that a measurement is of the client. A prompt that was not recorded is answered 404,
which no conversation of a measurement may see.
"""

import asyncio
import hashlib
import json
import multiprocessing
import os
import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agentmill.models.chat import ChatReply, Message

LATENCY_S = 0.05
START_TIMEOUT_S = 60.0
MODEL = "recorded"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_END = b"\r\n\r\n"


class Endpoint:
    """The endpoint's process, as a context; `url` ends in /v1.

    Raises:
        RuntimeError: on entering, when the process does not come up.
    """

    def __init__(
        self, answers: Mapping[tuple[Message, ...], ChatReply], folder: Path, *, cores: Iterable[int] = ()
    ) -> None:
        self._file = folder / "answers.pickle"
        self._file.write_bytes(pickle.dumps({digest(pairs(key)): body(reply) for key, reply in answers.items()}))
        context = multiprocessing.get_context("spawn")
        self._port, told = context.Pipe(duplex=False)
        self._process = context.Process(target=_serve, args=(str(self._file), told, tuple(cores)), daemon=True)

    def __enter__(self) -> "Endpoint":
        self._process.start()
        if not self._port.poll(START_TIMEOUT_S):
            self._process.kill()
            raise RuntimeError(f"the local endpoint did not come up within {START_TIMEOUT_S:g} s")
        self.url = f"http://127.0.0.1:{self._port.recv()}/v1"
        return self

    def __exit__(self, *raised: object) -> None:
        self._process.terminate()
        self._process.join()
        self._file.unlink(missing_ok=True)

    @property
    def pid(self) -> int:
        """The process, whose CPU time shows that it had some to spare."""
        assert self._process.pid is not None, "it was started"
        return self._process.pid


def pairs(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """Role and content of each message."""
    return [(message.role, message.content) for message in messages]


def digest(messages: Iterable[tuple[str, str]]) -> bytes:
    """What a recorded answer is found by."""
    return hashlib.blake2b("\0".join(part for pair in messages for part in pair).encode(), digest_size=16).digest()


def body(reply: ChatReply) -> bytes:
    """A reply as the chat completion that a server sends."""
    return json.dumps(
        {
            "id": "chatcmpl-recorded",
            "object": "chat.completion",
            "created": 1,
            "model": MODEL,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": reply.text},
                    "finish_reason": reply.finish_reason,
                }
            ],
            "usage": {
                "prompt_tokens": reply.prompt_tokens,
                "completion_tokens": reply.completion_tokens,
                "total_tokens": reply.prompt_tokens + reply.completion_tokens,
            },
        }
    ).encode()


def _serve(file: str, told: Any, cores: Sequence[int]) -> None:
    if cores:
        os.sched_setaffinity(0, cores)
    answers: dict[bytes, bytes] = pickle.loads(Path(file).read_bytes())
    asyncio.run(_listen(answers, told))


async def _listen(answers: Mapping[bytes, bytes], told: Any) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(answers, loop), "127.0.0.1", 0, backlog=4096)
    told.send(server.sockets[0].getsockname()[1])
    async with server:
        await server.serve_forever()


class _Connection(asyncio.Protocol):
    """One keep-alive connection of a client that sends a request, waits for the answer and then sends the next."""

    def __init__(self, answers: Mapping[bytes, bytes], loop: asyncio.AbstractEventLoop) -> None:
        self._answers, self._loop = answers, loop
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head = self._received.find(_END)
        if head < 0:
            return
        length = _LENGTH.search(self._received, 0, head)
        end = head + len(_END) + (int(length[1]) if length else 0)
        if len(self._received) < end:
            return
        request = bytes(self._received[head + len(_END) : end])
        del self._received[:end]
        self._loop.call_later(LATENCY_S, self._answer, request)

    def _answer(self, request: bytes) -> None:
        messages = [(message["role"], message["content"]) for message in json.loads(request)["messages"]]
        found = self._answers.get(digest(messages))
        status, content = (b"200 OK", found) if found else (b"404 Not Found", b'{"error": {"message": "not recorded"}}')
        head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, len(content))
        if not self._transport.is_closing():
            self._transport.write(head + content)
