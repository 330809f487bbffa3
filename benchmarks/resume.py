"""`agentmill bench resume`: stages of training that are killed at random steps, beside the same left alone.

Both are the stage itself on the same rows of a run's corpora and the same model, each in a process of its own with its
own Ray session. Kills are SIGKILL to single processes that this bench started: a worker, or the driver with all that it
started; after the driver's death the stage is started again, as a user would. What is measured is the largest
difference between the losses of the same step; both logs must have the same steps, each once. The stage runs with its
own settings but for the number of steps, and saves every `steps` / 6.

This module is the process as well: `python -m benchmarks.resume RUN STAGE SETTINGS`.
"""

import importlib
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import pyarrow.parquet as pq

from agentmill.config import UserError
from agentmill.log import say
from agentmill.runs import Run, bench_run
from benchmarks.training_data import CONVERSATIONS, HELDOUT_ROWS, make_corpora, put_model, python_path
from raytrain.settings import CptSettings, DpoSettings, SftSettings, StageSettings
from raytrain.steplog import read_steps

Target = Literal["worker", "driver"]

KINDS: Mapping[str, type[StageSettings]] = {"cpt": CptSettings, "sft": SftSettings, "dpo": DpoSettings}
TOLERANCE = 1e-4
SAVES = 6
SEED = 1
START = "base"
TRAIN_ROWS = 4000
POLL_S = 0.02
WAIT_S = 900.0
RAY_CPUS = 8
RAY_STORE_BYTES = 100 * 2**20
WORKER = "RayTrainWorker"


class ResumeFailed(UserError):
    """A run could not be killed as planned, failed, or lost steps. The message says which and what to do."""


@dataclass(frozen=True)
class Kill:
    """SIGKILL to `target` once `step` is in the log."""

    step: int
    target: Target


@dataclass(frozen=True)
class Survived:
    """What one stage lived through: its kills, its steps, and the largest difference between losses of one step."""

    stage: str
    kills: tuple[Kill, ...]
    steps: int
    difference: float


def bench_resume(
    folder: Path, source: Run | None, settings: Mapping[str, StageSettings], *, model: str, steps: int, kills: int,
    seed: int,
) -> tuple[Run, bool]:  # fmt: skip
    """Measure each stage and record train.<stage>.resume_max_loss_difference in the run named by bench_run().

    Returns that run, and whether every difference is at most TOLERANCE.

    Raises:
        ResumeFailed: see there.
    """
    source = source or make_corpora(folder, CONVERSATIONS, "brief", SEED)
    run, found = bench_run(), []
    for stage, asked in settings.items():
        every = max(1, steps // SAVES)
        fewer = asked.model_copy(update={"max_steps": steps, "save_every_steps": every, "merge": None})
        put_model(model, source, folder / stage / "model", SEED)
        found.append(survive(folder / stage, source, stage, fewer, kills, seed))
        say("resume", _text(found[-1]))
    for one in found:
        prefix = f"train.{one.stage}.resume"
        run.record(f"{prefix}_max_loss_difference", one.difference, n=one.steps, unit="nats")
        run.record(f"{prefix}_kills", len(one.kills), unit="kills")
        run.record(f"{prefix}_driver_kills", sum(kill.target == "driver" for kill in one.kills), unit="kills")
    return run, all(one.difference <= TOLERANCE for one in found)


def survive(folder: Path, source: Run, stage: str, settings: StageSettings, kills: int, seed: int) -> Survived:
    """Train twice in `folder`, once with kills, and compare the logs.

    Raises:
        ResumeFailed: when a run fails, ends before it could be killed so often, or lost or repeated steps.
    """
    quiet, disturbed = (_Trained(folder / name, source, stage, settings) for name in ("undisturbed", "disturbed"))
    say("resume", f"{stage}: undisturbed")
    quiet.finish()
    expected = quiet.losses()
    plan = draw_kills(kills, len(expected), random.Random(f"resume {stage} {seed}"))
    for kill in plan:
        say("resume", f"{stage}: kills a {kill.target} after step {kill.step}")
        disturbed.disturb(kill)
    disturbed.finish()
    found = disturbed.losses()
    if found.keys() != expected.keys():
        odd = sorted(found.keys() ^ expected.keys())
        raise ResumeFailed(f"{stage}: steps {odd[:5]} are in one log and not in the other; see {folder}")
    difference = max(abs(found[step] - expected[step]) for step in expected)
    return Survived(stage, tuple(plan), len(expected), difference)


def draw_kills(count: int, steps: int, rng: random.Random) -> list[Kill]:
    """`count` kills at different random steps, in order, none after the last; of workers and, every third, the driver.

    Raises:
        ResumeFailed: when there are fewer steps than that.
    """
    if steps <= count:
        raise ResumeFailed(f"{steps} steps are too few for --kills {count}; give --steps more or --kills fewer")
    targets: list[Target] = ["driver" if i % 3 == 1 else "worker" for i in range(count)]
    rng.shuffle(targets)
    return [Kill(*pair) for pair in zip(sorted(rng.sample(range(1, steps), count)), targets, strict=True)]


class _Trained:
    """One run of a stage in a folder of its own, and the process that is at it."""

    def __init__(self, folder: Path, source: Run, stage: str, settings: StageSettings) -> None:
        self._run = Run.create(folder, {}, "agentmill bench resume")
        self._stage, self._settings = stage, settings
        self._said = folder / "said.txt"
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = 0.0
        self._ended: set[int] = set()
        shutil.copytree(folder.parent / "model", self._run.path("models", START))
        for name in {stage, "sft"}:
            for part, count in (("train", TRAIN_ROWS), ("heldout", HELDOUT_ROWS)):
                rows = pq.read_table(source.root / "corpora" / name / f"{part}.parquet").slice(0, count)
                pq.write_table(rows, self._run.path("corpora", name, f"{part}.parquet"))

    def losses(self) -> dict[int, float]:
        """The loss of each step.

        Raises:
            ResumeFailed: when the log has a step twice.
        """
        rows = read_steps(self._log)
        found = {int(row["step"]): float(row["loss"]) for row in rows}
        if len(found) != len(rows):
            raise ResumeFailed(f"{self._log} has {len(rows) - len(found)} steps more than once")
        return found

    def finish(self) -> None:
        """Let it come to its end.

        Raises:
            ResumeFailed: when it does not.
        """
        process = self._process or self._begin()
        try:
            code = process.wait(timeout=WAIT_S)
        except subprocess.TimeoutExpired:
            self._kill_driver()
            raise ResumeFailed(f"{self._stage} did not end within {WAIT_S:g} s; it said: {self._tail()}") from None
        if code != 0:
            raise ResumeFailed(f"{self._stage} failed with code {code}; it said: {self._tail()}")

    def disturb(self, kill: Kill) -> None:
        """Kill as planned, once training goes on after the kill before; a driver that is not there is started first."""
        process = self._process or self._begin()
        deadline = time.monotonic() + WAIT_S
        while not (worker := self._at_work(process)) or self._steps() < kill.step:
            if process.poll() is not None:
                raise ResumeFailed(f"{self._stage} ended before step {kill.step}; it said: {self._tail()}")
            if time.monotonic() > deadline:
                self._kill_driver()
                raise ResumeFailed(f"{self._stage} had no step {kill.step} within {WAIT_S:g} s: {self._tail()}")
            time.sleep(POLL_S)
        self._killed, self._ended = time.time(), {one.pid for one in self._workers(process)}
        if kill.target == "driver":
            self._kill_driver()
        else:
            worker.kill()

    def _begin(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "benchmarks.resume", str(self._run.root), self._stage]
        with self._said.open("ab") as said:
            self._process = subprocess.Popen(
                [*command, self._settings.model_dump_json()], env=python_path(), stdout=said, stderr=said,
                start_new_session=True,
            )  # fmt: skip
        return self._process

    def _kill_driver(self) -> None:
        """SIGKILL to the driver and all that it started: Ray's processes would go on for a while and save steps."""
        assert self._process is not None
        driver = psutil.Process(self._process.pid)
        below = driver.children(recursive=True)
        for process in (driver, *below):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        psutil.wait_procs(below, timeout=WAIT_S)
        self._process = None

    def _at_work(self, process: subprocess.Popen[bytes]) -> psutil.Process | None:
        """A train worker of a group whose steps are in the log, None where there is none yet: one of those that the
        last kill ended is no use. Ray gives a new group processes that may be older than the kill."""
        if not self._log.is_file() or self._log.stat().st_mtime < self._killed:
            return None
        return next((one for one in self._workers(process) if one.pid not in self._ended), None)

    @staticmethod
    def _workers(process: subprocess.Popen[bytes]) -> Iterator[psutil.Process]:
        """The train workers below the driver."""
        for one in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if WORKER in " ".join(one.cmdline()):
                    yield one

    def _steps(self) -> int:
        rows = read_steps(self._log)
        return int(rows[-1]["step"]) if rows else 0

    def _tail(self) -> str:
        return self._said.read_text(encoding="utf-8", errors="replace")[-1500:]

    @property
    def _log(self) -> Path:
        return self._run.root / "logs" / f"{self._stage}.jsonl"


def _text(found: Survived) -> str:
    killed = ", ".join(f"a {kill.target} after step {kill.step}" for kill in found.kills)
    return f"{found.stage}: killed {killed}; of {found.steps} losses none differs by more than {found.difference:.2g}"


def _train(arguments: Sequence[str]) -> None:
    import ray

    root, stage, settings = arguments
    ray.init(
        address="local",
        num_cpus=RAY_CPUS,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=RAY_STORE_BYTES,
    )
    importlib.import_module(f"raytrain.{stage}").run(
        Run.open(root), KINDS[stage].model_validate_json(settings), start=START, seed=SEED
    )


if __name__ == "__main__":
    _train(sys.argv[1:])
