"""How much memory the workers of a job took at most, each told by itself: a process elsewhere cannot look.

A worker samples the resident memory (RSS, shared pages included) of itself and the processes that it started, and
writes a new largest value to `work/workers/`, one small file a worker. Files of killed workers stay: theirs count too.
"""

import json
import os
import socket
import threading
from pathlib import Path

import psutil

from agentmill.runs import atomic_write_text

_STEP_MIB = 1.0


class MemoryWatch:
    """Samples this process every `every_s` seconds, and whenever it is told to `note`."""

    def __init__(self, work: Path, every_s: float) -> None:
        self._file = work / "workers" / f"{socket.gethostname()}-{os.getpid()}.json"
        self._process = psutil.Process()
        self._every_s = every_s
        self._peak = self._written = 0.0
        self._lock = threading.Lock()
        threading.Thread(target=self._sample, name="memory", daemon=True).start()

    def note(self) -> None:
        """Sample now, and write down a new largest value."""
        with self._lock:
            self._peak = max(self._peak, resident_mib(self._process))
            if self._peak >= self._written + _STEP_MIB:
                self._written = self._peak
                atomic_write_text(self._file, json.dumps({"pid": os.getpid(), "peak_mib": round(self._peak, 1)}))

    def _sample(self) -> None:
        wait = threading.Event()
        while not wait.wait(self._every_s):
            self.note()


def resident_mib(process: psutil.Process) -> float:
    """Resident memory of a process and of those that it started, in MiB."""
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return float(total / 2**20)


def worker_peaks(work: Path) -> dict[str, float]:
    """The largest resident memory in MiB of every worker that a job has had, by host and process id."""
    files = sorted((work / "workers").glob("*.json"))
    return {file.stem: float(json.loads(file.read_text(encoding="utf-8"))["peak_mib"]) for file in files}
