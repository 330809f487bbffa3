"""What `agentmill bench serving` records and shows: figures, and the paper's tables 1 and 2 and ladder of figure 6 with
ours beside them, as lines of Markdown and as JSON.

The names are `bench.serving.<scale>.<configuration>.<measure>@<in flight>`; ratios are
`bench.serving.<scale>.<one>_over_<other>@<in flight>`. Intervals are the lowest and the highest of the repeats.
"""

from collections.abc import Callable, Sequence
from typing import Any

from agentmill.runs import Run, wilson
from benchmarks.serving import CALLS, TURNS, Cell, Measured
from simulation.metrics import Measure

PREFIX = "bench.serving"
BASELINE, TEACHER = "bf16", "teacher"
PAPER_IN_FLIGHT = 6  # queries/s times P90 is 5.7 to 6.2 in all rows of the paper's table 1
# configuration -> times the teacher's and the BF16 student's queries/s, P90 in seconds, queries/s
PAPER: dict[str, tuple[float | None, float | None, float | None, float | None]] = {
    TEACHER: (1.0, None, 3.92, 1.46),
    BASELINE: (2.33, 1.0, None, None),
    "quantized": (2.50, None, None, None),
    "drafted_quantized": (4.48, 1.92, 0.92, 6.54),
}
PAPER_DRAFTERS = {"synthetic": (3.53, 1.62), "combined": (3.80, 1.78)}  # MGL, times the BF16 student's queries/s
LADDER = (TEACHER, BASELINE, "quantized", "drafted", "drafted_quantized")
MEASURES: dict[str, tuple[str, str]] = {
    "queries_per_s": ("rate", "queries/s"),
    "tokens_per_s": ("tokens_per_s", "tokens/s"),
    "p50_s": ("p50", "s"),
    "p90_s": ("p90", "s"),
}
TURN_MEASURES: dict[str, tuple[str, str]] = {
    "turns_per_s": ("rate", "turns/s"),
    "turn_p50_s": ("p50", "s"),
    "turn_p90_s": ("p90", "s"),
}


def target_of(measured: Measured) -> float | None:
    """The latency target where none is given: twice the BF16 student's P90 at the smallest concurrency, in seconds."""
    concurrencies = measured.concurrencies(CALLS)
    cell = measured.cell(CALLS, BASELINE, concurrencies[0]) if concurrencies else None
    return 2 * cell.spread("p90").value if cell else None


def record(measured: Measured, run: Run, scale: str, target_s: float | None) -> None:
    """Record every figure of a scale in place of older ones."""
    prefix = f"{PREFIX}.{scale}"
    run.forget(prefix)

    def put(name: str, one: Measure, unit: str = "") -> None:
        run.record(f"{prefix}.{name}", one.value, n=one.n, interval=one.interval, unit=unit)

    for (kind, name, in_flight), cell in measured.cells.items():
        for figure, (of, unit) in (MEASURES if kind == CALLS else TURN_MEASURES).items():
            put(f"{name}.{figure}@{in_flight}", cell.spread(of), unit)
        if kind == CALLS and target_s is not None:
            put(f"{name}.goodput@{in_flight}", cell.goodput(target_s), "queries/s")
        if kind == CALLS and cell.mgl is not None:
            drafts = sum(one.drafts for one in cell.counts.values())
            run.record(f"{prefix}.{name}.mgl@{in_flight}", cell.mgl, n=drafts)
    if target_s is not None:
        run.record(f"{prefix}.target_s", target_s, unit="s")
    for kind, label in ((CALLS, ""), (TURNS, "turns.")):
        for in_flight in measured.concurrencies(kind):
            for one in measured.configurations:
                for other in (BASELINE, TEACHER):
                    ratio = measured.ratio(one.name, other, in_flight, kind) if one.name != other else None
                    if ratio is not None:
                        put(f"{label}{one.name}_over_{other}@{in_flight}", ratio)
    if measured.concurrencies(CALLS):
        same, total = measured.equal(measured.concurrencies(CALLS)[0])
        if total:
            run.record(f"{prefix}.equal_outputs", same / total, n=total, interval=wilson(same, total))


def curves(measured: Measured, target_s: float | None) -> list[str]:
    """A table for each measure: configurations down, concurrencies across."""
    lines: list[str] = []
    shown: list[tuple[str, str, Callable[[Cell], Measure | None]]] = [
        ("queries/s", CALLS, lambda cell: cell.spread("rate")),
        ("tokens/s", CALLS, lambda cell: cell.spread("tokens_per_s")),
        ("P50, s", CALLS, lambda cell: cell.spread("p50")),
        ("P90, s", CALLS, lambda cell: cell.spread("p90")),
        ("turns/s of conversations", TURNS, lambda cell: cell.spread("rate")),
        ("P50 of a turn, s", TURNS, lambda cell: cell.spread("p50")),
        ("P90 of a turn, s", TURNS, lambda cell: cell.spread("p90")),
    ]
    if target_s is not None:
        shown.insert(4, (f"queries/s within {target_s:.3g} s", CALLS, lambda cell: cell.goodput(target_s)))
    for title, kind, of in shown:
        lines += _table(title, measured, kind, measured.concurrencies(kind), of)
    for other in (BASELINE, TEACHER):
        lines += _ratios(f"times {other}'s queries/s", measured, other)
    return lines


def table_1(measured: Measured, in_flight: int, title: str) -> list[str]:
    """The paper's table 1: latency and throughput of each configuration, its columns beside ours."""
    lines = [f"**{title}, {in_flight} in flight**", ""]
    head = (
        "",
        "P90, s",
        "queries/s",
        "x teacher",
        "x BF16",
        "MGL",
        "paper: P90, s",
        "queries/s",
        "x teacher",
        "x BF16",
    )
    lines += _head(head)
    for one in measured.configurations:
        cell = measured.cell(CALLS, one.name, in_flight)
        if cell is None:
            continue
        ratios = [measured.ratio(one.name, other, in_flight) for other in (TEACHER, BASELINE)]
        mine = [cell.spread("p90"), cell.spread("rate"), *ratios]
        teacher, bf16, p90, rate = PAPER.get(one.name, (None,) * 4)
        cells = [*map(_number, mine), _plain(cell.mgl), *map(_plain, (p90, rate, teacher, bf16))]
        lines.append(f"| {one.name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def table_2(measured: Measured, in_flight: int) -> list[str]:
    """The paper's table 2: what drafters of other data are worth. Nothing where none was measured."""
    sources = [one.name for one in measured.configurations if one.name in PAPER_DRAFTERS or one.name == "external"]
    if not sources:
        return []
    lines = [f"**Drafters by their data, {in_flight} in flight**", ""]
    lines += _head(("drafter", "MGL", "x BF16", "paper: MGL", "x BF16"))
    for name in sources:
        cell = measured.cell(CALLS, name, in_flight)
        if cell is None:
            continue
        ratio = measured.ratio(name, BASELINE, in_flight)
        mgl, speed = PAPER_DRAFTERS.get(name, (None, None))
        lines.append(f"| {name} | {_plain(cell.mgl)} | {_number(ratio)} | {_plain(mgl)} | {_plain(speed)} |")
    return [*lines, ""]


def ladder(measured: Measured, in_flight: int) -> list[tuple[str, float, float | None]]:
    """Figure 6: how many times the teacher's queries/s each step reaches, and the paper's."""
    steps = []
    for name in LADDER:
        ratio = measured.ratio(name, TEACHER, in_flight)
        if ratio is not None:
            steps.append((name, ratio.value, PAPER.get(name, (None,))[0]))
    return steps


def ladder_lines(steps: Sequence[tuple[str, float, float | None]], in_flight: int) -> list[str]:
    """The ladder as a table; nothing where no teacher was measured."""
    if not steps:
        return []
    lines = [f"**Times the teacher-shaped model's queries/s, {in_flight} in flight (figure 6)**", ""]
    lines += _head(("", "here", "paper"))
    lines += [f"| {name} | {value:.2f} | {_plain(paper)} |" for name, value, paper in steps]
    return [*lines, ""]


def as_json(measured: Measured, target_s: float | None) -> dict[str, Any]:
    """Every replay: latencies, tokens and seconds, what the engine counted, by configuration and concurrency."""
    cells = [
        {
            "kind": kind,
            "configuration": name,
            "in_flight": in_flight,
            "mgl": cell.mgl,
            "replays": [
                {
                    "group": group,
                    "repeat": repeat,
                    "seconds": round(sample.seconds, 4),
                    "tokens": sample.tokens,
                    "latencies_s": [round(one, 4) for one in sample.latencies],
                    "counts": vars(cell.counts[group, repeat]),
                }
                for (group, repeat), sample in cell.samples.items()
            ],
        }
        for (kind, name, in_flight), cell in measured.cells.items()
    ]
    engines = {one.name: one.engine.model_dump(mode="json", exclude_defaults=True) for one in measured.configurations}
    return {"target_s": target_s, "engines": engines, "cells": cells}


def _table(
    title: str, measured: Measured, kind: str, across: Sequence[int], of: Callable[[Cell], Measure | None]
) -> list[str]:
    if not across:
        return []
    lines = [f"**{title}**", "", *_head(("in flight", *map(str, across)))]
    for one in measured.configurations:
        cells = [measured.cell(kind, one.name, in_flight) for in_flight in across]
        if any(cells):
            lines.append(f"| {one.name} | " + " | ".join(_number(of(cell)) if cell else "" for cell in cells) + " |")
    return [*lines, ""]


def _ratios(title: str, measured: Measured, other: str) -> list[str]:
    across = measured.concurrencies(CALLS)
    lines = [f"**{title}**", "", *_head(("in flight", *map(str, across)))]
    rows = []
    for one in measured.configurations:
        ratios = [measured.ratio(one.name, other, in_flight) for in_flight in across]
        if one.name != other and any(ratios):
            rows.append(f"| {one.name} | " + " | ".join(_with_span(ratio) for ratio in ratios) + " |")
    return [*lines, *rows, ""] if rows else []


def _head(names: Sequence[str]) -> list[str]:
    return ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]


def _number(one: Measure | None) -> str:
    return "" if one is None else f"{one.value:.3g}"


def _with_span(one: Measure | None) -> str:
    return "" if one is None else f"{one.value:.2f} [{one.interval[0]:.2f}, {one.interval[1]:.2f}]"


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
