"""Talking to a served system: streams are put together, refusals become messages, agents are shown."""

import json
from collections.abc import Callable

import httpx
import pytest

from cluster.chat import ChatError, ask, base_of, events, is_local, print_agents, served_model

Answer = Callable[[httpx.Request], httpx.Response]


def client(answer: Answer) -> httpx.Client:
    return httpx.Client(base_url="http://127.0.0.1:1", transport=httpx.MockTransport(answer))


def stream(*objects: object) -> httpx.Response:
    lines = [f"data: {json.dumps(item)}\n\n" for item in objects]
    return httpx.Response(200, text="".join(lines) + ": comment\n\ndata: [DONE]\n\ndata: {never}\n\n")


def test_a_stream_is_put_together_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return stream(
            {"choices": [{"delta": {"role": "assistant"}}]},
            {"choices": [{"delta": {"content": "We open "}}]},
            {"choices": [{"delta": {"content": "at 9:00."}}]},
            {"choices": [{"delta": {}, "finish_reason": "stop"}], "agentmill": {"trace_id": "t"}},
        )

    messages = [{"role": "user", "content": "When?"}]
    assert ask(client(answer), "agentmill", "s1", messages) == ("We open at 9:00.", {"trace_id": "t"})
    assert capsys.readouterr().out == "We open at 9:00.\n"
    body = json.loads(asked[0].content)
    assert (body["agentmill"], body["stream"], body["messages"]) == ({"trace": True}, True, messages)
    assert asked[0].headers["X-Session-Id"] == "s1"


def test_a_refusal_becomes_a_message() -> None:
    refused = httpx.Response(429, json={"error": {"message": "too many conversations"}})
    with pytest.raises(ChatError, match="the system refused: too many conversations"):
        ask(client(lambda _: refused), "agentmill", "s1", [])


def test_an_error_in_the_stream_becomes_a_message() -> None:
    with pytest.raises(ChatError, match="the system stopped: lost"):
        ask(client(lambda _: stream({"error": {"message": "lost"}})), "agentmill", "s1", [])


def test_a_broken_connection_becomes_a_message() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("gone")

    with pytest.raises(ChatError, match=r"the connection to http://127\.0\.0\.1:1.* broke: gone; is `agentmill serve`"):
        ask(client(answer), "agentmill", "s1", [])


@pytest.mark.parametrize("answer", [httpx.Response(200, text="<html>"), httpx.Response(200, json={"data": []})])
def test_another_server_is_told_apart(answer: httpx.Response) -> None:
    with pytest.raises(ChatError, match="not as an OpenAI-compatible server"):
        served_model(client(lambda _: answer))


def test_the_address_may_come_with_v1() -> None:
    assert base_of("http://127.0.0.1:8000/v1/") == "http://127.0.0.1:8000"
    assert is_local("http://localhost:8000")
    assert not is_local("https://agents.example.com")
    with pytest.raises(ChatError, match="is no HTTP address"):
        base_of("127.0.0.1:8000")


def test_each_agent_is_shown_with_its_cost(capsys: pytest.CaptureFixture[str]) -> None:
    call = {"agent": "planner", "output": "a = b()\nc = d()", "status": "ok", "prompt_tokens": 40}
    print_agents({"calls": [{**call, "completion_tokens": 7, "latency_s": 0.0123}]})
    shown = capsys.readouterr().err
    for text in ("planner", "a = b() ; c = d()", "40+7 tokens", "12 ms"):
        assert text in shown


def test_events_end_at_done() -> None:
    assert list(events(iter(['data: {"a": 1}', "", "event: x", "data: [DONE]", "data: {}"]))) == [{"a": 1}]


def test_what_the_gate_did_with_the_plan_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    print_agents({"turn": {"gate": "shadow_rejected", "complexity": 12.34}})
    shown = capsys.readouterr().err
    assert "gate" in shown and "would have rejected the plan (complexity 12.3)" in " ".join(shown.split())
    print_agents({"turn": {"gate": "none", "complexity": 0.0}})
    assert capsys.readouterr().err == ""
