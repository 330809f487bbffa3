"""A training stage in a process of its own, as `agentmill run` has it, for tests that disturb it."""

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from agentmill.runs import Run
from raytrain.settings import StageSettings
from raytrain.steplog import read_steps

WAIT_S = 240.0
SCRIPT = """
import signal, sys
from importlib import import_module
from pathlib import Path
from agentmill.runs import Run
from cluster.session import ray_session
signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the command line has it
stage, root, settings = import_module("raytrain." + sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
with ray_session(record=root / "session.json"):
    kind = getattr(import_module("raytrain.settings"), sys.argv[1].capitalize() + "Settings")
    try:
        stage.run(Run.open(root), kind.model_validate_json(settings), seed=1)
    except KeyboardInterrupt:
        sys.exit(130)
"""


class Driver:
    """One process that trains `stage` of `run`; what it says is in `said`."""

    def __init__(self, run: Run, stage: str, settings: StageSettings, output: Path) -> None:
        command = [sys.executable, "-c", SCRIPT, stage, str(run.root), settings.model_dump_json()]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self._run, self._stage, self._output = run, stage, output
        with open(output, "w") as stream:
            self.process = psutil.Popen(command, env=environment, start_new_session=True, stderr=stream)

    @property
    def said(self) -> str:
        return self._output.read_text()

    def steps(self) -> int:
        """The newest step in the log."""
        rows = read_steps(self._run.root / "logs" / f"{self._stage}.jsonl")
        return int(rows[-1]["step"]) if rows else 0

    def wait_for_step(self, step: int) -> None:
        """Until `step` is in the log."""
        self._wait(lambda: self.steps() >= step, f"step {step}")

    def wait_for_line(self, text: str, times: int = 1) -> None:
        """Until it has said `text` so many times."""
        self._wait(lambda: self.said.count(text) >= times, text)

    def going_on_after(self) -> int:
        """The step that it said last to go on after."""
        return int(re.findall(r"going on after step (\d+)", self.said)[-1])

    def newest_worker(self) -> psutil.Process:
        """The Ray Train worker that was started last, as soon as there is one; earlier ones may still be dying."""
        found: list[psutil.Process] = []

        def there() -> bool:
            below = self.process.children(recursive=True)
            found.extend(p for p in below if "RayTrainWorker" in _command(p))
            return bool(found)

        self._wait(there, "worker")
        return max(found, key=lambda worker: worker.create_time())

    def end(self) -> int:
        """Wait for it to end by itself; returns the exit code."""
        return int(self.process.wait(timeout=WAIT_S))

    def kill(self) -> None:
        """SIGKILL to it and all it started; nothing of it saves a step any more."""
        below = self.process.children(recursive=True)
        for process in (self.process, *below):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
        psutil.wait_procs(below, timeout=WAIT_S)

    def _wait(self, done: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not done():
            assert self.process.poll() is None, f"the driver ended before {what}: {self.said}"
            assert time.monotonic() < deadline, f"no {what} after {WAIT_S} s: {self.said}"
            time.sleep(0.02)


@contextmanager
def driver(run: Run, stage: str, settings: StageSettings, output: Path) -> Iterator[Driver]:
    """Start one; whatever happens, nothing of it is left."""
    started = Driver(run, stage, settings, output)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.kill()


@contextmanager
def a_worker_killed(run: Run, stage: str, step: int) -> Iterator[None]:
    """SIGKILL a Ray Train worker of the block, which trains `stage` from this process, once `step` is in the log."""
    mine, log = psutil.Process(), run.root / "logs" / f"{stage}.jsonl"
    before, over = {p.pid for p in mine.children(recursive=True)}, threading.Event()
    killed: list[int] = []

    def kill() -> None:
        worker = None
        while not over.is_set() and not killed:
            if worker is None:
                new = (p for p in mine.children(recursive=True) if p.pid not in before)
                worker = next((p for p in new if "RayTrainWorker" in _command(p)), None)
            elif (rows := read_steps(log)) and rows[-1]["step"] >= step:
                worker.kill()
                killed.append(worker.pid)
            over.wait(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield
    finally:
        over.set()
        killer.join()
    assert killed, "training was over before a worker could be killed"


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def losses(run: Run, stage: str) -> dict[int, float]:
    """The logged loss of each step; a step that is logged twice is an error."""
    rows = read_steps(run.root / "logs" / f"{stage}.jsonl")
    found = {int(row["step"]): float(row["loss"]) for row in rows}
    assert len(found) == len(rows)
    return found


def largest_difference(one: dict[int, float], other: dict[int, float]) -> float:
    """Between the losses of the same steps; the steps must be the same."""
    assert one.keys() == other.keys()
    return max(abs(one[step] - other[step]) for step in one)
