"""What the report shows of training: for each stage that trained its curves over steps, and what its log holds besides.

In go logs/<stage>.jsonl and what the stages left beside; out come charts. A part that is not there is left out.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle, product
from typing import Any

from agentmill.runs import Figure, Run
from cluster.chain import FITTED
from cluster.charts import Series, Spot, curve, smooth, trade

LOSS = "loss (nats a token)"
MARGIN = "/margin"  # of a step's pairs of one agent, in the log of dpo
POSITIONS = {"with context": "heldout_loss_from_", "without": "heldout_without_context_loss_from_"}
SWEPT = re.compile(r"merge\.\w+\.(\w+)\.w(\d+(?:_\d+)?)\.heldout_loss")
STYLES = ("line", "line second", "line third", "line fourth", "line fifth")


@dataclass(frozen=True)
class Chart:
    """A chart and what stands above it."""

    title: str
    svg: Any


def section(run: Run) -> list[Chart]:
    """The charts of every stage whose log is there, in the order of the stages, and those of single stages."""
    return [chart for stage in FITTED for chart in _stage(run, stage)]


def step_log(run: Run, stage: str) -> list[dict[str, float]]:
    """The numbers of a stage's step log, by step; a line that a kill cut short is left out."""
    file = run.root / "logs" / f"{stage}.jsonl"
    if not file.is_file():
        return []
    by_step: dict[float, dict[str, float]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        numbers = {key: float(value) for key, value in entry.items() if isinstance(value, int | float)}
        if "step" in numbers:
            by_step[numbers["step"]] = numbers
    return [by_step[step] for step in sorted(by_step)]


def position_curves(figures: Mapping[str, Figure], stage: str) -> list[Series]:
    """Loss over log2(position), before and after the stage, with a document's context and without; none: no curve."""
    series = []
    for (model, where), style in zip(product(("after", "before"), POSITIONS.items()), STYLES, strict=False):
        label, name = where
        prefix = f"train.{stage}.{'start.' if model == 'before' else ''}{name}"
        found = {int(key.removeprefix(prefix)): f for key, f in figures.items() if key.startswith(prefix)}
        points = [(math.log2(position), float(found[position].value)) for position in sorted(found)]
        if points:
            series.append(Series(f"{model}, {label}", points, style))
    return series


def merges(figures: Mapping[str, Figure], stage: str) -> dict[str, list[Spot]]:
    """What `agentmill merge sweep` measured of a stage: by method, the weights in order; the pick has its own style."""
    picked = tuple(figures.get(f"merge.{stage}.pick.{name}") for name in ("method", "weight"))
    pick = tuple(figure.value if figure else None for figure in picked)
    found: dict[str, list[tuple[float, Spot]]] = {}
    for key, figure in figures.items():
        named = SWEPT.fullmatch(key)
        general = figures.get(key.replace(".heldout_loss", ".general_loss"))
        if named and general:
            method, weight = named[1], float(named[2].replace("_", ".")) / 100
            style = "dot teacher" if (method, weight) == pick else "dot"
            spot = Spot(f"{weight:g}", float(general.value), float(figure.value), style)
            found.setdefault(method, []).append((weight, spot))
    return {method: [spot for _, spot in sorted(spots, key=lambda s: s[0])] for method, spots in found.items()}


def _stage(run: Run, stage: str) -> list[Chart]:
    log = step_log(run, stage)
    if not log:
        return []
    charts = [Chart(f"{stage}: loss", _loss(log, "loss (nats a pair)" if stage == "dpo" else LOSS))]
    margins = sorted(key for key in set().union(*log) if key.endswith(MARGIN) and key != f"pairs{MARGIN}")
    if margins:
        charts.append(Chart(f"{stage}: reward margin of the chosen over the rejected answer", _margins(log, margins)))
    curves = position_curves(run.figures(f"train.{stage}"), stage)
    if curves:
        title = f"{stage}: loss by the place of a token in its document (the paper's figure 5)"
        axis = "log2 of the position, by doubling ranges"
        charts.append(Chart(title, curve(curves, x_label=axis, y_label=LOSS)))
    for method, spots in merges(run.figures(f"merge.{stage}"), stage).items():
        title = f"{stage}: {method} merges with the model before it, by weight (`agentmill merge sweep`)"
        axes = {"x_label": "loss on general rows (nats a token)", "y_label": "loss on its held-out rows"}
        charts.append(Chart(title, trade(spots, spots, **axes)))
    return [*charts, Chart(f"{stage}: speed", _over_steps(log, "tokens_per_s", "tokens/s"))]


def _loss(log: list[dict[str, float]], label: str) -> Any:
    points = _points(log, "loss")
    window = _window(points)
    series = [Series("each step", points, "line faint"), Series(f"mean of {window} steps", smooth(points, window))]
    return curve(series, x_label="step", y_label=label)


def _margins(log: list[dict[str, float]], keys: list[str]) -> Any:
    """The margin of each agent over steps, as a running mean: an agent has few pairs in a step."""
    series = []
    for key, style in zip(keys, cycle(STYLES), strict=False):
        points = _points(log, key)
        series.append(Series(key.removesuffix(MARGIN), smooth(points, _window(points)), style))
    return curve(series, x_label="step", y_label="reward margin (nats)", key="left")


def _over_steps(log: list[dict[str, float]], key: str, label: str) -> Any:
    return curve([Series(label, _points(log, key))], x_label="step", y_label=label)


def _points(log: list[dict[str, float]], key: str) -> list[tuple[float, float]]:
    return [(entry["step"], entry[key]) for entry in log if key in entry]


def _window(points: list[tuple[float, float]]) -> int:
    return max(1, len(points) // 40)
