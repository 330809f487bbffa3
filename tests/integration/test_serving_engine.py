"""The served system on the shared vLLM engine: whole answers, streams, refusals, and the share of inputs out of range.

The weights may mean nothing.
"""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from agentmill.agents.contracts import ExplainerResult, ExplainerTask
from agentmill.agents.schemas import verdict_schema
from agentmill.agents.state import DialogueState
from agentmill.config import UserError
from agentmill.domains.base import Json, load_domain
from agentmill.models.chat import ChatRequest, Message, Sampling
from agentmill.plans.grammar import Bounds, plan_grammar
from agentmill.plans.parse import Plan
from rayserve.answers import EngineAnswer, RangeDrift
from rayserve.engines import BareEngine
from rayserve.serve import Served, start
from rayserve.settings import EngineSettings, ServeSettings
from raytrain.data import join
from raytrain.quantize.clip import Clipped, calibrate, count_clipped
from simulation.gateway_client import GatewayClient
from tests.tiny_llama import write_tiny_llama

ASKED = [
    f"{name} asks on {day}: when do you open?" for name, day in (("Ann", "Friday"), ("Bo", "Sunday"), ("Cy", "May 1"))
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with a head size that vLLM's CPU attention has."""
    return write_tiny_llama(tmp_path_factory.mktemp("model") / "tiny", hidden=128)


def test_a_model_that_does_not_load_is_said_with_vllms_reason(ray_local: None, model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "hidden_size": 256, "head_dim": 32}))
    with pytest.raises(UserError, match=r"did not start: .*size.*logs are in"):
        start(ServeSettings(port=0), broken, domain="automotive")


def test_the_shared_engine_answers_streams_and_refuses_as_values(ray_local: None, model: Path) -> None:
    offline = write_ranges(model)
    engine = EngineSettings(sample_ranges=1.0)
    served = start(ServeSettings(port=0, sessions_api=True, engine=engine), model, domain="automotive")
    try:
        samples_what_lies_outside(model, *offline)
        talk(served)
        asyncio.run(ask_agents(served))
        streams_through_the_explainer()
        keeps_to_a_structure()
    finally:
        served.stop()
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{served.base_url}/health", trust_env=False)


def write_ranges(model: Path) -> tuple[Clipped, Clipped]:
    """Write the ranges of another prompt into the model folder; returns what ASKED clips, counted by transformers, of
    ranges that are 1 % wider and of ranges that are 1 % narrower.

    The engine's count lies between the two: it rounds to bf16 in other places, and bf16 values are 0.8 % apart at most,
    so that what only one of the two clips is as near as that to the limit.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)

    def tokens(words: str) -> Any:
        said = [{"role": "user", "content": words}]
        chat = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        return np.array(tokenizer(chat, add_special_tokens=False).input_ids, dtype=np.int32)

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval()
    ranges = calibrate(loaded, [tokens("hello")])
    (model / "ranges.json").write_text(json.dumps(ranges))
    shifted = {str(by): {layer: by * limit for layer, limit in ranges.items()} for by in (1.01, 0.99)}
    found = count_clipped(loaded, join([(tokens(words), 1, "a") for words in ASKED]), shifted, (0,))
    return found["1.01"], found["0.99"]


def samples_what_lies_outside(model: Path, wider: Clipped, narrower: Clipped) -> None:
    """The engine's rate is the offline one, and ranges half as large give a higher one."""
    import ray

    ranges = json.loads((model / "ranges.json").read_text())
    halved = {layer: limit / 2 for layer, limit in ranges.items()}

    @ray.remote(num_cpus=0, max_calls=1)
    def sampled() -> list[RangeDrift]:
        from ray import serve

        handle = serve.get_deployment_handle("SharedEngine:student", "agentmill")
        engine = BareEngine("student", handle)

        async def ask() -> RangeDrift:
            said = [(Message(role="user", content=words),) for words in ASKED]
            one = Sampling(max_tokens=1)  # so that the engine reads the prompts, and nothing of its own
            requests = [ChatRequest(agent="explainer", messages=messages, sampling=one) for messages in said]
            await asyncio.gather(*(engine.complete(request) for request in requests))
            return await engine.range_drift()

        async def ask_twice() -> list[RangeDrift]:
            first = await ask()
            await engine.forget()
            await handle.collective_rpc.remote("watch_ranges", args=(halved, 1.0))
            return [first, await ask()]

        return asyncio.run(ask_twice())

    first, second = ray.get(sampled.remote())
    totals = {layer: count.total for layer, count in first.by_layer.items()}
    assert totals == {layer: total for layer, (_, total) in wider.by_layer.items()}
    assert 0 < wider.rate <= first.total.rate <= narrower.rate < 0.1
    assert second.total.total == first.total.total
    assert second.total.rate > 2 * first.total.rate


def talk(served: Served) -> None:
    client = openai.OpenAI(base_url=f"{served.base_url}/v1", api_key="none", max_retries=0, timeout=120)
    answer = client.chat.completions.create(
        model="agentmill", messages=[{"role": "user", "content": "When do you open on Friday?"}]
    )
    extension: Json = (answer.model_extra or {})["agentmill"]
    assert extension["status"] in ("safe_reply", "asked", "answered")
    assert answer.choices[0].message.content
    assert extension["agents"]["understander"]["prompt_tokens"] > 10


async def ask_agents(served: Served) -> None:
    body: Json = {"messages": [{"role": "user", "content": "intent: opening_hours"}], "max_tokens": 8, "seed": 1}
    async with GatewayClient(served.base_url) as gateway:
        greedy = [await gateway.complete("planner", body) for _ in range(2)]
        sampled = [await gateway.complete("planner", {**body, "temperature": 1.0}) for _ in range(2)]
        together = await asyncio.gather(*(gateway.complete("planner", body) for _ in range(16)))
    assert greedy[0].text == greedy[1].text
    assert sampled[0].text == sampled[1].text
    assert {reply.model for reply in together} == {"student"}
    assert all(0 < reply.completion_tokens <= 8 for reply in together)
    long = {"messages": [{"role": "user", "content": "x " * 20_000}]}
    refused = httpx.post(f"{served.base_url}/v1/agents/planner/complete", json=long, timeout=60, trust_env=False)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "model_error")


def streams_through_the_explainer() -> None:
    """Real tokens through agent and engine: several pieces, which together are what the model said."""
    import ray

    task = ExplainerTask(utterance="hello", state=DialogueState(intent="small_talk"), results=None, seed=1)

    @ray.remote(num_cpus=0)
    def collect(task: ExplainerTask) -> list[Any]:
        from ray import serve

        async def pieces() -> list[Any]:
            explainer = serve.get_deployment_handle("Explainer", "agentmill").options(stream=True)
            return [piece async for piece in explainer.stream.remote(task)]

        return asyncio.run(pieces())

    *pieces, result = ray.get(collect.remote(task))
    assert isinstance(result, ExplainerResult)
    assert result.calls[0].completion_tokens > 0
    if result.reply is not None:
        assert "".join(pieces) == result.reply
    assert len(pieces) > 1 or result.calls[0].status != "ok"


def keeps_to_a_structure() -> None:
    """Random weights under a schema and a grammar; what the engine cannot read is refused with its reason."""
    import ray

    schema: Json = verdict_schema(["LATE", "UNKNOWN"])
    grammar = plan_grammar([load_domain("automotive").tools["opening_hours"]], Bounds(statements=1, depth=0, text=8))
    structures: list[Json] = [
        {"response_schema": schema},
        {"response_grammar": grammar},
        {"response_schema": {"type": "nonsense"}},
        {"response_grammar": "root ::= ("},
    ]
    messages = (Message(role="user", content="hi"),)
    sampling = Sampling(max_tokens=300)
    requests = [ChatRequest(agent="planner", messages=messages, sampling=sampling, **given) for given in structures]

    @ray.remote(num_cpus=0, max_calls=1)
    def answered() -> list[EngineAnswer]:
        from ray import serve

        async def ask() -> list[EngineAnswer]:
            planner = serve.get_deployment_handle("Planner", "agentmill")
            return [await planner.complete.remote(request) for request in requests]

        return asyncio.run(ask())

    verdict, plan, *refused = ray.get(answered.remote())
    assert isinstance(json.loads(verdict.unwrap().text)["ok"], bool)
    assert [call.tool for call in Plan.parse(plan.unwrap().text).calls] == ["opening_hours"]
    assert [(answer.reply, answer.retryable) for answer in refused] == [(None, False)] * 2
    assert all(len(answer.error) > 20 for answer in refused)
