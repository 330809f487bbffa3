"""Requests that are sent again with their Idempotency-Key: the same reply, and nothing runs twice."""

import asyncio
from typing import Any

import pytest

from agentmill.agents.contracts import WorldUnavailable
from agentmill.models.chat import ChatReply, ChatRequest
from rayserve.openai_api import ApiError
from rayserve.repeats import Exchange, Pieces, Repeats
from rayserve.settings import GatewaySettings, SessionSettings
from rayserve.turns import Answered, Asked
from tests.fakes import LEND_PLAN, ScriptedModel, StreamingScript, heard
from tests.gateways import ANSWERS, CHAT, Make, events

KEY = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}
LENDING: dict[str, Any] = {
    **ANSWERS,
    "understander": [heard("lend", title="Dune", reader="Ana"), *[heard("lend", confirmed=True)] * 3],
    "planner": ['book = find_book(title="Dune")', LEND_PLAN, LEND_PLAN, LEND_PLAN],
    "explainer": ["Shall I lend it?", "Done.", "Done again.", "And again."],
}
TALK = ("Lend Dune to Ana", "Shall I lend it?", "Yes please")


class Slow(StreamingScript):
    """Answers when `go` is set."""

    def __init__(self, **scripts: Any) -> None:
        super().__init__(**scripts)
        self.go = asyncio.Event()

    async def complete(self, request: ChatRequest) -> ChatReply:
        await self.go.wait()
        return await super().complete(request)


async def test_a_repeated_request_gets_the_same_reply_and_changes_nothing(gateway: Make) -> None:
    model = ScriptedModel(**LENDING)
    made = gateway(model)
    await made.say(TALK[0])
    first, again = [await made.chat(*TALK, headers=KEY) for _ in range(2)]
    assert first.status_code == again.status_code == 200
    assert again.content == first.content
    assert ("idempotent-replayed" in first.headers, again.headers["idempotent-replayed"]) == (False, "true")
    assert again.headers["x-request-id"] == first.headers["x-request-id"]
    assert made.worlds[0].snapshot()["loans"] == [["Dune", "Ana"]]
    assert len(model.asked("explainer")) == 2


async def test_a_request_that_is_still_answered_is_waited_for_even_if_its_client_has_gone(gateway: Make) -> None:
    model = Slow(**ANSWERS)
    made = gateway(model)
    asking = [asyncio.create_task(made.chat("Where is Dune?", headers=KEY)) for _ in range(3)]
    await asyncio.sleep(0.05)
    asking[0].cancel()
    model.go.set()
    one, other = await asyncio.gather(*asking[1:])
    assert one.content == other.content
    assert one.json()["choices"][0]["message"]["content"] == "Dune is on shelf 4."
    assert len(made.worlds) == len(model.asked("planner")) == 1


async def test_a_streamed_request_is_streamed_again_while_it_runs_and_afterwards(gateway: Make) -> None:
    model = Slow(**ANSWERS)
    made = gateway(model)
    asking = [asyncio.create_task(made.chat("Where is Dune?", stream=True, headers=KEY)) for _ in range(2)]
    await asyncio.sleep(0.05)
    model.go.set()
    streams = [events(response) for response in (await asyncio.gather(*asking))]
    streams.append(events(await made.chat("Where is Dune?", stream=True, headers=KEY)))
    assert streams[0] == streams[1] == streams[2]
    assert len(streams[0]) > 5
    assert len(made.worlds) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"texts": ("Where is Emma?",)},
        {"stream": True},
        {"seed": 3},
        {"headers": {**KEY, "X-Session-Id": "another"}},
    ],
)
async def test_the_same_key_with_another_request_is_refused(gateway: Make, other: dict[str, Any]) -> None:
    made = gateway()
    assert (await made.chat("Where is Dune?", headers=KEY)).status_code == 200
    texts = other.pop("texts", ("Where is Dune?",))
    refused = await made.chat(*texts, **{"headers": KEY, **other})
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (422, "idempotency_key_reused")
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"


async def test_a_key_is_its_clients_own(gateway: Make) -> None:
    made = gateway()
    for name in ("a", "b"):
        answer = await made.chat("Where is Dune?", headers={**KEY, "Authorization": f"Bearer {name}"})
        assert "idempotent-replayed" not in answer.headers
    assert len(made.worlds) == 2


@pytest.mark.parametrize("key", ["", " ", "k" * 256, "täst", "a\tb"])
async def test_what_is_no_key_is_refused(gateway: Make, key: str) -> None:
    body = {"model": "agentmill", "messages": [{"role": "user", "content": "Where is Dune?"}]}
    response = await gateway().http.post(CHAT, json=body, headers=[(b"Idempotency-Key", key.encode("latin-1"))])
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_idempotency_key")


async def test_a_turn_that_failed_half_way_is_not_made_again(gateway: Make) -> None:
    model = Slow(**ANSWERS)
    made = gateway(model, gateway=GatewaySettings(turn_timeout_s=0.05))
    first = await made.chat("Where is Dune?", headers=KEY)
    model.go.set()
    again = await made.chat("Where is Dune?", headers=KEY)
    assert first.status_code == again.status_code == 504
    assert model.asked("planner") == []


async def test_what_was_refused_before_it_began_may_be_tried_again(gateway: Make) -> None:
    model = Slow(**ANSWERS)
    made = gateway(model, gateway=GatewaySettings(max_ongoing_requests=1))
    running = asyncio.create_task(made.chat("Where is Emma?"))
    await asyncio.sleep(0.05)
    assert (await made.chat("Where is Dune?", headers=KEY)).status_code == 429
    model.go.set()
    await running
    assert (await made.chat("Where is Dune?", headers=KEY)).status_code == 200


async def test_a_database_that_is_away_is_a_503_and_may_be_tried_again(
    gateway: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = gateway()

    async def away(session_id: str, world_seed: int) -> None:
        raise WorldUnavailable("The database does not answer at the moment; this has to wait.")

    with monkeypatch.context() as patch:
        patch.setattr(made.conversations._executor, "open", away)
        response = await made.chat("Where is Dune?", headers=KEY)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "world_unavailable")
    assert response.headers["retry-after"] == "1"
    assert (await made.chat("Where is Dune?", headers=KEY)).status_code == 200


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def asked(key: str) -> Asked:
    from rayserve.openai_api import ChatBody

    body = ChatBody.model_validate({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
    return Asked(body, None, "owner", key)


async def exchanged(repeats: Repeats, key: str, done: asyncio.Event | None = None) -> Asked:
    """Make a request with this key; returns the one that was answered."""
    request = asked(key)

    async def answer() -> Answered:
        if done is not None:
            await done.wait()
        return Answered("", {}, {})

    async def begin() -> Exchange:
        return Exchange(request, asyncio.create_task(answer()), Pieces())

    exchange = await repeats.exchange(request, begin)
    if done is None:
        await exchange.task
        await asyncio.sleep(0)  # its end is noted
    return exchange.asked


async def test_keys_are_forgotten_when_they_are_old_or_too_many_but_never_while_they_run() -> None:
    clock, done = Clock(), asyncio.Event()
    repeats = Repeats(SessionSettings(ttl_s=10, max_count=3), clock)
    running = await exchanged(repeats, "running", done)
    first = {}
    for number in range(4):
        clock.now += 1
        first[number] = await exchanged(repeats, f"k{number}")
    assert len(repeats) == 3
    assert await exchanged(repeats, "k3") is first[3]
    assert await exchanged(repeats, "k0") is not first[0]
    clock.now += 100
    assert await exchanged(repeats, "k3") is not first[3]
    assert await exchanged(repeats, "running", done) is running
    done.set()


async def test_a_beginning_that_fails_is_not_kept() -> None:
    repeats = Repeats(SessionSettings())

    async def refused() -> Exchange:
        raise ApiError(429, "later", code="too_many_requests")

    for _ in range(2):
        with pytest.raises(ApiError, match="later"):
            await repeats.exchange(asked("k"), refused)
    await asyncio.sleep(0)
    assert len(repeats) == 0
