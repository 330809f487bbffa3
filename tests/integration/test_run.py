"""The command `agentmill run` on real stages: killed with its whole process group, it goes on; done, it skips."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq

from agentmill.runs import Run

ROOT = Path(__file__).parents[2]
CONVERSATIONS = 24


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cluster", "run", str(ROOT / "configs" / "local.yaml"), "--name", "killed"]
    command += ["--until", "corpora", "--set", f"simulate.conversations={CONVERSATIONS}"]
    command += ["--set", "simulate.block_rows=2", "--set", "simulate.in_flight=4", "--set", "simulate.actors=1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "dumb"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for_some_work(run: Path, process: subprocess.Popen[str]) -> None:
    """Until the simulation has written its first conversations."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if list((run / "simulate").rglob("*.parquet")) and len(list((run / "simulate").rglob("*.parquet"))) > 2:
            return
        time.sleep(0.2)
    raise AssertionError(process.stderr.read() if process.stderr and process.poll() is not None else "no work in time")


def test_a_killed_run_goes_on_and_a_finished_one_skips(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "killed"
    first = start(tmp_path)
    wait_for_some_work(folder, first)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()

    second = start(tmp_path)
    _, told = second.communicate(timeout=400)
    assert second.returncode == 0, told
    assert "simulate   the user simulator talks to the teacher's system; going on where it was stopped" in told
    run = Run.open(folder)
    assert run.figures()["simulate.conversations"].value == CONVERSATIONS
    sids = pq.read_table(folder / "simulate" / "conversations", columns=["sid"]).column("sid").to_pylist()
    assert len(sids) == len(set(sids)) == CONVERSATIONS
    assert json.loads((folder / "stages" / "simulate.json").read_text())["seconds"] > 0

    assert "gate       left open, every plan is put to the model evaluator" in told  # too few plans for the bound
    assert run.figures()["gate.threshold"].value == 0.0

    third = start(tmp_path)
    _, told = third.communicate(timeout=100)
    assert third.returncode == 0, told
    assert told.count("done already") == 4
    assert not (folder / "session.json").exists()
