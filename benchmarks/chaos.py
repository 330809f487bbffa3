"""`agentmill bench chaos`: a simulation whose workers and driver are killed at random moments, beside one left alone.

Both are the same command, `agentmill run ... --until simulate`, in folders of their own. Kills are SIGKILL to single
processes that this bench started: the driver, or a worker below it; after the driver's death the same command is given
again, as a user would. Invariant of what is measured: both runs have the same conversation ids, each once, and every
file of scenarios, calls, turns and conversations is equal to the byte; each file or id that is not counts as one
difference.
"""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import psutil
import pyarrow.parquet as pq

from agentmill.config import UserError
from agentmill.log import duration, say
from agentmill.runs import Run, bench_run

COMPARED = ("scenarios.parquet", "calls", "turns", "conversations")
_POLL_S = 0.05
_WAIT_S = 600.0
_TOLD = 10
Target = Literal["worker", "driver"]


class ChaosFailed(UserError):
    """The disturbed run could not be disturbed, or did not come to its end."""


@dataclass(frozen=True)
class Kill:
    """Kill `target` when `share` of the conversations are finished; 1.0 is while the parts are written."""

    share: float
    target: Target


@dataclass(frozen=True)
class Chaos:
    """What was killed, what the two runs differ in, how often the command was given, and the seconds of each run."""

    kills: tuple[Kill, ...]
    differences: tuple[str, ...]
    starts: int
    seconds: float
    undisturbed_seconds: float


def chaos(folder: Path, conversations: int, kills: int, seed: int, mix: str) -> Chaos:
    """Run twice in `folder`, once with `kills` kills, and compare.

    Raises:
        ChaosFailed: when a run fails, or ends before it could be killed so often.
    """
    plan = draw_kills(kills, random.Random(f"chaos {seed}"))
    began = time.monotonic()
    say("chaos", f"{conversations:,} conversations undisturbed")
    quiet = Command(folder, "undisturbed", conversations, seed, mix)
    quiet.finish(quiet.start())
    between = time.monotonic()
    say("chaos", f"the same again, with {kills} kills")
    starts = disturb(disturbed := Command(folder, "disturbed", conversations, seed, mix), plan, random.Random(seed))
    ended = time.monotonic()
    found = tuple(differences(quiet.root / "simulate", disturbed.root / "simulate"))
    return Chaos(tuple(plan), found, starts, ended - between, between - began)


def bench_chaos(folder: Path, conversations: int, kills: int, seed: int, mix: str) -> Run:
    """Measure and record `simulate.chaos.*` in the run named by bench_run().

    Raises:
        ChaosFailed: see `chaos`.
    """
    run = bench_run()
    run.forget("simulate.chaos")
    found = chaos(folder, conversations, kills, seed, mix)
    run.record("simulate.chaos.kills", len(found.kills), unit="kills")
    run.record("simulate.chaos.driver_kills", sum(kill.target == "driver" for kill in found.kills), unit="kills")
    run.record("simulate.chaos.conversations", conversations, unit="conversations")
    run.record("simulate.chaos.differences", len(found.differences), n=conversations)
    run.record("simulate.chaos.seconds", round(found.seconds, 1), unit="s")
    run.record("simulate.chaos.undisturbed_seconds", round(found.undisturbed_seconds, 1), unit="s")
    for line in found.differences[:_TOLD]:
        say("chaos", line)
    shown = f"{len(found.kills)} kills, {found.starts} starts, {len(found.differences)} differences"
    say("chaos", f"{shown}; {duration(found.seconds)}, undisturbed {duration(found.undisturbed_seconds)}")
    return run


def draw_kills(count: int, rng: random.Random) -> list[Kill]:
    """`count` kills at random moments in order, of workers and of the driver; the driver's last while it writes."""
    shares = sorted(rng.uniform(0.02, 0.9) for _ in range(count - 1))
    targets: list[Target] = ["driver" if i % 3 == 1 else "worker" for i in range(count - 1)]
    rng.shuffle(targets)
    return [*(Kill(*pair) for pair in zip(shares, targets, strict=True)), Kill(1.0, "driver")]


class Command:
    """One run of the command, in a folder of its own below `folder`."""

    def __init__(self, folder: Path, name: str, conversations: int, seed: int, mix: str) -> None:
        self.folder, self.name, self.conversations = folder, name, conversations
        folder.mkdir(parents=True, exist_ok=True)
        self.config = folder / f"{name}.yaml"
        self.config.write_text(
            f"name: {name}\nseed: {seed}\ndomain: automotive\nmix: {mix}\nsimulate:\n  conversations: {conversations}\n"
            "  teacher: {mistake_rate: 0.1}\n  in_flight: 16\n  block_rows: 4\n",
            encoding="utf-8",
        )

    @property
    def root(self) -> Path:
        return self.folder / "runs" / self.name

    def start(self) -> subprocess.Popen[bytes]:
        """Give the command; what it says goes to a file beside the run."""
        command = [sys.executable, "-m", "cluster", "run", str(self.config), "--until", "simulate"]
        path = os.pathsep.join(dict.fromkeys([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]))
        environment = {**os.environ, "PYTHONPATH": path.strip(os.pathsep), "TERM": "dumb"}
        with (self.folder / f"{self.name}.log").open("ab") as log:
            return subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log)

    def finish(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for the end.

        Raises:
            ChaosFailed: when the command fails.
        """
        if process.wait() != 0:
            log = (self.folder / f"{self.name}.log").read_text(encoding="utf-8", errors="replace")
            raise ChaosFailed(f"{self.name}: the run failed with code {process.returncode}; it said: {log[-1500:]}")

    def finished(self) -> int:
        """How many conversations are on disk."""
        return finished_rows(self.root / "simulate" / ".work")


def disturb(run: Command, kills: Sequence[Kill], rng: random.Random) -> int:
    """Bring a run to its end through all `kills`; returns how often its command was given."""
    process, starts = run.start(), 1
    try:
        for kill in kills:
            wait_until(partial(_has_finished, run, kill.share), process)
            if kill.target == "driver":
                process.kill()
                process.wait()
                process, starts = run.start(), starts + 1
            else:
                kill_worker(process, rng)
            say("chaos", f"killed a {kill.target} at {run.finished():,} conversations")
        run.finish(process)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    return starts


def _has_finished(run: Command, share: float) -> bool:
    return run.finished() >= share * run.conversations


def finished_rows(work: Path) -> int:
    """How many rows of a job are on disk."""
    return sum(pq.read_metadata(path).num_rows for path in (work / "out").glob("*.parquet"))


def wait_until(so: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    """Wait until something is so, while a process runs.

    Raises:
        ChaosFailed: when the process ends before, or nothing happens for too long.
    """
    deadline = time.monotonic() + _WAIT_S
    while not so():
        if process.poll() is not None:
            raise ChaosFailed(
                f"the run ended with code {process.returncode} before all kills; where it did not fail, give more "
                "--conversations or fewer --kills"
            )
        if time.monotonic() > deadline:
            raise ChaosFailed(f"what was waited for did not happen within {_WAIT_S:g} s")
        time.sleep(_POLL_S)


def kill_worker(driver: subprocess.Popen[Any], rng: random.Random) -> None:
    """SIGKILL one of the driver's workers that play conversations; waits until there is one."""
    deadline = time.monotonic() + _WAIT_S
    while driver.poll() is None and time.monotonic() < deadline:
        workers = [one for one in psutil.Process(driver.pid).children(recursive=True) if _plays(one)]
        if workers:
            rng.choice(workers).kill()
            return
        time.sleep(_POLL_S)
    raise ChaosFailed("there was no worker to kill")


def _plays(process: psutil.Process) -> bool:
    try:
        title = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return title.startswith("ray::") and "Worker" in title


def differences(one: Path, other: Path) -> list[str]:
    """In what the simulations in two folders differ: files that are not equal, ids that are missing or there twice."""
    found = []
    for name in COMPARED:
        files = [_files(folder, name) for folder in (one, other)]
        for file in sorted(files[0].keys() | files[1].keys()):
            pair = [side.get(file) for side in files]
            if None in pair:
                found.append(f"{file} is in one only")
            elif pair[0] is not None and pair[1] is not None and pair[0].read_bytes() != pair[1].read_bytes():
                found.append(f"{file} differs")
    ids = [_ids(folder) for folder in (one, other)]
    found += [f"conversation {sid} is in one only" for sid in sorted(set(ids[0]) ^ set(ids[1]))]
    found += [f"{len(side) - len(set(side))} ids are there twice" for side in ids if len(side) > len(set(side))]
    return found


def _files(folder: Path, name: str) -> dict[str, Path]:
    path = folder / name
    inside = sorted(path.rglob("*.parquet")) if path.is_dir() else [path] if path.is_file() else []
    return {file.relative_to(folder).as_posix(): file for file in inside}


def _ids(folder: Path) -> list[str]:
    files = sorted((folder / "conversations").glob("*.parquet"))
    return [sid for file in files for sid in pq.read_table(file, columns=["sid"])["sid"].to_pylist()]
