"""The complexity gate of a run: the stage `gate` and the command `agentmill gate calibrate`, and what both show.

The stage calibrates with the run's own settings; where the recorded plans allow no bound it says why and leaves the
gate open, so that every plan is put to the model evaluator. The command does the same on demand with other bounds,
and refuses instead. Invariant: what the run's calibration.json holds is what `served_system` and the report use.
"""

import time
from collections.abc import Sequence
from typing import Any

from agentmill.log import say
from agentmill.runs import Run, digest_json
from cluster.config import RunConfig
from simulation.gate import (
    Calibration,
    NotCalibrated,
    Point,
    calibrate,
    open_gate,
    write_calibration,
)
from simulation.judged import recorded_plans

SHOWN = 12


def run(run: Run, config: RunConfig) -> None:
    """The stage: calibrate, or leave the gate open; records `gate.*`."""
    try:
        calibration = calibrated(run, config)
    except NotCalibrated as reason:
        calibration = open_gate(config.gate, inputs=_inputs(run), because=str(reason))
    write_calibration(run, calibration)
    for line in summary(calibration):
        say("gate", line)


def calibrate_again(run: Run, config: RunConfig) -> Calibration:
    """Calibrate on demand with `config.gate`, which may differ from the run's own; the stage is done with it.

    Raises:
        RunError: when the stage simulate is not finished, or another process works on this run.
        NotCalibrated: when the recorded plans do not allow the bound; the run is left as it was.
    """
    from cluster.runner import lock
    from cluster.stages import inputs_of, stage_named

    began = time.monotonic()
    with lock(run):
        calibration = calibrated(run, config)
        inputs = inputs_of(stage_named("gate"), run, config)
        run.reopen("gate")
        write_calibration(run, calibration)
        run.complete("gate", digest_json(inputs), time.monotonic() - began, {"inputs": inputs})
    return calibration


def calibrated(run: Run, config: RunConfig) -> Calibration:
    """The calibration of the run's recorded plans.

    Raises:
        RunError: when the stage simulate is not finished.
        NotCalibrated: when the plans do not allow the bound.
    """
    plans, unjudged = recorded_plans(run, config.gate.measure)
    return calibrate(
        plans, config.gate, inputs=_inputs(run), unjudged=unjudged, asked_above=config.system.complexity_threshold
    )


def summary(calibration: Calibration) -> list[str]:
    """What was decided, line by line."""
    chosen = calibration.chosen
    if chosen is None:
        return [f"left open, every plan is put to the model evaluator: {calibration.open_because}"]
    lines = [
        f"{calibration.plans:,} plans of {calibration.conversations:,} conversations passed the rules and "
        f"were judged, {calibration.rejected:,} of them rejected; {calibration.unjudged:,} more got no verdict",
        f"asked above a Halstead {calibration.measure} of {chosen.threshold:.1f}: {calibration.saved:.1%} of the calls "
        f"saved, {chosen.missed:,} plans missed ({calibration.rejections_missed:.1%} of the rejected ones)",
        f"miss rate over all plans {chosen.miss_rate:.2%}, at most {chosen.bound:.2%} with confidence "
        f"{calibration.confidence:g}; allowed {calibration.max_miss_rate:.2%}",
    ]
    if calibration.bootstrap_bound > calibration.max_miss_rate:
        lines.append(
            f"drawn by whole conversations the bound is {calibration.bootstrap_bound:.2%}: plans of one conversation "
            "are less independent than the exact bound supposes; raise gate.confidence to be on the safe side"
        )
    return lines


def print_calibration(calibration: Calibration) -> None:
    """The curve as a table of about a dozen rows, and the decision."""
    from rich.console import Console
    from rich.table import Table

    title = f"a gate on the Halstead {calibration.measure} of {calibration.plans:,} plans"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in (
        "above",
        "calls\nsaved",
        "",
        "missed",
        "miss\nrate",
        "95 %\ninterval",
        "bound",
        "of the\nrejected",
        "",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    chosen = calibration.chosen
    for point in _some(calibration.curve, chosen):
        low, high = point.interval
        table.add_row(
            f"{point.threshold:,.1f}",
            f"{point.skipped / calibration.plans:.1%}",
            f"{point.skipped:,}",
            f"{point.missed:,}",
            f"{point.miss_rate:.2%}",
            f"{100 * low:.2f} to {100 * high:.2f} %",
            f"{point.bound:.2%}",
            f"{point.missed / calibration.rejected:.1%}",
            "chosen" if point == chosen else "",
        )
    console = Console()
    console.print(table)
    for line in summary(calibration):
        console.print(line, highlight=False, soft_wrap=True)


def chart(calibration: Calibration) -> Any:
    """Misses over calls saved, with the bound that was tested and what is allowed, as SVG."""
    from cluster.charts import Series, curve

    allowed = 100 * calibration.max_miss_rate

    def line(name: str, values: Sequence[float], style: str) -> Series:
        saved = [100 * point.skipped / calibration.plans for point in calibration.curve]
        return Series(name, list(zip(saved, values, strict=True)), style)

    rates = [100 * point.miss_rate for point in calibration.curve]
    bounds = [100 * point.bound for point in calibration.curve]
    series = [
        line("plans missed", rates, "line"),
        line(f"upper bound ({100 * calibration.confidence:g} %)", bounds, "line faint"),
        line("allowed", [allowed] * len(rates), "line second"),
    ]
    return curve(series, x_label="calls saved (%)", y_label="plans missed (%)", key="left")


def _inputs(run: Run) -> str:
    mark = run.completed("simulate")
    return mark.digest if mark else ""


def _some(points: Sequence[Point], chosen: Point | None) -> list[Point]:
    """About `SHOWN` points, evenly over the calls that they save, with the chosen one and the one after it."""
    if len(points) <= SHOWN:
        return list(points)
    most = points[-1].skipped
    steps = [most * (step + 1) / (SHOWN - 2) for step in range(SHOWN - 2)]
    wanted = {next(i for i, point in enumerate(points) if point.skipped >= step) for step in steps}
    if chosen in points:
        place = points.index(chosen)
        wanted |= {place, min(place + 1, len(points) - 1)}
    return [points[i] for i in sorted(wanted)]
