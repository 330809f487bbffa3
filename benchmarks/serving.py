"""Engine configurations beside each other, in one run: recorded work replayed to each of them, in turn.

All engines of a group stand at once; at each concurrency they are measured one after the other, `repeats` times, and
begin anew in another order, so that what the machine does meanwhile meets all of them. Before each replay the engine
forgets its prefixes. Where memory does not hold all engines they stand in groups, and every group has the anchors: a
ratio is only made within a group, of the same repeat. Invariant: a cell has the same work for every configuration.
"""

import asyncio
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from agentmill.agents.settings import TeamSettings
from agentmill.config import UserError, override, validate
from agentmill.domains.base import Domain
from agentmill.log import progress, say
from agentmill.models.chat import ChatRequest
from benchmarks.replay import Sample, Talk, replay_calls, replay_talks
from rayserve.answers import EngineCounts
from rayserve.engines import BareEngine, bare_engines
from rayserve.settings import ModelEngine
from simulation.metrics import Measure

ENGINE_GIB = 3.4  # an engine without its weights: vLLM's processes, a replica, a small key-value cache
RESERVE_GIB = 3.0  # what Ray and this process take, and the page cache: without one, everything waits for the disk
WEIGHTS = 1.3  # memory of the weights by their bytes on disk: loading them leaves a part behind
WARM = 4
CALLS, TURNS = "calls", "turns"


@dataclass(frozen=True)
class Configuration:
    """One way to serve. `same_as` names the configuration whose greedy answers it must give; `most_in_flight` leaves a
    slow one out of larger concurrencies."""

    name: str
    engine: ModelEngine
    same_as: str | None = None
    most_in_flight: int | None = None

    @property
    def need_gib(self) -> float:
        """Memory that the engine takes."""
        folders = [self.engine.model, *([self.engine.speculative.model] if self.engine.speculative else [])]
        sizes = (file.stat().st_size for folder in folders if folder for file in Path(folder).glob("*.safetensors"))
        return ENGINE_GIB + WEIGHTS * sum(sizes) / 2**30


@dataclass(frozen=True)
class Work:
    """What is replayed: single calls, and conversations (`system` is how the agents work)."""

    domain: Domain
    system: TeamSettings
    calls: Sequence[ChatRequest]
    talks: Sequence[Talk]


@dataclass(frozen=True)
class Extent:
    """How much is measured: calls at each of `concurrency`, conversations at each of `conversing`. At a concurrency c a
    cell has `rounds` times c calls at least, and `calls` at least, of those that there are."""

    concurrency: Sequence[int]
    conversing: Sequence[int]
    calls: int
    rounds: int
    repeats: int

    def calls_at(self, in_flight: int) -> int:
        """Calls of one replay at this concurrency."""
        return max(self.calls, self.rounds * in_flight)

    @property
    def most_calls(self) -> int:
        """Calls of the largest replay."""
        return max(map(self.calls_at, self.concurrency), default=self.calls)


@dataclass(frozen=True)
class Cell:
    """A configuration's replays at one concurrency, by (group, repeat), and what its engine counted during each."""

    samples: dict[tuple[int, int], Sample] = field(default_factory=dict)
    counts: dict[tuple[int, int], EngineCounts] = field(default_factory=dict)

    @property
    def mgl(self) -> float | None:
        """Mean generated length over all replays; None without a drafter."""
        return sum(self.counts.values(), EngineCounts()).mgl

    def spread(self, name: str) -> Measure:
        """The median of that property with the lowest and the highest of the replays."""
        return _spread([getattr(one, name) for one in self.samples.values()])

    def goodput(self, target_s: float) -> Measure:
        """Answers per second within the target."""
        return _spread([one.goodput(target_s) for one in self.samples.values()])


@dataclass
class Measured:
    """Every cell by (kind, configuration, concurrency)."""

    configurations: list[Configuration]
    cells: dict[tuple[str, str, int], Cell] = field(default_factory=dict)

    def cell(self, kind: str, name: str, in_flight: int) -> Cell | None:
        return self.cells.get((kind, name, in_flight))

    def concurrencies(self, kind: str) -> list[int]:
        return sorted({in_flight for of, _, in_flight in self.cells if of == kind})

    def ratio(self, name: str, other: str, in_flight: int, kind: str = CALLS) -> Measure | None:
        """Answers per second by those of another configuration: the median over repeats in which both were measured in
        the same group, with the lowest and the highest."""
        mine, theirs = self.cell(kind, name, in_flight), self.cell(kind, other, in_flight)
        if mine is None or theirs is None:
            return None
        both = mine.samples.keys() & theirs.samples.keys()
        return _spread([mine.samples[one].rate / theirs.samples[one].rate for one in sorted(both)]) if both else None

    def equal(self, in_flight: int) -> tuple[int, int]:
        """Answers that are those of the configuration's undrafted one, and how many were compared."""
        same = total = 0
        for one in self.configurations:
            mine = self.cell(CALLS, one.name, in_flight)
            theirs = self.cell(CALLS, one.same_as, in_flight) if one.same_as else None
            if mine is None or theirs is None:
                continue
            texts = zip(_first(mine).texts, _first(theirs).texts, strict=True)
            marks = [text == other for text, other in texts]
            same, total = same + sum(marks), total + len(marks)
        return same, total


def measure(configurations: Sequence[Configuration], anchors: Sequence[str], work: Work, extent: Extent) -> Measured:
    """Start the engines group by group and measure all of them. Ray is initialised.

    Raises:
        UserError: when an engine does not start or answer, or does not fit into memory beside the anchors.
    """
    from agentmill.lineage import memory_gib

    measured = Measured(list(configurations))
    parts = groups(configurations, anchors, memory_gib() - RESERVE_GIB)
    for number, group in enumerate(parts):
        if len(parts) > 1:
            say("bench", f"engines of group {number + 1} of {len(parts)}: {', '.join(one.name for one in group)}")
        with bare_engines({one.name: one.engine for one in group}) as engines:
            asyncio.run(_group(measured, number, group, engines, work, extent))
    return measured


def groups(
    configurations: Sequence[Configuration], anchors: Sequence[str], free_gib: float
) -> list[list[Configuration]]:
    """The configurations in as few groups as fit into memory, the anchors in each of them.

    Raises:
        UserError: when one does not fit beside the anchors.
    """
    always = [one for one in configurations if one.name in anchors]
    taken = sum(one.need_gib for one in always)
    made: list[list[Configuration]] = []
    for one in configurations:
        if one in always:
            continue
        if taken + one.need_gib > free_gib:
            raise UserError(
                f"{one.name} needs about {one.need_gib:.1f} GiB of memory, {', '.join(anchors)} beside it "
                f"{taken:.1f} GiB, and {free_gib:.1f} GiB is free; close other programs or leave it out (--variant)"
            )
        used = sum(other.need_gib for other in made[-1]) if made else free_gib
        if used + one.need_gib > free_gib:
            made.append(list(always))
        made[-1].append(one)
    return made or [always]


def altered(engine: ModelEngine, assignments: Sequence[str], source: str) -> ModelEngine:
    """An engine with some of its settings changed, each `field=value` or `speculative.field=value`.

    Raises:
        ConfigError: when there is no such setting, or its value is wrong; `source` says where it was written.
    """
    return validate(ModelEngine, override(engine.model_dump(mode="json"), assignments), source)


async def _group(
    measured: Measured,
    number: int,
    group: Sequence[Configuration],
    engines: Mapping[str, BareEngine],
    work: Work,
    extent: Extent,
) -> None:
    """Measure a group: calls first, then conversations."""
    plan = [(CALLS, c) for c in extent.concurrency] + [(TURNS, c) for c in extent.conversing]
    for engine in engines.values():
        await replay_calls(engine, work.calls[:WARM], 2)
    total = sum(len(_measured_at(group, in_flight)) for _, in_flight in plan) * extent.repeats
    with progress(f"serving {number + 1}", total, "replays") as bar:
        for kind, in_flight in plan:
            there = _measured_at(group, in_flight)
            for repeat in range(extent.repeats):
                first = repeat % max(1, len(there))
                for one in there[first:] + there[:first]:
                    cell = measured.cells.setdefault((kind, one.name, in_flight), Cell())
                    at = (number, repeat)
                    cell.samples[at], cell.counts[at] = await _replay(engines[one.name], kind, work, extent, in_flight)
                    bar.advance(on=f"{one.name} at {in_flight}", per_s=round(cell.samples[at].rate, 2))


def _measured_at(group: Sequence[Configuration], in_flight: int) -> list[Configuration]:
    return [one for one in group if one.most_in_flight is None or in_flight <= one.most_in_flight]


async def _replay(
    engine: BareEngine, kind: str, work: Work, extent: Extent, in_flight: int
) -> tuple[Sample, EngineCounts]:
    await engine.forget()
    before = await engine.counts()
    if kind == CALLS:
        sample = await replay_calls(engine, work.calls[: extent.calls_at(in_flight)], in_flight)
    else:
        sample = await replay_talks(engine, work.domain, work.system, work.talks, in_flight)
    return sample, await engine.counts() - before


def _first(cell: Cell) -> Sample:
    return cell.samples[min(cell.samples)]


def _spread(values: Sequence[float]) -> Measure:
    return Measure(statistics.median(values), len(values), (min(values), max(values)))


def without(configurations: Sequence[Configuration], names: Sequence[str]) -> list[Configuration]:
    """The configurations of these names, in their order; what a missing one would be compared with is forgotten."""
    chosen = [one for one in configurations if one.name in names]
    return [one if one.same_as in names else replace(one, same_as=None) for one in chosen]
