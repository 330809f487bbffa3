"""An engine that a run starts for two of its models. Its weights mean nothing, so that what it says is rarely valid."""

from pathlib import Path

import httpx
import pytest

from agentmill.runs import Run
from cluster.config import RunConfig
from cluster.engines import playing
from rayserve.serve import serve_controller
from rayserve.settings import ModelEngine
from simulation import refine, simulate
from simulation.models import ModelSettings
from simulation.tables import read_folder
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
        {
            "engines": {"small": engine},
            "simulate": {"conversations": 2, "heldout_share": 0.5, "user": speaking, "actors": 1, "max_error_share": 1},
            "refine": {"judge": speaking, "attempts": 1, "max_tokens": 8, "gold_cases": 0, "actors": 1}
            | {"max_error_share": 1},
        }
    )
    run = Run.create(tmp_path / "run", config.resolved(), "test")
    with playing(config.engines, config.simulate.user, *config.refine.models) as (user, judge):
        assert user.url == judge.url and user.identity.startswith("engine/")
        refuses_what_it_cannot_do(user.url)
        settings = config.simulate.model_copy(update={"user": user})
        simulate.run(run, settings, domain=config.domain, system=config.system, seed=1, mix="core")
        refine.run(run, config.refine.with_models([judge]), domain=config.domain, seed=1)
    assert serve_controller() is None
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{user.url}/models", trust_env=False)
    said = read_folder(run.path("simulate", "calls"), ["agent", "model", "output", "status"]).to_pylist()
    customers = [call for call in said if call["agent"] == "user"]
    assert {call["model"] for call in customers if call["status"] == "ok"} == {"small"}
    assert len(read_folder(run.path("simulate", "conversations"), ["sid", "status"])) == 2
    assert run.figures("simulate.in_flight.user.peak")["simulate.in_flight.user.peak"].value >= 1
    verdicts = read_folder(run.path("refine", "calls"), ["verdict", "reason"]).to_pylist()
    assert all(one["reason"] for one in verdicts if one["verdict"] == "unjudged")


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
