"""A gateway in this process, over a local team on a scripted model, and an HTTP client of it."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from agentmill.agents.settings import TeamSettings
from agentmill.agents.team import Team
from agentmill.models.chat import ChatModel
from agentmill.plans.sandbox import Sandbox
from rayserve.gateway import http_app
from rayserve.settings import ServeSettings
from rayserve.turns import Conversations
from tests.fakes import Library, StreamingScript, heard
from tests.switching import switching_library

CHAT = "/v1/chat/completions"
ANSWERS: dict[str, Any] = {
    "understander": heard("find", title="Dune"),
    "planner": 'book = find_book(title="Dune")',
    "evaluator": '{"ok":true,"violations":[]}',
    "explainer": "Dune is on shelf 4.",
}


class Gateway:
    """An HTTP client of a gateway in this process, and what lies behind it."""

    def __init__(self, sandbox: Sandbox, model: ChatModel, settings: ServeSettings, **system: Any) -> None:
        self.marks: list[str] = []
        self.worlds: list[Library] = []
        domain = switching_library(self.worlds)
        team = Team.local(domain, model, sandbox, TeamSettings(attempts=1, **system))
        self.conversations = Conversations(settings, team, team.executor, model.complete, self._ping, self.marks.append)
        transport = httpx.ASGITransport(http_app(self.conversations), raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://gateway")
        self.state = "ok"

    async def _ping(self) -> dict[str, str]:
        return {"planner": self.state}

    async def chat(self, *texts: str, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        """Send a message list that begins with the user and takes turns."""
        messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
        body = {"model": "agentmill", "messages": messages, **fields}
        return await self.http.post(CHAT, json=body, headers=headers)

    async def say(self, *texts: str, **fields: Any) -> dict[str, Any]:
        """The answer to a message list."""
        response = await self.chat(*texts, **fields)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer


Make = Callable[..., Gateway]


@asynccontextmanager
async def making() -> AsyncIterator[Make]:
    """What makes gateways, all on one sandbox."""
    async with Sandbox(processes=1) as sandbox:

        def make(model: ChatModel | None = None, system: dict[str, Any] | None = None, **settings: Any) -> Gateway:
            return Gateway(sandbox, model or StreamingScript(**ANSWERS), ServeSettings(**settings), **(system or {}))

        yield make


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """The JSON events of a stream that ended properly."""
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]
