"""An engine that a run starts for two of its models. Its weights mean nothing, so that what it says is rarely valid."""

import asyncio
from pathlib import Path

import httpx
import pyarrow as pa
import pytest

from agentmill.domains.base import load_domain
from cluster.config import RunConfig
from cluster.engines import playing
from rayserve.serve import serve_controller
from rayserve.settings import ModelEngine
from simulation.judge import Judge, Judged
from simulation.models import ModelSettings, build_model, closing
from simulation.rolled import unpack
from simulation.rollout import Rollout
from tests.tiny_llama import write_tiny_llama


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of bytes whose context holds the agents' whole prompts."""
    return write_tiny_llama(tmp_path_factory.mktemp("model") / "tiny", hidden=128, positions=16_384)


def test_one_engine_plays_the_customer_and_the_judge_and_is_gone_afterwards(
    ray_local: None, model: Path, tmp_path: Path
) -> None:
    engine = ModelEngine(model=str(model), accelerator="cpu", max_model_len=16_384, max_num_seqs=8, max_replicas=2)
    speaking = ModelSettings(kind="engine", name="small", temperature=0.7)
    config = RunConfig.model_validate(
        {"engines": {"small": engine}, "simulate": {"user": speaking}, "refine": {"judge": speaking}}
    )
    with playing(config.engines, config.simulate.teacher, config.simulate.user, *config.refine.models) as models:
        teacher, user, judge = models
        assert (teacher, user.url) == (config.simulate.teacher, judge.url)
        refuses_what_it_cannot_do(user.url)
        played = asyncio.run(two_conversations(config, teacher, user, tmp_path))
        judged = asyncio.run(one_verdict(judge))
    assert serve_controller() is None
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{user.url}/models", trust_env=False)
    assert played["conversations"].num_rows == 2
    customers = [call for call in played["calls"].to_pylist() if call["agent"] == "user"]
    assert {call["model"] for call in customers if call["status"] == "ok"} == {"small"}
    assert all(call["error"] for call in customers if call["status"] != "ok")
    assert judged.verdict == "unjudged" and judged.reason


async def two_conversations(
    config: RunConfig, teacher: ModelSettings, user: ModelSettings, folder: Path
) -> dict[str, pa.Table]:
    """The actor's own block of two, each cut to two turns."""
    rollout = Rollout(config.domain, config.system, teacher, user, 0, 240.0, 8, str(folder / "stop"))
    scenarios = [one.model_copy(update={"max_turns": 2}) for one in load_domain(config.domain).scenarios(2, 1, "train")]
    rows = [{"sid": f"s{number}", "scenario_json": one.model_dump_json()} for number, one in enumerate(scenarios)]
    try:
        return unpack(await rollout(pa.Table.from_pylist(rows)))
    finally:
        await rollout.close()


async def one_verdict(settings: ModelSettings) -> Judged:
    domain = load_domain("automotive")
    model = build_model(settings, domain)
    async with closing(model):
        judge = Judge(domain, model, settings, attempts=1, max_tokens=8)
        return await judge.judge("explainer", "utterance: hello", "Good morning.")


def refuses_what_it_cannot_do(url: str) -> None:
    listed = httpx.get(f"{url}/models", trust_env=False).json()
    assert [one["id"] for one in listed["data"]] == ["small"]
    messages = [{"role": "user", "content": "hello"}]
    for body, status in (
        ({"model": "large", "messages": messages}, 404),
        ({"model": "small", "messages": messages, "stream": True}, 400),
        ({"model": "small", "messages": [{"role": "user", "content": "x" * 20_000}]}, 400),
        ({"model": "small", "messages": messages, "structured_outputs": {"grammar": "root ::= ("}}, 400),
    ):
        answer = httpx.post(f"{url}/chat/completions", json=body, timeout=60, trust_env=False)
        assert (answer.status_code, "message" in answer.json()["error"]) == (status, True), answer.text
