"""`agentmill bench serving`: a run's models as engine configurations, at their own size and inflated.

Two scales. `demo`: the run's models as they are. `inflated`: the newest model, its drafter and a model of seven times
the parameters, padded until weights dominate the time (benchmarks.inflated); answers and acceptance are the run's own,
only the cost grew. Configurations are the ways to serve the newest model (`bf16`, and the variants of cluster.chain
that the run has), `teacher` at the inflated scale (its cost, not its quality), and what `--with` adds.
Invariant: every configuration is the run's own serve.engine but for what its name says.
"""

import json
import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jinja2

from agentmill.config import ConfigError, UserError, nearest
from agentmill.domains.base import load_domain
from agentmill.log import say
from agentmill.runs import Run, atomic_write_text, bench_run
from benchmarks import serving_tables as tables
from benchmarks.replay import recorded_calls, recorded_talks
from benchmarks.serving import CALLS, Configuration, Extent, Measured, Work, altered, measure, without
from cluster import chain
from cluster.charts import Series, curve
from cluster.config import RunConfig, config_of
from cluster.serving import served_as, served_system
from cluster.session import ray_session
from rayserve.settings import ModelEngine

Scale = Literal["demo", "inflated"]
SCALES: tuple[Scale, ...] = ("demo", "inflated")
BF16, QUANTIZED, TEACHER, FASTEST = "bf16", "quantized", "teacher", "drafted_quantized"
UNDRAFTED = {"drafted": BF16, FASTEST: QUANTIZED}  # whose greedy answers a drafted one must give
STYLES = ("line", "line second", "line third", "line fourth", "line fifth", "line sixth")
ENDINGS = ("md", "json", "html")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")  # part of figures' names and of a route
COMMA = re.compile(r",(?![^{\[]*[}\]])")  # one that stands in no braces or brackets
SEED = 11


@dataclass(frozen=True)
class Asked:
    """What the command was asked for. `also` has NAME:VARIANT,FIELD=VALUE,... for each further configuration;
    `most_teacher` in flight is the largest concurrency at which the slow teacher-shaped model is measured."""

    variants: Sequence[str]
    also: Sequence[str]
    extent: Extent
    conversations: int
    target_s: float | None
    most_teacher: int


def numbers(option: str, text: str) -> tuple[int, ...]:
    """The numbers of a list such as 1,6,16, rising.

    Raises:
        ConfigError: when one is no number of at least 1.
    """
    parts = [part for part in text.split(",") if part.strip()]
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise ConfigError(f"{option} {text} is no list of numbers of at least 1; write for example {option} 1,6,16")
    return tuple(sorted({int(part) for part in parts}))


def bench_serving(source: Run, assignments: Sequence[str], scale: Scale, asked: Asked, folder: Path) -> Run:
    """Measure one scale in a Ray session of its own, record it in the run of bench_run(), and write its tables there.

    Raises:
        ConfigError: when a variant or a setting is not known.
        UserError: when the run lacks what is measured, or an engine does not start.
    """
    config = config_of(source, assignments)
    system = served_system(source, config)
    configurations = list(_chosen(source, config, scale, asked, folder))
    work = Work(
        load_domain(config.domain),
        system,
        recorded_calls(source, system, asked.extent.most_calls, SEED),
        recorded_talks(source, asked.conversations, SEED) if asked.extent.conversing else [],
    )
    anchors = [one.name for one in configurations if one.name in (BF16, FASTEST)]
    with ray_session(folder / "ray.json"):
        measured = measure(configurations, anchors, work, asked.extent)
    run = bench_run()
    target_s = asked.target_s or tables.target_of(measured)
    tables.record(measured, run, scale, target_s)
    _write(run, measured, scale, target_s)
    return run


def _chosen(source: Run, config: RunConfig, scale: Scale, asked: Asked, folder: Path) -> Iterator[Configuration]:
    """The configurations that were asked for, with the engines of this scale."""
    there = engines_of(source, config) if scale == "demo" else _inflated(source, config, folder)
    unknown = [name for name in asked.variants if name not in there]
    if unknown:
        guess = nearest(unknown[0], there)
        meant = f"did you mean {guess}? " if guess else ""
        raise ConfigError(f"--variant {unknown[0]}: {meant}the run {source.name} has {', '.join(there)}")
    names = list(asked.variants) or list(there)
    made = [
        Configuration(name, engine, UNDRAFTED.get(name), asked.most_teacher if name == TEACHER else None)
        for name, engine in there.items()
    ]
    yield from without(made, names)
    taken = set(there)
    for text in asked.also:
        further = _further(text, there, names, taken)
        taken.add(further.name)
        yield further


def _further(text: str, there: dict[str, ModelEngine], names: Sequence[str], taken: Collection[str]) -> Configuration:
    """A configuration of `--with NAME:VARIANT,FIELD=VALUE,...`, by none of the names that are taken.

    Raises:
        ConfigError: when it is not of this form, or names no variant.
    """
    name, _, rest = text.partition(":")
    variant, *assignments = COMMA.split(rest)
    if not NAME.fullmatch(name) or variant not in there or name in taken:
        raise ConfigError(
            f"--with {text}: write NAME:VARIANT,FIELD=VALUE,... with a name of your own and one of {', '.join(there)}, "
            f"for example --with five:{FASTEST},speculative.tokens=5"
        )
    engine = altered(there[variant], assignments, f"--with {text}")
    same_as = UNDRAFTED.get(variant)
    return Configuration(name, engine, same_as if same_as in names else None)


def engines_of(source: Run, config: RunConfig) -> dict[str, ModelEngine]:
    """The newest model and the variants that the run has, each as its engine."""
    wanted = {BF16: chain.newest(config), **{name: name for name in chain.variants(config)}}
    found = {}
    for name, model in wanted.items():
        missing = [part for part in chain.parts_of(config, model) if not (source.root / "models" / part).is_dir()]
        if missing:
            say("bench", f"{name} is left out: {source.root} has no models/{missing[0]}; make it with `agentmill run`")
            continue
        folder, engine = served_as(source, config, model)
        found[name] = ModelEngine(model=str(folder), **{**dict(engine), "sample_ranges": 0.0})
    if not found:
        raise UserError(f"{source.root} has no models/{chain.newest(config)} yet; finish it with `agentmill run`")
    return found


def _inflated(source: Run, config: RunConfig, folder: Path) -> dict[str, ModelEngine]:
    """The same with inflated models, and the teacher-shaped one; what is in `folder` already is used again."""
    from benchmarks.inflated import STUDENT as STUDENT_SHAPE
    from benchmarks.inflated import TEACHER as TEACHER_SHAPE
    from benchmarks.inflated import inflate, quantize_inflated
    from benchmarks.inflated_drafter import inflate_drafter, quantize_inflated_drafter

    own = engines_of(source, config)
    start, made = Path(own[BF16].model), folder / "inflated"
    folders = {name: made / name for name in (TEACHER, BF16, QUANTIZED, chain.DRAFTER, chain.DRAFTER_QUANTIZED)}
    for name, shape in ((TEACHER, TEACHER_SHAPE), (BF16, STUDENT_SHAPE)):
        if not folders[name].is_dir():
            say("bench", f"inflating {start} to {name}: {shape}")
            inflate(start, folders[name], shape)
    if QUANTIZED in own and not folders[QUANTIZED].is_dir():
        quantize_inflated(folders[BF16], folders[QUANTIZED])
    drafters = {Path(one.speculative.model) for one in own.values() if one.speculative}
    if drafters and not folders[chain.DRAFTER].is_dir():
        drafter = source.root / "models" / chain.DRAFTER
        inflate_drafter(drafter, folders[chain.DRAFTER], student=start, inflated=folders[BF16])
    in_8_bits = folders[chain.DRAFTER_QUANTIZED]
    if in_8_bits.name in {one.name for one in drafters} and not in_8_bits.is_dir():
        quantize_inflated_drafter(folders[chain.DRAFTER], in_8_bits, student=folders[QUANTIZED])
    engines = {TEACHER: own[BF16].model_copy(update={"model": str(folders[TEACHER])})}
    for name, engine in own.items():
        model = folders[QUANTIZED if "quantize" in chain.VARIANTS.get(name, ()) else BF16]
        speculative = engine.speculative
        if speculative is not None:
            speculative = speculative.model_copy(update={"model": str(folders[Path(speculative.model).name])})
        engines[name] = engine.model_copy(update={"model": str(model), "speculative": speculative})
    return engines


def _write(run: Run, measured: Measured, scale: Scale, target_s: float | None) -> None:
    """The tables as Markdown and on the terminal, every replay as JSON, and the curves as a page."""
    lines = list(_lines(measured, scale, target_s))
    for line in lines:
        say("bench", line)
    place = run.path("serving", scale)
    atomic_write_text(place.with_suffix(".md"), "\n".join(lines) + "\n")
    atomic_write_text(place.with_suffix(".json"), json.dumps(tables.as_json(measured, target_s)) + "\n")
    atomic_write_text(place.with_suffix(".html"), _page(run, measured, scale, lines))
    say("bench", f"tables, replays and curves are in {place.parent}: {', '.join(f'{scale}.{end}' for end in ENDINGS)}")


def _lines(measured: Measured, scale: Scale, target_s: float | None) -> Iterator[str]:
    at = tables.PAPER_IN_FLIGHT
    title = {"demo": "The run's models", "inflated": "Inflated models: the run's answers at the cost of larger ones"}
    if at in measured.concurrencies(CALLS):
        yield from tables.table_1(measured, at, title[scale])
        yield from tables.table_2(measured, at)
        yield from tables.ladder_lines(tables.ladder(measured, at), at)
    yield from tables.curves(measured, target_s)
    same, total = measured.equal(min(measured.concurrencies(CALLS), default=1))
    if total:
        yield f"{same} of {total} answers with a drafter are those without one."


def _page(run: Run, measured: Measured, scale: Scale, lines: Sequence[str]) -> str:
    charts = [
        curve(_series(measured, of), x_label="log2 of the calls in flight", y_label=label, key="left")
        for of, label in (("rate", "queries/s"), ("p90", "P90, s"))
    ]
    pages = jinja2.Environment(
        loader=jinja2.PackageLoader("cluster", "templates"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return pages.get_template("serving.html.j2").render(run=run, scale=scale, charts=charts, lines="\n".join(lines))


def _series(measured: Measured, of: str) -> list[Series]:
    made = []
    for index, one in enumerate(measured.configurations):
        cells = [(c, measured.cell(CALLS, one.name, c)) for c in measured.concurrencies(CALLS)]
        points = [(math.log2(c), cell.spread(of).value) for c, cell in cells if cell]
        made.append(Series(one.name, points, STYLES[index % len(STYLES)]))
    return made
