"""`agentmill tune serving`: which settings of the engine serve a run's newest model best, in so many trials at most.

Best is the most answers per second within the latency target, averaged over the concurrencies that are asked for.
Settings are searched one kind after another (which variant; compiled or not, and on a CPU its threads; how many tokens
are drafted, by how many requests are in a step; how many requests a step may have; the prefix cache), and what wins is
carried on to the next. Every trial is measured beside the best so far, in turn; it takes its place only where it is
better by MARGIN in the median of the paired repeats. At the end the winner is measured once more, beside the run's own
settings: of many noisy trials the best looks better than it is. Out go tune/serving.yaml, which
`agentmill serve RUN --tuned` reads, and every trial.
"""

import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from agentmill.config import UserError, dump_yaml
from agentmill.domains.base import load_domain
from agentmill.lineage import usable_cores
from agentmill.log import say
from agentmill.runs import Run, atomic_write_text, command_line
from benchmarks.replay import recorded_calls
from benchmarks.serving import CALLS, Configuration, Extent, Measured, Work, altered, measure
from benchmarks.serving_tables import BASELINE
from cluster import chain
from cluster.config import config_of
from cluster.serving import TUNED, TunedServing, served_system
from cluster.serving_benches import SEED, engines_of
from cluster.session import ray_session
from rayserve.preflight import wants_gpu
from rayserve.settings import EngineSettings, ModelEngine
from simulation.metrics import Measure

MARGIN = 0.02
LENGTHS = (1, 2, 3, 5, 7)
BATCHES = (8, 16, 32, 64)
BLOCKS = (32, 64, 128)  # multiples of 32: vLLM on a CPU has no others
TARGET_FACTOR = 2.0  # times the P90 of the undrafted BF16 model with one call in flight


@dataclass(frozen=True)
class Trial:
    """A way to serve: the variant, its engine, and what was changed last."""

    name: str
    stage: str
    engine: ModelEngine

    def with_(self, name: str, *assignments: str) -> "Trial":
        """The same with some settings changed; one such name stands for one change in a step."""
        return replace(self, name=name, engine=altered(self.engine, assignments, f"tune serving: {name}"))


@dataclass(frozen=True)
class Seen:
    """What came of a trial: answers per second within the target, that by what the best so far had, and answers per
    second by concurrency."""

    name: str
    stage: str
    draft_tokens: int
    goodput: float
    over_best: float
    queries_per_s: dict[int, float]


@dataclass
class Search:
    """The state of a search: the best so far, what is left of the trials, what was seen of each, and why the last one
    failed that did not start."""

    best: Trial
    target_s: float | None
    left: int
    seen: list[Seen] = field(default_factory=list)
    failed: UserError | None = None


Measuring = Callable[[Sequence[Trial], Sequence[str], Extent], Measured]


def tune_serving(
    run: Run,
    assignments: Sequence[str],
    *,
    in_flight: Sequence[int],
    target_s: float | None,
    trials: int,
    calls: int,
    repeats: int,
) -> Path:
    """Search, record `tune.serving.*` in the run, and write the winner; returns its file.

    Raises:
        UserError: when the run has no model yet, or an engine does not start.
    """
    config = config_of(run, assignments)
    system = served_system(run, config)
    start = {
        name: Trial(name, chain.newest(config) if name == BASELINE else name, engine)
        for name, engine in engines_of(run, config).items()
    }
    extent = Extent(tuple(in_flight), (), calls, rounds=2, repeats=repeats)
    work = Work(load_domain(config.domain), system, recorded_calls(run, system, extent.most_calls, SEED), [])
    with ray_session(run.path("logs", "tune.json")):

        def measured(some: Sequence[Trial], anchors: Sequence[str], how_much: Extent) -> Measured:
            return measure([Configuration(one.name, one.engine) for one in some], anchors, work, how_much)

        on_gpu = wants_gpu(next(iter(start.values())).engine)
        search = find(start, measured, extent, target_s, trials, 0 if on_gpu else usable_cores())
        untuned = replace(list(start.values())[-1], name="untuned")
        winner = replace(search.best, name="winner")
        last = measured([untuned, winner], ["untuned"], extent)
    assert search.target_s is not None, "the first step sets it"
    return _write(run, search, last, extent)


def find(
    start: dict[str, Trial], measured: Measuring, extent: Extent, target_s: float | None, trials: int, cores: int = 0
) -> Search:
    """Step by step the best way to serve, in at most `trials` trials beside the BF16 model that it begins with.

    `cores` are those of an engine on the CPU; 0 stands for one on a GPU.

    Raises:
        UserError: when no engine starts.
    """
    first = next(iter(start.values()))
    search = Search(first, target_s, trials)
    for step in (_variants(start), _modes, _threads(cores), _lengths, _schedule, _batches, _prefixes):
        _take(search, list(step(search, extent)), measured, extent)
        if not search.left:
            say("tune", "the number of trials is reached (--trials)")
            break
    if search.target_s is None and search.failed is not None:
        raise search.failed
    return search


def _take(search: Search, candidates: list[Trial], measured: Measuring, extent: Extent) -> None:
    """Measure some candidates beside the best so far, and carry on what wins."""
    chosen = candidates[: search.left]
    if not chosen:
        return
    search.left -= len(chosen)
    how_much = extent if search.target_s is not None else replace(extent, concurrency=_with_one(extent.concurrency))
    best = search.best
    try:
        found = measured([best, *chosen], [best.name], how_much)
    except UserError as error:
        _one_by_one(search, chosen, measured, extent, error)
        return
    if search.target_s is None:
        alone = found.cell(CALLS, best.name, 1)
        assert alone is not None, "one in flight was measured"
        search.target_s = TARGET_FACTOR * alone.spread("p90").value
        say("tune", f"latency target {search.target_s:.3g} s: twice the P90 of {best.name} with one call in flight")
    for one in [best, *chosen]:
        ratio = over(found, one.name, best.name, extent.concurrency, search.target_s)
        rates = {c: _rate(found, one.name, c) for c in extent.concurrency}
        mean = goodput(found, one.name, extent.concurrency, search.target_s)
        tokens = one.engine.speculative.tokens if one.engine.speculative else 0
        search.seen.append(Seen(one.name, one.stage, tokens, mean, ratio.value, rates))
        say("tune", f"{one.name:<28} {mean:8.3g} queries/s in time, {ratio.value:.2f} times {best.name}")
        if (
            ratio.value > 1 + MARGIN
            and ratio.value > over(found, search.best.name, best.name, extent.concurrency, search.target_s).value
        ):
            search.best = one


def _one_by_one(search: Search, chosen: Sequence[Trial], measured: Measuring, extent: Extent, error: UserError) -> None:
    """After an engine that did not start: the same trials each for itself, so that only one at fault is left out."""
    if len(chosen) == 1:
        search.failed = error
        say("tune", f"{chosen[0].name} is left out: {error}")
        return
    for one in chosen:
        search.left += 1
        _take(search, [one], measured, extent)


def over(measured: Measured, name: str, other: str, concurrency: Sequence[int], target_s: float) -> Measure:
    """Goodput by that of another trial, averaged over concurrencies: the median over the repeats of the same group with
    the lowest and the highest. Where the other has none, any is infinitely more."""
    cells = {one: [measured.cells[CALLS, one, c] for c in concurrency] for one in (name, other)}
    shared = set.intersection(*(set(cell.samples) for cell in [*cells[name], *cells[other]]))
    ratios = []
    for at in sorted(shared):
        mine, theirs = (sum(cell.samples[at].goodput(target_s) for cell in cells[one]) for one in (name, other))
        ratios.append(mine / theirs if theirs else (float("inf") if mine else 1.0))
    return Measure(statistics.median(ratios), len(ratios), (min(ratios), max(ratios)))


def goodput(measured: Measured, name: str, concurrency: Sequence[int], target_s: float) -> float:
    """Answers per second within the target, averaged over concurrencies."""
    return statistics.fmean(measured.cells[CALLS, name, c].goodput(target_s).value for c in concurrency)


def _rate(measured: Measured, name: str, in_flight: int) -> float:
    return measured.cells[CALLS, name, in_flight].spread("rate").value


def _with_one(concurrency: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted({1, *concurrency}))


Step = Callable[[Search, Extent], Iterator[Trial]]


def _variants(start: dict[str, Trial]) -> Step:
    """The ways to serve the newest model, the fastest first: where trials are few, it is not left out."""

    def step(search: Search, extent: Extent) -> Iterator[Trial]:
        yield from (one for one in reversed(start.values()) if one.name != search.best.name)

    return step


def _modes(search: Search, extent: Extent) -> Iterator[Trial]:
    """The other of compiled and eager."""
    eager = search.best.engine.enforce_eager
    yield search.best.with_("compiled" if eager else "eager", f"enforce_eager={json.dumps(not eager)}")


def _threads(cores: int) -> Step:
    """Threads on all cores of a CPU, free and bound, in place of those that it has."""

    def step(search: Search, extent: Extent) -> Iterator[Trial]:
        now = search.best.engine.cpu_threads
        now = max(1, cores - 1) if now is None else now
        for name, threads in {f"{cores} threads": cores, "bound threads": 0}.items() if cores else ():
            if threads != now:
                yield search.best.with_(name, f"cpu_threads={threads}")

    return step


def _lengths(search: Search, extent: Extent) -> Iterator[Trial]:
    """Other numbers of drafted tokens."""
    drafting = search.best.engine.speculative
    if drafting is None:
        return
    for tokens in LENGTHS:
        if tokens != drafting.tokens:
            yield search.best.with_(f"drafts of {tokens}", f"speculative.tokens={tokens}")


def _schedule(search: Search, extent: Extent) -> Iterator[Trial]:
    """The best number of drafted tokens for each concurrency, where these differ."""
    drafting = search.best.engine.speculative
    if drafting is None or len(extent.concurrency) < 2:
        return
    seen = {one.draft_tokens: one.queries_per_s for one in search.seen if one.stage == search.best.stage}
    best = {c: max(seen, key=lambda tokens: seen[tokens][c]) for c in extent.concurrency}
    if len(set(best.values())) < 2:
        return
    assignments = (f"speculative.tokens={max(best.values())}", f"speculative.tokens_by_batch={json.dumps(best)}")
    yield search.best.with_("drafts by batch", *assignments)


def _batches(search: Search, extent: Extent) -> Iterator[Trial]:
    """Other limits of requests in a step, where as many are in flight."""
    now = search.best.engine.max_num_seqs
    for limit in BATCHES:
        if limit != now and min(limit, now) < max(extent.concurrency):
            yield search.best.with_(f"batches of {limit}", f"max_num_seqs={limit}")


def _prefixes(search: Search, extent: Extent) -> Iterator[Trial]:
    """Other blocks of the prefix cache, and none."""
    for size in BLOCKS:
        if size != search.best.engine.block_size:
            yield search.best.with_(f"blocks of {size}", f"block_size={size}")
    yield search.best.with_("no prefix cache", "prefix_caching=false")


def _write(run: Run, search: Search, last: Measured, extent: Extent) -> Path:
    """Record the figures, write the trials and the winner's settings."""
    assert search.target_s is not None, "the first step sets it"
    gain = over(last, "winner", "untuned", extent.concurrency, search.target_s)
    command = command_line()
    run.forget("tune.serving")
    run.record("tune.serving.goodput_over_untuned", gain.value, n=gain.n, interval=gain.interval, command=command)
    run.record("tune.serving.target_s", search.target_s, unit="s", command=command)
    for c in extent.concurrency:
        one = last.cells[CALLS, "winner", c].goodput(search.target_s)
        run.record(
            f"tune.serving.goodput@{c}", one.value, n=one.n, interval=one.interval, unit="queries/s", command=command
        )
    engine = EngineSettings.model_validate(
        {name: value for name, value in search.best.engine if name in EngineSettings.model_fields}
    )
    tuned = TunedServing(stage=search.best.stage, engine=engine)
    file = run.path(*TUNED)
    atomic_write_text(file.with_suffix(".json"), json.dumps([asdict(one) for one in search.seen], indent=2) + "\n")
    head = (
        f"# Written by: {command}\n"
        f"# {gain.value:.2f} [{gain.interval[0]:.2f}, {gain.interval[1]:.2f}] times the goodput of the run's own "
        f"settings, within {search.target_s:.3g} s, {', '.join(map(str, extent.concurrency))} in flight\n"
    )
    atomic_write_text(file, head + dump_yaml(tuned.model_dump(mode="json", exclude_defaults=True)))
    low, high = gain.interval
    say("tune", f"the winner has {gain.value:.2f} [{low:.2f}, {high:.2f}] times the goodput of the run's own settings")
    say("tune", f"{file}; serve it with `agentmill serve {run.root} --tuned`")
    return file
