"""What a person sees while work goes on: one line for each thing said, and progress.

On a terminal progress is a bar; elsewhere it is one line every 10 %, with fixed columns, so that logs stay readable.
Everything goes to standard error: standard output is for results.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

LABEL_WIDTH = 10


def say(stage: str, text: str) -> None:
    """Print one line `stage      text`, at once."""
    print(f"{stage:<{LABEL_WIDTH}} {text}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Seconds as a person reads them: `40 ms`, `0.4 s`, `12 s`, `3 min 05 s`, `2 h 07 min`."""
    if 0 < seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def on_terminal(stream: TextIO | None = None) -> bool:
    """Whether a person watches: the stream is a terminal that can move its cursor."""
    return (stream or sys.stderr).isatty() and os.environ.get("TERM", "dumb") != "dumb"


class Progress:
    """How far one piece of work has come. Use it through `progress`."""

    def __init__(self, label: str, total: int, unit: str) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = 0
        self._told = 0
        self._start = time.monotonic()

    def advance(self, n: int = 1, **info: object) -> None:
        """Count `n` more units; `info` (loss=..., rate=...) is shown with the next line."""
        self.done += n
        self._show(info)

    def _show(self, info: dict[str, object]) -> None:
        tenths = min(10, 10 * self.done // self.total) if self.total else 0
        if tenths > self._told:
            self._told = tenths
            say(self.label, self._line(tenths, info))

    def _line(self, tenths: int, info: dict[str, object]) -> str:
        elapsed = time.monotonic() - self._start
        columns = [f"{10 * tenths:3d} %", f"{self.done:>8,}/{self.total:,} {self.unit}", f"{duration(elapsed):>12}"]
        return "  ".join([*columns, *(f"{key} {_text(value)}" for key, value in info.items())])


class _Bar(Progress):
    """The same on a terminal, as a bar."""

    def __init__(self, label: str, total: int, unit: str, bars: "RichProgress", task: "TaskID") -> None:
        super().__init__(label, total, unit)
        self._bars, self._task = bars, task

    def _show(self, info: dict[str, object]) -> None:
        told = "  ".join(f"{key} {_text(value)}" for key, value in info.items())
        if told:
            self._bars.update(self._task, info=told)
        self._bars.update(self._task, completed=self.done)


@contextmanager
def progress(label: str, total: int, unit: str = "") -> Iterator[Progress]:
    """Show the progress of `total` units of work while the block runs; call `.advance(n, **info)` in it."""
    if not on_terminal():
        yield Progress(label, total, unit)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn(f"{{task.description:<{LABEL_WIDTH}}}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[info]}"),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        yield _Bar(label, total, unit, bars, bars.add_task(label, total=total, info=""))


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
