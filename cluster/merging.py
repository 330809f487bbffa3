"""`agentmill merge sweep`: which merge of a stage's model with its start to take, by what each one loses.

In goes a run with a trained stage; out come a table, the figures merge.<stage>.*, merge/<stage>/front.html with the
Pareto front, and the pick in merge/<stage>/pick.json. The sweep decides nothing in the run: the pick is a line to give
to the next `agentmill run`, which merges the kept model and trains nothing again.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from agentmill.config import ConfigError, validate
from agentmill.runs import Run, atomic_write_text, command_line
from cluster import chain
from cluster.charts import Spot, trade
from cluster.config import config_of
from cluster.runner import lock
from cluster.session import ray_session
from raytrain.settings import MergeSettings
from raytrain.sweep import Point, choose, front, sweep

SETS = {"heldout": "domain", "general": "general", "public_heldout": "public"}


@dataclass(frozen=True)
class Swept:
    """What a sweep found: the points in order of weight, those that none beats, and the one to take."""

    stage: str
    points: Sequence[Point]
    best: Sequence[Point]
    pick: Point
    chosen_by: str


def sweep_run(
    run: Run, stage: str | None, method: str, weights: str, density: float, max_cost: float, pick: float | None
) -> list[str]:
    """Sweep the weights, record what was found, write the chart; returns the lines to print.

    Raises:
        ConfigError: when a method, weight or density is wrong, or `pick` is none of the weights.
        UserError: when the run has nothing to merge, or scoring failed.
    """
    chosen, merges = stage_of(run, stage), merges_of(method, weights, density)
    if pick is not None and pick not in [merge.weight for merge in merges]:
        raise ConfigError(f"--pick {pick:g} is none of --weights {weights}; add it there, so that it is measured")
    with lock(run), ray_session(record=run.path("session.json"), logs=run.path("logs", "ray")):
        points = sweep(run, chosen, merges)
    if pick is None:
        taken, chosen_by = choose(points, max_cost), f"lowest domain loss at a general loss of at most +{max_cost:.1%}"
    else:
        taken, chosen_by = next(p for p in points if p.merge.weight == pick), "chosen by hand"
    swept = Swept(chosen, points, front(points), taken, chosen_by)
    _record(run, swept)
    page = run.path("merge", chosen, "front.html")
    atomic_write_text(page, _page(run, swept))
    return [*table(swept), f"the Pareto front is in {page}", *next_step(run, swept)]


def stage_of(run: Run, stage: str | None) -> str:
    """The stage that is meant: the last one that the run trains unless one is named.

    Raises:
        ConfigError: when the run trains no stage of that name.
    """
    config = config_of(run)
    trained = [name for name in chain.model_stages(config) if name in chain.TRAINED]
    if stage is None:
        return trained[-1]
    if stage not in trained:
        raise ConfigError(f"--stage {stage} is no stage that this run trains; it trains {', '.join(trained)}")
    return stage


def merges_of(method: str, weights: str, density: float) -> list[MergeSettings]:
    """The merges to try, by rising weight; weight 0, which the others are measured against, is always among them.

    Raises:
        ConfigError: when a weight is no number, or a value is outside of its range.
    """
    try:
        numbers = sorted({0.0, *(float(part) for part in weights.split(","))})
    except ValueError:
        raise ConfigError(f"--weights {weights} is no list of numbers; write for example --weights 0,0.5,1") from None
    given = [{"method": method, "weight": weight, "density": density} for weight in numbers]
    return [validate(MergeSettings, one, "agentmill merge sweep") for one in given]


def table(swept: Swept) -> list[str]:
    """One line a weight, fixed columns."""
    sets = [name for name in SETS if name in swept.points[0].losses]
    lines = [f"{'weight':>6}" + "".join(f"  {SETS[name] + ' loss':>13}" for name in sets)]
    for point in swept.points:
        losses = "".join(f"  {point.losses[name].value:>13.4f}" for name in sets)
        notes = ["on the front"] * (point in swept.best) + ["<- the pick"] * (point == swept.pick)
        lines.append(f"{point.merge.weight:>6g}{losses}  {'  '.join(notes)}".rstrip())
    return lines


def next_step(run: Run, swept: Swept) -> list[str]:
    """What to do with the pick, as one would type it."""
    given = assignment(swept.stage, swept.pick.merge)
    return [f"pick: weight {swept.pick.merge.weight:g} ({swept.chosen_by})", f"  {run.command} --set '{given}'"]


def assignment(stage: str, merge: MergeSettings) -> str:
    """The setting that makes a run publish this merge."""
    if merge.weight == 1 and merge.method != "ties":
        return f"{stage}.merge=null"
    density = f", density: {merge.density:g}" if merge.method == "ties" else ""
    return f"{stage}.merge={{method: {merge.method}, weight: {merge.weight:g}{density}}}"


def _record(run: Run, swept: Swept) -> None:
    prefix, command = f"merge.{swept.stage}", command_line()
    for point in swept.points:
        weight = f"{100 * point.merge.weight:g}".replace(".", "_")
        for name, loss in point.losses.items():
            figure = f"{prefix}.{point.merge.method}.w{weight}.{name}_loss"
            run.record(figure, loss.value, n=loss.n, unit="nats/token", command=command)
    run.record(f"{prefix}.pick.weight", swept.pick.merge.weight, command=command)
    run.record(f"{prefix}.pick.method", swept.pick.merge.method, command=command)
    for name, loss in swept.pick.losses.items():
        run.record(f"{prefix}.pick.{name}_loss", loss.value, n=loss.n, unit="nats/token", command=command)
    pick: dict[str, Any] = {
        "merge": swept.pick.merge.model_dump(mode="json"),
        "chosen_by": swept.chosen_by,
        "set": assignment(swept.stage, swept.pick.merge),
    }
    atomic_write_text(run.path("merge", swept.stage, "pick.json"), json.dumps(pick, indent=2) + "\n")


def _page(run: Run, swept: Swept) -> str:
    def spot(point: Point) -> Spot:
        style = "dot teacher" if point == swept.pick else "dot"
        return Spot(f"{point.merge.weight:g}", point.general, point.domain, style)

    chart = trade(
        [spot(point) for point in swept.points],
        [spot(point) for point in swept.best],
        x_label="general held-out loss (nats/token)",
        y_label="domain held-out loss (nats/token)",
    )
    pages = jinja2.Environment(
        loader=jinja2.PackageLoader("cluster", "templates"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = pages.get_template("merge.html.j2")
    return page.render(run=run, swept=swept, chart=chart, lines="\n".join(table(swept)), command=next_step(run, swept))
