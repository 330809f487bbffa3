"""`agentmill bench large`: a small and a large simulation through the real stages, and what they take.

Each is the command `agentmill run ... --until corpora` (simulate, gate, refine, corpora) with the domain's expert, in a
folder of its own. While it runs, the resident memory (RSS, pages shared with others included) of the driver process and
of each of Ray's workers, the processes that it started included, is sampled. Figures: `simulate.large.*` and
`simulate.small.*`; memory is flat where the two sizes have about the same peaks.
"""

import os
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from agentmill.config import UserError
from agentmill.domains.base import load_domain
from agentmill.log import duration, say
from agentmill.runs import Run, bench_run
from simulation.memory import resident_mib

STAGES = ("simulate", "gate", "refine", "corpora")
DOMAIN = "automotive"
_SAMPLE_S = 0.5


class LargeFailed(UserError):
    """One of the runs failed."""


@dataclass
class Taken:
    """What one run took. Peaks in MiB: of the driver by stage, of each worker by process id."""

    seconds: float = 0.0
    driver: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    workers: dict[int, float] = field(default_factory=lambda: defaultdict(float))

    def look(self, driver: psutil.Process, stage: str) -> None:
        """Sample the driver and its workers once."""
        try:
            self.driver[stage] = max(self.driver[stage], driver.memory_info().rss / 2**20)
            for process in driver.children(recursive=True):
                if process.name().startswith("ray::"):
                    self.workers[process.pid] = max(self.workers[process.pid], resident_mib(process))
        except psutil.NoSuchProcess:
            return


def bench_large(folder: Path, conversations: int, small: int, mix: str, seed: int) -> Run:
    """Do both runs in `folder` and record what they took in the run named by bench_run().

    Raises:
        LargeFailed: when one of them fails.
        ConfigError: when the domain has no such mix.
    """
    load_domain(DOMAIN).source(mix)
    bench = bench_run()
    for name, count in (("small", small), ("large", conversations)):
        bench.forget(f"simulate.{name}")
        say("large", f"{count:,} conversations of {DOMAIN}, mix {mix}: {', '.join(STAGES)}")
        _record(bench, name, *_measured(folder, name, count, mix, seed))
    return bench


def _measured(folder: Path, name: str, conversations: int, mix: str, seed: int) -> tuple[Run, Taken]:
    """Do one run, and watch it."""
    folder.mkdir(parents=True, exist_ok=True)
    config, log, root = folder / f"{name}.yaml", folder / f"{name}.log", folder / "runs" / name
    config.write_text(
        f"name: {name}\nseed: {seed}\ndomain: {DOMAIN}\nmix: {mix}\nsimulate:\n  conversations: {conversations}\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "cluster", "run", str(config), "--until", STAGES[-1]]
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    taken, began = Taken(), time.monotonic()
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, "PYTHONPATH": path, "TERM": "dumb"}, stdout=stream, stderr=stream
        )
    try:
        driver = psutil.Process(process.pid)
        while process.poll() is None:
            taken.look(driver, _running(root))
            time.sleep(_SAMPLE_S)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    taken.seconds = time.monotonic() - began
    if process.returncode != 0:
        raise LargeFailed(f"the {name} run failed; the end of {log}: {log.read_text(errors='replace')[-1500:]}")
    return Run.open(root), taken


def _running(root: Path) -> str:
    """The stage that is being done."""
    return next((s for s in STAGES if (root / "stages" / f"{s}.running.json").is_file()), "start")


def _record(bench: Run, name: str, run: Run, taken: Taken) -> None:
    prefix, figures = f"simulate.{name}", run.figures()
    for count in ("conversations", "calls", "turns"):
        bench.record(f"{prefix}.{count}", figures[f"simulate.{count}"].value, unit=count)
    bench.record(f"{prefix}.seconds", round(taken.seconds, 1), unit="s")
    bench.record(f"{prefix}.driver_peak_mib", round(max(taken.driver.values()), 1), unit="MiB")
    bench.record(f"{prefix}.worker_peak_mib", round(max(taken.workers.values()), 1), n=len(taken.workers), unit="MiB")
    disk = sum(path.stat().st_size for path in run.root.rglob("*") if path.is_file() and "logs" not in path.parts)
    bench.record(f"{prefix}.disk_mib", round(disk / 2**20, 1), unit="MiB")
    for stage in STAGES:
        seconds = float(figures[f"run.stage.{stage}.seconds"].value)
        peak = taken.driver.get(stage, 0.0)
        bench.record(f"{prefix}.{stage}_seconds", seconds, unit="s")
        if peak:
            bench.record(f"{prefix}.{stage}_driver_peak_mib", round(peak, 1), unit="MiB")
        say("large", f"{name:<6} {stage:<9} {duration(seconds):>12}  driver at most {peak:,.0f} MiB")
    workers = ", ".join(f"{peak:,.0f}" for peak in sorted(taken.workers.values(), reverse=True)[:4])
    shown = f"{figures['simulate.calls'].value:,} calls, {duration(taken.seconds)}, {disk / 2**20:,.0f} MiB on disk"
    say("large", f"{name:<6} {shown}; largest workers {workers} MiB")
