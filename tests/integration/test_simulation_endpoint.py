"""The stage `simulate` with its models behind a real endpoint, through Ray Data's actors."""

import asyncio
from pathlib import Path

import pytest

from agentmill.domains.base import load_domain
from agentmill.runs import Run
from benchmarks.endpoint import MODEL, Endpoint
from benchmarks.simulation import SYSTEM, recorded
from simulation import simulate
from simulation.models import ModelSettings
from simulation.scenarios import draw_scenarios
from simulation.simulate import SimulateSettings
from simulation.tables import read_folder

SEED = 3


@pytest.mark.usefixtures("ray_local")
def test_models_behind_an_endpoint_are_asked_within_a_limit_that_is_recorded(tmp_path: Path) -> None:
    domain = load_domain("automotive")
    answers = asyncio.run(recorded(domain, list(draw_scenarios(domain.source("core"), 12, 0.5, SEED))))
    run = Run.create(tmp_path / "run", {}, "test")
    with Endpoint(answers, tmp_path) as endpoint:
        model = ModelSettings(kind="endpoint", url=endpoint.url, name=MODEL)
        settings = SimulateSettings(
            conversations=12, heldout_share=0.5, teacher=model, user=model, actors=1, in_flight=4, block_rows=4
        )
        simulate.run(run, settings, domain="automotive", system=SYSTEM, seed=SEED, mix="core")
    played = read_folder(run.path("simulate", "conversations"), ["status", "success"]).to_pylist()
    assert [(one["status"], one["success"]) for one in played] == [("exit", True)] * 12
    models = read_folder(run.path("simulate", "calls"), ["model"])["model"].to_pylist()
    assert set(models) == {MODEL}
    figures = {name: figure.value for name, figure in run.figures("simulate.in_flight").items()}
    assert {figures[f"simulate.in_flight.{role}.peak"] for role in ("teacher", "user")} == {4}
    assert figures["simulate.in_flight.teacher.pushed_back"] == 0
