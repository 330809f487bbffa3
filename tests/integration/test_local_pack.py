"""A pack of one's own, in a folder of its own: made, simulated by Ray's workers, changed, and served by replicas."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from agentmill.runs import Run

ROOT = Path(__file__).parents[2]
AGENTMILL = [sys.executable, "-P", "-m", "cluster"]  # as installed: the current directory is not on Python's path
SIMULATE = ("run", "dent_desk.yaml", "--until", "simulate")
SMALL = ("--set", "simulate.conversations=12", "--set", "simulate.teacher.mistake_rate=0")


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "dumb", "COLUMNS": "160"}


def agentmill(folder: Path, *arguments: str) -> str:
    """Run the command to its end; returns what it printed."""
    done = subprocess.run(
        [*AGENTMILL, *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds a fresh pack and nothing else."""
    folder = tmp_path_factory.mktemp("dent")
    agentmill(folder, "domain", "new", "dent_desk")
    return folder


@pytest.fixture
def served(folder: Path) -> Iterator[str]:
    """The address of the pack's system on its expert, served in the foreground until the test ends."""
    command = [*AGENTMILL, "serve", "--config", "dent_desk.yaml", "--set", "serve.model.kind=expert", "--port", "0"]
    process = subprocess.Popen(command, cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    told = ""
    for line in process.stderr:
        told += line
        found = re.search(r"(http://127\.0\.0\.1:\d+)/v1 answers", line)
        if found:
            yield found[1]
            break
    else:
        raise AssertionError(told)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)


def test_a_local_pack_is_simulated_and_a_change_of_its_code_does_the_stage_again(folder: Path) -> None:
    agentmill(folder, *SIMULATE, *SMALL)
    figures = Run.open(folder / "runs" / "dent_desk").figures()
    assert figures["simulate.conversations"].value == 12
    assert figures["simulate.success"].value == 1.0
    assert "nothing changed" in agentmill(folder, *SIMULATE, *SMALL, "--dry-run")
    rules = folder / "dent_desk" / "rules.py"
    rules.write_text(rules.read_text() + "# a change\n")
    assert "the domain pack changed" in agentmill(folder, *SIMULATE, *SMALL, "--dry-run")


def test_a_local_pack_is_served(served: str) -> None:
    body = {"model": "agentmill", "messages": [{"role": "user", "content": "Can I bring a lamp on friday?"}]}
    answer = httpx.post(f"{served}/v1/chat/completions", json=body, timeout=60, trust_env=False)
    assert answer.json()["choices"][0]["message"]["content"] == "What is your full name?"
