"""The run directory: figures, marks, atomic artefacts, intervals."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from agentmill.runs import (
    Run,
    RunError,
    atomic_dir,
    atomic_write_text,
    digest_json,
    digest_path,
    wilson,
)


def make(tmp_path: Path, name: str = "one") -> Run:
    return Run.create(tmp_path / name, {"seed": 1}, "agentmill run x.yaml")


def test_a_run_says_what_made_it(tmp_path: Path) -> None:
    make(tmp_path)
    manifest = Run.open(tmp_path / "one").manifest
    assert manifest["config"] == {"seed": 1}
    assert manifest["command"] == "agentmill run x.yaml"
    assert manifest["versions"]["python"]
    assert manifest["hardware"]["cores"] >= 1


def test_a_missing_run_names_those_that_are_there(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(RunError, match=r"two is not a run directory.*: one; start one with `agentmill run CONFIG`"):
        Run.open(tmp_path / "two")


def test_figures_carry_n_interval_and_command(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.record("evaluate.sft.success", 0.9, n=50, interval=wilson(45, 50))
    run.record("evaluate.sft.success", 0.92, n=50, interval=wilson(46, 50), command="agentmill evaluate")
    run.record("evaluate.sftx", 1)
    figures = Run.open(run.root).figures("evaluate.sft")
    assert list(figures) == ["evaluate.sft.success"]
    figure = figures["evaluate.sft.success"]
    assert (figure.value, figure.n, figure.command) == (0.92, 50, "agentmill evaluate")
    assert run.figures("evaluate.sftx")["evaluate.sftx"].command == "agentmill run x.yaml"


def test_forgetting_a_prefix_keeps_its_neighbours(tmp_path: Path) -> None:
    run = make(tmp_path)
    for name in ("train.sft.loss", "train.sftx.loss", "train"):
        run.record(name, 1.0)
    run.forget("train.sft")
    assert list(run.figures()) == ["train", "train.sftx.loss"]


def _record_many(root: Path, worker: int) -> None:
    run = Run.open(root)
    for index in range(10):
        run.record(f"worker{worker}.f{index}", index)


def test_figures_of_several_processes_are_all_kept(tmp_path: Path) -> None:
    run = make(tmp_path)
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_record_many, args=(run.root, worker)) for worker in range(3)]
    for process in workers:
        process.start()
    for process in workers:
        process.join()
    assert [process.exitcode for process in workers] == [0, 0, 0]
    assert len(run.figures()) == 30


def test_a_stage_mark_can_be_read_back_and_taken_back(tmp_path: Path) -> None:
    run = make(tmp_path)
    assert run.completed("simulate") is None
    mark = run.complete("simulate", "abc", 1.5, {"rows": 3})
    assert run.completed("simulate") == mark
    run.reopen("simulate")
    assert run.completed("simulate") is None


def test_doing_a_stage_again_changes_what_later_stages_depend_on(tmp_path: Path) -> None:
    run = make(tmp_path)
    first = run.complete("simulate", "abc", 1.0)
    second = run.complete("simulate", "abc", 1.0)
    assert first.digest != second.digest


def _write_half(path: Path) -> None:
    with atomic_dir(path) as part:
        (part / "half").write_text("x")
        time.sleep(60)


def test_a_killed_writer_leaves_nothing_that_is_read(tmp_path: Path) -> None:
    target = tmp_path / "models"
    process = multiprocessing.get_context("spawn").Process(target=_write_half, args=(target,))
    process.start()
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*/half")) and not list(tmp_path.glob(".*/half")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not target.exists()
    with atomic_dir(target) as part:
        (part / "whole").write_text("y")
    assert [p.name for p in tmp_path.iterdir()] == ["models"]
    assert [p.name for p in target.iterdir()] == ["whole"]


def test_a_failed_writer_keeps_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "models"
    with atomic_dir(target) as part:
        (part / "old").write_text("1")

    def write_and_fail() -> None:
        with atomic_dir(target) as part:
            (part / "new").write_text("2")
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        write_and_fail()
    assert [p.name for p in target.iterdir()] == ["old"]


def test_atomic_text_replaces_and_leaves_no_temporary(tmp_path: Path) -> None:
    file = tmp_path / "a" / "x.json"
    atomic_write_text(file, "1")
    atomic_write_text(file, "2")
    assert file.read_text() == "2"
    assert [p.name for p in file.parent.iterdir()] == ["x.json"]


def test_digests_follow_content_and_names(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("1")
    before = digest_path(tmp_path / "a")
    (tmp_path / "a" / "x").rename(tmp_path / "a" / "y")
    assert digest_path(tmp_path / "a") != before
    assert digest_json({"a": 1, "b": 2}) == digest_json({"b": 2, "a": 1})
    with pytest.raises(RunError, match="no such file or folder"):
        digest_path(tmp_path / "none")


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(45, 50, 0.7864, 0.9565), (50, 50, 0.9287, 1.0), (0, 10, 0.0, 0.2775), (0, 0, 0.0, 1.0)],
)
def test_wilson_intervals(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=1e-4)


def test_the_run_file_is_plain_json(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.record("a.b", 1.0, unit="s")
    assert json.loads((run.root / "figures.json").read_text())["a.b"]["unit"] == "s"
