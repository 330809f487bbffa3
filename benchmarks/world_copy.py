"""What a conversation's own copy of a pack's world costs in SQLite: `python -m benchmarks.world_copy`.

Timed is what a conversation does besides its plans: open the copy, read the facts that rules look at (the first
statement, in which SQLite reads the tables' definitions), drop it. Building the seed's image once is not part of it.
Recorded is the median of the slowest pack as `agents.world_copy_ms`, with the interval of the median's order
statistics. The bound of 1 ms comes from the simulation: hundreds of thousands of conversations, a copy each.
"""

import importlib
import math
import pkgutil
import time
from collections.abc import Mapping
from dataclasses import dataclass

import agentmill.domains
from agentmill.domains.base import Domain, WorldSettings, load_domain
from agentmill.runs import bench_run

FIGURE = "agents.world_copy_ms"
BOUND_MS = 1.0
COPIES = 2000
SEEDS = (1, 2, 3, 1001)


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one copy: the median with its 95 % interval, and the 99th percentile, over `n` copies."""

    median_ms: float
    interval_ms: tuple[float, float]
    p99_ms: float
    n: int


def measure(copies: int = COPIES) -> dict[str, Timing]:
    """Time the worlds of every pack in the tree and record the slowest one's median; the timings by pack."""
    timings = {name: time_copies(load_domain(name), copies) for name in packs()}
    slowest = max(timings.values(), key=lambda timing: timing.median_ms)
    bench_run().record(FIGURE, slowest.median_ms, n=slowest.n, interval=slowest.interval_ms, unit="ms")
    return timings


def packs() -> list[str]:
    """The domain packs that ship with the project."""
    modules = [module.name for module in pkgutil.iter_modules(agentmill.domains.__path__) if module.ispkg]
    return sorted(name for name in modules if hasattr(importlib.import_module(f"agentmill.domains.{name}"), "build"))


def time_copies(domain: Domain, copies: int) -> Timing:
    """Open and drop that many copies of a pack's worlds, one seed after the other."""
    settings = WorldSettings()
    spent = []
    for number in range(-len(SEEDS), copies):
        began = time.perf_counter()
        world = domain.open_world(SEEDS[number % len(SEEDS)], "bench", settings)
        world.facts()
        world.close()
        if number >= 0:  # those before build the seeds' images
            spent.append(1000 * (time.perf_counter() - began))
    spent.sort()
    half = 1.96 * math.sqrt(copies) / 2
    low, high = (min(max(round(copies / 2 + side), 0), copies - 1) for side in (-half, half))
    return Timing(spent[copies // 2], (spent[low], spent[high]), spent[int(0.99 * copies)], copies)


def table(timings: Mapping[str, Timing]) -> str:
    """One line a pack, fixed columns."""
    rows = [f"{'pack':<16} {'median ms':>10} {'p99 ms':>8} {'n':>6}"]
    rows += [f"{name:<16} {t.median_ms:>10.3f} {t.p99_ms:>8.3f} {t.n:>6}" for name, t in timings.items()]
    return "\n".join(rows)


if __name__ == "__main__":
    print(table(measure()))
