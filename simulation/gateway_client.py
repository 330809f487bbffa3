"""The HTTP side of an evaluation: a served system's sessions, turns, worlds and single agents' calls.

Needs the gateway's sessions API, which names a world's seed and shows a world. Invariant: whatever goes wrong between
here and the server is a TurnFailed with a sentence; a busy server (429) is waited for, a bounded number of times.
"""

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import httpx
from pydantic import ValidationError

from agentmill.agents.contracts import AgentCall, TurnOutcome
from agentmill.config import UserError
from agentmill.domains.base import Json
from agentmill.models.chat import AgentName, ChatReply, ChatRequest, ModelError
from agentmill.records import Turn
from simulation.conversation import TurnFailed

_BUSY_TRIES = 6
_BUSY_WAIT_S = 1.0


class GatewayError(UserError):
    """There is no gateway at the address, or it has no sessions API."""


class GatewayClient:
    """A client of one served system; use as `async with GatewayClient(base_url) as client`."""

    def __init__(
        self, base_url: str, *, timeout_s: float = 180.0, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.base_url = base_url.rstrip("/").removesuffix("/v1")
        self._http = httpx.AsyncClient(
            base_url=self.base_url,
            timeout=timeout_s,
            transport=transport,
            trust_env=False,  # loopback needs no proxy
        )
        self._model = ""

    async def __aenter__(self) -> "GatewayClient":
        """Connect and check that this is a gateway with a sessions API.

        Raises:
            GatewayError: when it is not.
        """
        try:
            models = await self._json("GET", "/v1/models")
            self._model = str(models["data"][0]["id"])
            await self.close(await self.open(0))
        except (TurnFailed, KeyError, IndexError) as error:
            await self._http.aclose()
            raise GatewayError(
                f"{self.base_url}: no agentmill gateway with a sessions API answers ({error}); serve with "
                "--set serve.sessions_api=true"
            ) from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def open(self, world_seed: int) -> str:
        """A new session in the world of this seed; returns its id."""
        return str((await self._json("POST", "/v1/sessions", {"world_seed": world_seed}))["id"])

    async def turn(self, session: str, utterance: str, seed: int) -> TurnOutcome:
        """Say something in a session.

        Raises:
            TurnFailed: when no reply came.
        """
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": utterance}],
            "seed": seed,
            "agentmill": {"trace": True},
        }
        answer = await self._json("POST", "/v1/chat/completions", body, {"X-Session-Id": session})
        try:
            extension = answer["agentmill"]
            calls = tuple(AgentCall.model_validate(call) for call in extension["calls"])
            return TurnOutcome(turn=Turn.model_validate(extension["turn"]), calls=calls)
        except (KeyError, TypeError, ValidationError) as error:
            raise TurnFailed(f"the reply has no trace that can be read: {error}") from error

    async def switch(self, session: str, name: str) -> None:
        """Let a change of the business take hold in a session's world.

        Raises:
            TurnFailed: when it could not be made.
        """
        await self._json("POST", f"/v1/sessions/{session}/switches", {"name": name})

    async def world(self, session: str) -> Json:
        """The world of a session as it is now."""
        world: Json = (await self._json("GET", f"/v1/sessions/{session}"))["world"]
        return world

    async def close(self, session: str) -> None:
        """End a session."""
        await self._json("DELETE", f"/v1/sessions/{session}")

    async def complete(self, agent: AgentName, body: dict[str, Any]) -> ChatReply:
        """One call of one agent's model."""
        return ChatReply.model_validate(await self._json("POST", f"/v1/agents/{agent}/complete", body))

    async def _json(
        self, method: str, path: str, body: dict[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> Json:
        for _ in range(_BUSY_TRIES):
            try:
                answer = await self._http.request(method, path, json=body, headers=dict(headers or {}))
            except httpx.HTTPError as error:
                raise TurnFailed(f"{method} {path}: {type(error).__name__} {error}".strip()) from error
            if answer.status_code != httpx.codes.TOO_MANY_REQUESTS:
                break
            await asyncio.sleep(_BUSY_WAIT_S)
        if answer.is_error:
            raise TurnFailed(f"{method} {path}: HTTP {answer.status_code}: {answer.text[:300]}")
        value: Json = answer.json()
        return value


class ServedAgentModel:
    """ChatModel over a served system's single agents, so that it can be asked like any teacher."""

    def __init__(self, client: GatewayClient) -> None:
        self._client = client

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer one request.

        Raises:
            ModelError: when no answer came.
        """
        body = {
            "messages": [message.model_dump() for message in request.messages],
            "temperature": request.sampling.temperature,
            "max_tokens": request.sampling.max_tokens,
            "seed": request.sampling.seed,
        }
        try:
            return await self._client.complete(request.agent, body)
        except (TurnFailed, ValidationError) as error:
            raise ModelError(str(error)) from error
