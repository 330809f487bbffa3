"""The served system on a real Ray Serve, the expert as model: the OpenAI client, held-out scenarios, lost replicas."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from agentmill.agents.settings import TeamSettings
from agentmill.config import UserError
from agentmill.domains.base import Json, load_domain
from rayserve.serve import Served, start
from rayserve.settings import ServedModel, ServeSettings
from simulation.conversation import play
from simulation.gateway_client import GatewayClient

SCENARIOS = 6


@pytest.fixture(scope="module")
def expert(ray_local: None) -> Iterator[Served]:
    """The five agents on the domain's expert: no weights, so that replies have content."""
    settings = ServeSettings(port=0, sessions_api=True, model=ServedModel(kind="expert"))
    system = TeamSettings(complexity_threshold=1000.0, shadow_share=1.0)  # a gate that skips all, every plan shadowed
    served = start(settings, domain="automotive", system=system)
    yield served
    served.stop()


def client(served: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.base_url}/v1", api_key="none", max_retries=0, timeout=120)


def listening_addresses(port: int) -> set[str]:
    """Local addresses on which something listens at `port`, as the kernel writes them."""
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {row[1].split(":")[0] for row in rows if row[3] == "0A" and int(row[1].split(":")[1], 16) == port}


def kill_replica(deployment: str) -> None:
    """Kill the one replica of a deployment, as a machine that goes away does."""
    import ray

    for actor in ray.util.list_named_actors(all_namespaces=True):
        if f"agentmill#{deployment}#" in actor["name"]:
            ray.kill(ray.get_actor(actor["name"], namespace=actor["namespace"]))
            return
    raise AssertionError(f"no replica of {deployment}")


def test_the_openai_client_completes_a_conversation_of_several_turns(expert: Served) -> None:
    messages: list[Any] = []
    sessions, statuses = set(), []
    for text in ("I would like to book a test drive", "The stock number is N4821", "Friday at 3pm please"):
        messages.append({"role": "user", "content": text})
        answer = client(expert).chat.completions.create(model="agentmill", messages=messages)
        extension: Json = (answer.model_extra or {})["agentmill"]
        sessions.add(extension["session_id"])
        statuses.append(extension["status"])
        assert extension["agents"]["understander"]["calls"] == 1
        assert answer.usage is not None
        assert answer.usage.completion_tokens > 0
        messages.append({"role": "assistant", "content": answer.choices[0].message.content})
    assert len(sessions) == 1
    assert statuses == ["asked"] * 3
    assert messages[-1]["content"] not in {message["content"] for message in messages[:-1]}


def test_the_openai_client_completes_a_streamed_conversation(expert: Served) -> None:
    messages: list[Any] = []
    for text in ("Hello!", "When do you open on Friday?"):
        messages.append({"role": "user", "content": text})
        with client(expert).chat.completions.create(
            model="agentmill", messages=messages, stream=True, stream_options={"include_usage": True}
        ) as stream:
            chunks = list(stream)
        reply = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        messages.append({"role": "assistant", "content": reply})
    assert "Friday" in reply
    assert chunks[-1].usage is not None
    assert (chunks[-2].model_extra or {})["agentmill"]["status"] == "answered"


def test_errors_are_the_openai_clients_own(expert: Served) -> None:
    talk = client(expert).chat.completions
    hello: Any = [{"role": "user", "content": "hi"}]
    with pytest.raises(openai.NotFoundError) as unknown:
        talk.create(model="gpt-4", messages=hello)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError):
        talk.create(model="agentmill", messages=[])
    with pytest.raises(openai.BadRequestError):
        talk.create(model="agentmill", messages=hello, n=2)
    raw = httpx.post(f"{expert.base_url}/v1/chat/completions", content=b"{nope", trust_env=False)
    assert (raw.status_code, raw.json()["error"]["code"]) == (400, "invalid_json")


def test_it_listens_on_the_loopback_interface_only(expert: Served) -> None:
    assert listening_addresses(int(expert.base_url.rsplit(":", 1)[1])) == {"0100007F"}


def test_a_second_system_is_refused_and_the_first_goes_on(expert: Served) -> None:
    port = int(expert.base_url.rsplit(":", 1)[1])
    for settings, message in ((ServeSettings(port=port), f"serve.port={port}"), (ServeSettings(port=0), "already")):
        with pytest.raises(UserError, match=message):
            start(settings.model_copy(update={"model": ServedModel(kind="expert")}), domain="automotive")
    assert httpx.get(f"{expert.base_url}/health", trust_env=False).status_code == 200


async def test_held_out_scenarios_reach_their_end_state_over_http(expert: Served) -> None:
    domain = load_domain("automotive")
    assert domain.expert is not None
    user = domain.expert(0.0)
    async with GatewayClient(expert.base_url) as gateway:

        async def one(scenario: Any) -> tuple[bool, tuple[str, ...]]:
            session = await gateway.open(scenario.world_seed)
            await play(lambda utterance: gateway.turn(session, utterance, 1), user, scenario, domain)
            assessed = domain.assess(scenario, await gateway.world(session))
            await gateway.close(session)
            return assessed.success, assessed.reasons

        results = await asyncio.gather(*map(one, domain.scenarios(SCENARIOS, 5, "heldout")))
    assert results == [(True, ())] * SCENARIOS


def test_the_gate_is_counted_live_as_json_and_for_prometheus(expert: Served) -> None:
    import ray

    hours: Any = [{"role": "user", "content": "When do you open on Friday?"}]
    answer = client(expert).chat.completions.create(model="agentmill", messages=hours)
    assert "evaluator" not in (answer.model_extra or {})["agentmill"]["agents"]
    deadline = time.monotonic() + 60
    while not (shown := httpx.get(f"{expert.base_url}/v1/gate", trust_env=False).json())["plans"].get("shadow_ok"):
        assert time.monotonic() < deadline, "the shadow verdict was never counted"
        time.sleep(0.1)
    assert shown["rates"]["skipped"]["value"] == 1.0
    assert shown["rates"]["miss_rate"]["interval"][0] == 0.0
    exported = f"http://127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}/metrics"
    while not (lines := _metric(exported, "agentmill_gate_plans")):
        assert time.monotonic() < deadline, "Ray exports no counter of the gate"
        time.sleep(1.0)
    assert any('gate="shadow_ok"' in line for line in lines)


def _metric(url: str, name: str) -> list[str]:
    try:
        text = httpx.get(url, timeout=10, trust_env=False).text
    except httpx.TransportError:
        return []
    return [line for line in text.splitlines() if name in line and not line.startswith("#")]


def test_a_lost_agent_is_asked_again_and_the_customer_sees_nothing(expert: Served) -> None:
    kill_replica("Explainer")
    answer = client(expert).chat.completions.create(
        model="agentmill", messages=[{"role": "user", "content": "When do you open on Friday?"}]
    )
    assert (answer.model_extra or {})["agentmill"]["status"] in ("answered", "safe_reply")
    wait_healthy(expert)
    again = client(expert).chat.completions.create(
        model="agentmill", messages=[{"role": "user", "content": "When do you open on Friday?"}]
    )
    assert (again.model_extra or {})["agentmill"]["status"] == "answered"


def test_a_lost_executor_ends_its_conversations_with_a_410(expert: Served) -> None:
    body = {"model": "agentmill", "messages": [{"role": "user", "content": "When do you open on Friday?"}]}
    named = {"X-Session-Id": "lost-1"}
    url = f"{expert.base_url}/v1/chat/completions"
    assert httpx.post(url, json=body, headers=named, timeout=60, trust_env=False).status_code == 200
    kill_replica("Executor")
    wait_healthy(expert)
    lost = httpx.post(url, json=body, headers=named, timeout=60, trust_env=False)
    assert (lost.status_code, lost.json()["error"]["code"]) == (410, "session_lost")
    assert httpx.post(url, json=body, headers=named, timeout=60, trust_env=False).status_code == 200


def wait_healthy(served: Served, timeout_s: float = 120.0) -> None:
    """Until Serve has noticed the loss and put another replica in its place."""
    deadline = time.monotonic() + timeout_s
    good = 0
    while good < 3:
        assert time.monotonic() < deadline, "the system did not recover"
        good = good + 1 if httpx.get(f"{served.base_url}/health", timeout=30, trust_env=False).status_code == 200 else 0
        time.sleep(1.0)
