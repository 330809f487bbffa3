"""How much memory a piece of work takes at its peak, measured in the process that does it."""

import contextlib
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"


@contextlib.contextmanager
def peak_rise() -> Iterator[Callable[[], float]]:
    """Give a function that says by how many MiB this process's resident size rose at most since the block began.

    Resident size leaves the page cache out. The kernel's own peak (VmHWM) is set back first where it can be; elsewhere
    an earlier peak of the process counts as this block's, so that the figure may be too high and never too low.
    """
    import psutil

    with contextlib.suppress(OSError):
        CLEAR_REFS.write_text(RESET_PEAK)
    before = psutil.Process().memory_info().rss / 2**20
    yield lambda: max(0.0, peak_mib() - before)


def peak_mib() -> float:
    """The largest resident size of this process since its beginning, or since the last `peak_rise` began."""
    lines = STATUS.read_text().splitlines() if STATUS.is_file() else []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak / (2**20 if sys.platform == "darwin" else 1024))
