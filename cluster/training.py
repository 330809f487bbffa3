"""What the report shows of training: for each stage that trained its curves over steps, and what its log holds besides.

In go logs/<stage>.jsonl and what the stages left beside; out come charts. A part that is not there is left out.
"""

import json
from dataclasses import dataclass
from typing import Any

from agentmill.runs import Run
from cluster.chain import TRAINED
from cluster.charts import Series, curve, smooth

LOSS = "loss (nats a token)"


@dataclass(frozen=True)
class Chart:
    """A chart and what stands above it."""

    title: str
    svg: Any


def section(run: Run) -> list[Chart]:
    """The charts of every stage whose log is there, in the order of the stages."""
    return [chart for stage in TRAINED for chart in _stage(run, stage)]


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


def _stage(run: Run, stage: str) -> list[Chart]:
    log = step_log(run, stage)
    if not log:
        return []
    return [
        Chart(f"{stage}: loss", _loss(log)),
        Chart(f"{stage}: speed", _over_steps(log, "tokens_per_s", "tokens/s")),
    ]


def _loss(log: list[dict[str, float]]) -> Any:
    points = [(entry["step"], entry["loss"]) for entry in log if "loss" in entry]
    window = max(1, len(points) // 40)
    series = [Series("each step", points, "line faint"), Series(f"mean of {window} steps", smooth(points, window))]
    return curve(series, x_label="step", y_label=LOSS)


def _over_steps(log: list[dict[str, float]], key: str, label: str) -> Any:
    points = [(entry["step"], entry[key]) for entry in log if key in entry]
    return curve([Series(label, points)], x_label="step", y_label=label)
