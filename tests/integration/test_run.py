"""The command `agentmill run` on real stages: its worker and its driver are killed, it goes on; done, it skips.

Every stage is done once, small: two steps of each that trains, two conversations with the last model.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from agentmill.runs import Run
from benchmarks.chaos import differences, finished_rows, kill_worker, wait_until
from cluster.config import read_config
from simulation import simulate

ROOT = Path(__file__).parents[2]
CONVERSATIONS = 24
SETTINGS = (
    f"simulate.conversations={CONVERSATIONS}", "simulate.block_rows=2", "simulate.in_flight=4", "simulate.actors=1",
)  # fmt: skip
TWO_STEPS = "max_steps: 2, heldout_rows: 8, worker: {workers: 1}"
TRAINING = (
    "expand={every: 4}", f"cpt={{{TWO_STEPS}}}", f"sft={{{TWO_STEPS}}}",
    f"dpo={{{TWO_STEPS}, precompute_reference: true}}",
    "evaluate={models: final, scenarios: 2, agent_calls: 2}",
)  # fmt: skip
CHAIN = {"expanded": "base", "cpt": "expanded", "sft": "cpt", "dpo": "sft"}


def start(folder: Path, *more: str, settings: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cluster", "run", str(ROOT / "configs" / "local.yaml"), "--name", "killed", *more]
    command += [part for one in (*SETTINGS, *settings) for part in ("--set", one)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "dumb"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.fixture
def undisturbed(ray_local: None, tmp_path: Path) -> Path:
    """The folder of the same simulation, left alone."""
    config = read_config(ROOT / "configs" / "local.yaml", SETTINGS, "quiet")
    run = Run.create(tmp_path / "quiet", {}, "test")
    simulate.run(run, config.simulate, domain=config.domain, system=config.system, seed=config.seed, mix=config.mix)
    return run.root


@pytest.mark.timeout(4000)
def test_a_killed_run_goes_on_to_what_an_undisturbed_one_gives_and_then_through_every_stage(
    undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "runs" / "killed"
    work = folder / "simulate" / ".work"
    first = start(tmp_path, "--until", "corpora")
    wait_until(lambda: finished_rows(work) >= 4, first)
    kill_worker(first, random.Random(0))
    wait_until(lambda: finished_rows(work) >= 10, first)
    first.kill()  # the driver alone: its workers outlive it for a moment
    first.communicate()
    assert finished_rows(work) < CONVERSATIONS

    second = start(tmp_path, "--until", "corpora")
    _, told = second.communicate(timeout=1200)
    assert second.returncode == 0, told
    assert "simulate   the user simulator talks to the teacher's system; going on where it was stopped" in told
    run = Run.open(folder)
    assert run.figures()["simulate.conversations"].value == CONVERSATIONS
    assert differences(undisturbed / "simulate", folder / "simulate") == []
    assert json.loads((folder / "stages" / "simulate.json").read_text())["seconds"] > 0

    assert "gate       left open, every plan is put to the model evaluator" in told  # too few plans for the bound
    assert run.figures()["gate.threshold"].value == 0.0

    third = start(tmp_path, settings=TRAINING)
    _, told = third.communicate(timeout=2400)
    assert third.returncode == 0, told
    assert told.count("done already") == 4
    assert not (folder / "session.json").exists()
    all_stages_are_done(run)


def all_stages_are_done(run: Run) -> None:
    """Each model was made from the one before it, and the last was served, evaluated and compared with the teacher."""
    for model, before in CHAIN.items():
        manifest = json.loads((run.root / "models" / model / "manifest.json").read_text())
        assert manifest["start"]["model"] == before
    figures = run.figures()
    for stage in ("cpt", "sft", "dpo"):
        assert figures[f"train.{stage}.steps"].value == 2
    for model in ("dpo", "teacher"):
        assert figures[f"evaluate.{model}.success"].n == 2
        assert figures[f"evaluate.{model}.planner.equivalent"].n == 2
    assert figures["evaluate.dpo.versus.teacher.success"].n == 2
    assert "evaluate.sft.success" not in figures
    page = (run.root / "report" / "index.html").read_text()
    assert "dpo against teacher" in page
    assert "cpt: loss" in page
