"""The command line: fast help, no heavy imports, and messages with a remedy in place of tracebacks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentmill.errors import UserError
from agentmill.runs import Run
from cluster.cli import app

HEAVY = ("torch", "ray", "vllm", "transformers", "sqlalchemy", "pyarrow", "numpy", "deepspeed", "trl", "peft")
LOCAL = Path(__file__).parents[2] / "configs" / "local.yaml"


def agentmill(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command as a user starts it."""
    return subprocess.run(
        [sys.executable, "-m", "cluster", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(LOCAL.parents[1]), "TERM": "dumb", "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )


def refusal(*arguments: str | Path) -> str:
    """The message of the user error that the command ends with."""
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert isinstance(result.exception, UserError), result.output
    return str(result.exception)


def test_help_imports_nothing_heavy() -> None:
    code = f"import sys, cluster.cli; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_answers_in_under_half_a_second(tmp_path: Path) -> None:
    """Processor seconds, the best of three: other work on this machine must not decide."""
    seconds = []
    for _ in range(3):
        before = os.times()
        assert agentmill("--help", cwd=tmp_path).returncode == 0
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(seconds) < 0.5


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("simulate.conversation=5", "did you mean simulate.conversations?"),
        ("simulate.conversations=many", "simulate.conversations='many'"),
        ("serve.port=99999", "serve.port=99999"),
        ("sft.lora.rank=[1]", "sft.lora.rank=[1]"),
        ("name=../x", "name='../x'"),
        ("data.public=none.jsonl", "there is no such file"),
    ],
)
def test_a_wrong_configuration_is_a_message(
    assignment: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert told in refusal("run", LOCAL, "--set", assignment)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("run", "locl.yaml"), "there is no such configuration file"),
        (("run", LOCAL, "--from", "evalute"), "did you mean evaluate?"),
        (("run", LOCAL, "--from", "sft", "--until", "base"), "comes after"),
        (("run", LOCAL, "--from", "sft"), "the stage simulate before it is not finished"),
        (("status",), "start one with `agentmill run"),
        (("status", "none"), "is not a run directory"),
        (("figures", "none"), "is not a run directory"),
        (("report", "none"), "is not a run directory"),
        (("serve", "none"), "is not a run directory"),
        (("chat", "--url", "http://127.0.0.1:9"), "start a system with `agentmill serve`"),
    ],
)
def test_a_mistake_is_a_message_with_a_remedy(
    arguments: tuple[str | Path, ...], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert told in refusal(*arguments)


def test_a_user_error_ends_the_command_with_2_and_no_traceback(tmp_path: Path) -> None:
    done = agentmill("run", LOCAL, "--set", "simulate.conversation=5", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("agentmill: ")
    assert "Traceback" not in done.stderr


def test_a_dry_run_shows_everything_and_does_nothing(tmp_path: Path) -> None:
    changes = ("--set", "seed=99", "--set", "expand=null", "--set", "cpt={}")
    done = agentmill("run", LOCAL, *changes, "--name", "try", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert '"seed": 99' in done.stdout
    assert '"name": "try"' in done.stdout
    plan, _, _ = done.stdout.partition("memory of one worker")
    rows = {line.split("│")[1].strip(): line for line in plan.splitlines() if "│" in line}
    for stage in ("simulate", "refine", "corpora", "base", "cpt", "sft", "evaluate", "report"):
        assert "│ do " in rows[stage]
    assert "leave out" in rows["expand"]
    assert list(tmp_path.iterdir()) == []


def test_figures_are_json(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "runs" / "one", {}, "x")
    run.record("evaluate.sft.success", 0.9, n=50, interval=(0.78, 0.96))
    run.record("run.seconds", 3.5, unit="s")
    runner = CliRunner()
    everything = runner.invoke(app, ["figures", str(run.root)])
    assert set(json.loads(everything.stdout)) == {"evaluate.sft.success", "run.seconds"}
    one = runner.invoke(app, ["figures", "one", "evaluate.sft.success", "--runs", str(tmp_path / "runs")])
    assert json.loads(one.stdout)["evaluate.sft.success"]["interval"] == [0.78, 0.96]
    wrong = runner.invoke(app, ["figures", str(run.root), "evaluate.sft.sucess"])
    assert isinstance(wrong.exception, UserError)
    assert "did you mean evaluate.sft.success?" in str(wrong.exception)
