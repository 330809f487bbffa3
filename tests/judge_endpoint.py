"""A real OpenAI-compatible endpoint on loopback that plays the judge, and misbehaves when it is told to."""

import asyncio
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self

from agentmill.domains.base import load_domain
from agentmill.models.chat import ChatRequest, Message
from simulation.models import ModelSettings

Mood = Literal["well", "hangs", "500", "garbage", "no_http", "cut", "forbidden", "empty"]


class JudgeEndpoint:
    """Answers like the domain's expert while `mood` is `well`.

    `asked` holds every user frame, `answered` those that got a verdict.
    """

    def __init__(self, domain: str = "automotive") -> None:
        expert = load_domain(domain).expert
        assert expert is not None
        self._expert = expert(0.0)
        self.mood: Mood = "well"
        self.fails_on = ""  # with a mood other than `well`: only requests whose frame has this text
        self.break_after = 0  # so many well answers come first
        self.asked: list[str] = []
        self.answered: list[str] = []
        self._ended = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer._answer(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def settings(self) -> ModelSettings:
        url = f"http://127.0.0.1:{self._server.server_port}/v1"
        return ModelSettings(kind="endpoint", url=url, name="judge", timeout_s=1.0)

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        messages = tuple(Message.model_validate(message) for message in body["messages"])
        frame = messages[1].content
        self.asked.append(frame)
        mood = self.mood if self.fails_on in frame and len(self.answered) >= self.break_after else "well"
        if mood == "hangs":
            self._ended.wait(30)
            return
        if mood == "no_http":
            handler.wfile.write(b"\x00\x01 nothing that is HTTP")
            handler.close_connection = True
            return
        status = {"500": 500, "forbidden": 403}.get(mood, 200)
        said = {"error": {"message": f"the judge is {mood}"}} if status != 200 else self._said(mood, messages)
        if mood == "well":
            self.answered.append(frame)
        payload = json.dumps(said).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(payload)))
        handler.end_headers()
        handler.wfile.write(payload)

    def _said(self, mood: Mood, messages: tuple[Message, ...]) -> dict[str, Any]:
        text, finish = "I would say: good!", "stop"
        if mood in ("well", "cut"):
            text = asyncio.run(self._expert.complete(ChatRequest(agent="judge", messages=messages))).text
        if mood == "cut":
            text, finish = text[: len(text) // 2], "length"
        if mood == "empty":
            text = ""
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        return {
            "id": "x", "object": "chat.completion", "created": int(time.time()), "model": "judge",
            "choices": [choice], "usage": usage,
        }  # fmt: skip
