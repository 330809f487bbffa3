"""Guided decoding with a drafter under real vLLM: random weights give valid outputs, and the engine lives.

Guided decoding together with a drafter has killed engines, so that every kind of drafter that the settings offer is
tried here with guided and free requests, greedy and sampled ones, at the same time. Random weights repeat themselves,
so that most of ngram's drafts are accepted, and none of those of a drafter with random weights. The engine counts what
lies out of range meanwhile: vLLM takes one extension of its worker, for the repair of drafting and for the counts.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from agentmill.agents.contracts import EvaluatorResult, EvaluatorTask, PlannerTask, UnderstanderTask
from agentmill.agents.settings import MaxTokens, Structured, TeamSettings
from agentmill.agents.state import DialogueState
from agentmill.models.chat import ChatRequest, Message, Sampling
from agentmill.plans.parse import Plan
from rayserve.answers import EngineAnswer
from rayserve.serve import start
from rayserve.settings import EngineSettings, ServeSettings, Speculative
from tests.tiny_llama import write_tiny_drafter, write_tiny_llama

LONGEST = 1500
SYSTEM = TeamSettings(
    attempts=1,
    max_tokens=MaxTokens(understander=LONGEST, planner=LONGEST, evaluator=LONGEST),
    structured=Structured(understander=True, planner=True, evaluator=True, max_text=12, max_statements=3, max_depth=1),
)  # one token is one byte: bounds that keep the longest output under LONGEST tokens
STATE = DialogueState(intent="opening_hours", entities={"day": "friday"})
PLAN = 'hours = opening_hours(day="friday")'
RANGES = {f"model.layers.{layer}.mlp.{part}": 1.0 for layer in range(4) for part in ("gate_proj", "down_proj")}
WORDS = "When do you open on Friday, and is N4821 there?"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with a head size that vLLM's CPU attention has, and layers enough for a drafter."""
    return write_tiny_llama(tmp_path_factory.mktemp("model") / "tiny", hidden=128, layers=4, positions=2048)


@pytest.mark.parametrize("method", ["ngram", "eagle3"])
def test_random_weights_write_valid_outputs_and_the_engine_lives(
    ray_local: None, model: Path, tmp_path: Path, method: str
) -> None:
    import ray

    drafter = Speculative(method="ngram")
    if method == "eagle3":
        drafter = Speculative(method="eagle3", model=str(write_tiny_drafter(tmp_path / "drafter", model)))
    (model / "ranges.json").write_text(json.dumps(RANGES))
    engine = EngineSettings(speculative=drafter, sample_ranges=0.5)
    served = start(ServeSettings(port=0, engine=engine), model, domain="automotive", system=SYSTEM)
    try:
        # a process of its own: Serve's handles stay with the event loop that they were first used on in a process
        asking = ray.remote(num_cpus=0, max_calls=1)(lambda: asyncio.run(ask_everything()))
        ray.get(asking.remote(), timeout=300)
    finally:
        served.stop()


async def ask_everything() -> None:
    await ask_guided()
    await ask_mixed()
    await ask_what_is_refused()
    await ask_guided()
    drift = await handle("SharedEngine:student").range_drift.remote()
    assert set(drift.by_layer) == set(RANGES)
    assert all(0 < count.clipped < count.total for layer, count in drift.by_layer.items() if "gate" in layer)


def handle(agent: str) -> Any:
    from ray import serve

    return serve.get_deployment_handle(agent, "agentmill")


async def ask_guided() -> None:
    """Each agent once; what the weights cannot know (the customer's very words) may be refused, nothing else."""
    task = UnderstanderTask(state=DialogueState(), assistant="", utterance=WORDS, seed=1)
    heard = await handle("Understander").run.remote(task)
    assert heard.understanding is not None or "not in the customer's words" in heard.calls[0].error, heard.calls
    planned = await handle("Planner").run.remote(PlannerTask(state=STATE, seed=1))
    assert planned.plan is not None, planned.calls
    assert {call.tool for call in Plan.parse(planned.plan).calls} == {"opening_hours"}
    judged: EvaluatorResult = await handle("Evaluator").run.remote(
        EvaluatorTask(state=STATE, plan=PLAN, facts={"hours": {}}, seed=1)
    )
    assert (judged.by_model, judged.calls[0].status) == (True, "ok"), judged


async def ask_mixed() -> None:
    """Guided and free requests together, more than the engine runs at once."""
    await asyncio.gather(*(ask_guided() for _ in range(8)), *(ask_freely(seed) for seed in range(24)))


async def ask_freely(seed: int) -> None:
    request = ChatRequest(
        agent="explainer",
        messages=(Message(role="user", content=WORDS * (1 + seed % 3)),),
        sampling=Sampling(temperature=seed % 2, max_tokens=16 + seed, seed=seed),
    )
    answer: EngineAnswer = await handle("Explainer").complete.remote(request)
    assert answer.unwrap().completion_tokens > 0


async def ask_what_is_refused() -> None:
    """A structure that the engine cannot read comes back with its reason."""
    for structure in ({"response_grammar": "root ::= ("}, {"response_schema": {"type": "nonsense"}}):
        messages = (Message(role="user", content="hi"),)
        request = ChatRequest(agent="planner", messages=messages, **structure)
        answer: EngineAnswer = await handle("Planner").complete.remote(request)
        assert answer.reply is None
        assert not answer.retryable
        assert "rammar" in answer.error or "schema" in answer.error, answer.error
