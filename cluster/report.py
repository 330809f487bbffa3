"""The report of a run: one HTML file that needs nothing else, no script and no other host.

In goes a run directory; out comes `report/index.html`. Invariant: every number on the page is a recorded figure or
stands in a recorded artefact (a corpus row, a call); text from models and customers is escaped.
"""

from collections.abc import Mapping
from typing import Any

import jinja2

from agentmill.log import say
from agentmill.runs import Figure, Run, atomic_write_text
from cluster import chain, evidence, gate, scenarios, training
from cluster.charts import Rate, rates
from cluster.comparison import (
    LEGEND,
    SAFE,
    SUCCESS,
    TEACHER,
    changes,
    compared,
    evaluated_models,
    newest_evaluated,
    side_by_side,
)
from cluster.config import ReportSettings
from cluster.shown import shown, shown_interval
from cluster.stages import STAGES
from simulation.gate import read_calibration

TRUST = {
    "simulate.user_errors": "conversations that the simulated customer spoiled",
    "simulate.user_errors.left_early": "it left before its goal",
    "simulate.user_errors.contradicted": "it contradicted its profile or its goals",
    "simulate.user_errors.answered_for_assistant": "it spoke for the assistant",
    "simulate.user_errors.repeated": "it said the same without end",
    "simulate.user_errors.unreachable": "its goal cannot be reached at all",
    "refine.judge.agreement": "the judge agrees with the gold set",
    "refine.judge.kappa": "the judge agrees beyond chance (Cohen's kappa)",
    "refine.judge.precision": "what it edits is wrong",
    "refine.judge.recall": "what is wrong it edits",
    "refine.judge.mended": "what it edits is right afterwards",
    "refine.second_look.agreement": "a second judge agrees",
    "refine.second_look.kappa": "a second judge agrees beyond chance (Cohen's kappa)",
    "refine.unjudged_share": "calls left unjudged",
    "refine.cost.calls_per_accepted": "judge calls for each output that may be taught",
    "refine.cost.tokens_per_accepted": "judge tokens for each output that may be taught",
}


def run(run: Run, settings: ReportSettings) -> None:
    """Write the report of what is there so far."""
    atomic_write_text(run.path("report", "index.html"), render(run, settings))
    say("report", str(run.root / "report" / "index.html"))


def render(run: Run, settings: ReportSettings) -> str:
    """The page as text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cluster", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = shown
    environment.filters["interval"] = shown_interval
    figures = run.figures()
    return environment.get_template("report.html.j2").render(
        run=run,
        manifest=run.manifest,
        stages=_stages(run, figures),
        figures=figures,
        trust={label: figures[name] for name, label in TRUST.items() if name in figures},
        corpora=_under(figures, "simulate", "refine", "corpora", "data"),
        training=_under(figures, "base", "train"),
        models=_models(figures),
        student=newest_evaluated(figures) or "",
        evaluation_chart=rates(_rates(figures)),
        scenarios=scenarios.section(run),
        samples=evidence.samples(run, settings.samples),
        charts=training.section(run),
        conversations=evidence.conversations(run, settings.conversations, newest_evaluated(figures)),
        gate=_gate(run),
        gate_figures=_gate_figures(figures),
    )


def _gate(run: Run) -> dict[str, Any] | None:
    """The gate's decision in words and its curve, where the run has been calibrated."""
    calibration = read_calibration(run)
    if calibration is None:
        return None
    return {"said": gate.summary(calibration), "chart": gate.chart(calibration) if calibration.curve else ""}


def _gate_figures(figures: Mapping[str, Figure]) -> dict[str, Figure]:
    """The calibration's figures, and what every stage measured of its gate."""
    return {name: f for name, f in figures.items() if "gate" in name.split(".") and not name.startswith("run.")}


def _stages(run: Run, figures: Mapping[str, Figure]) -> list[dict[str, Any]]:
    rows = []
    for stage in STAGES:
        if stage.name == "report":
            continue
        mark = run.completed(stage.name)
        seconds = figures.get(f"run.stage.{stage.name}.seconds")
        absent = "left out" if chain.left_out_of(run, stage.name) else "not done"
        when = mark.completed[:19].replace("T", " ") if mark else absent
        rows.append({"name": stage.name, "does": stage.does, "seconds": seconds, "when": when})
    return rows


def _under(figures: Mapping[str, Figure], *prefixes: str) -> dict[str, Figure]:
    return {name: f for name, f in figures.items() if name.split(".")[0] in prefixes}


def _models(figures: Mapping[str, Figure]) -> dict[str, Any]:
    """The models side by side, and how each differs from those that it was compared with."""
    return {
        "names": evaluated_models(figures),
        "rows": side_by_side(figures, everything=True),
        "legend": LEGEND,
        "changes": [
            {"model": model, "other": other, "rows": changes(figures, model, other)}
            for model, other in compared(figures)
        ],
    }


def _rates(figures: Mapping[str, Figure]) -> list[Rate]:
    """Success of every model; of the newest model and the teacher the agents' rates too."""
    newest = newest_evaluated(figures)
    rows = []
    for row in side_by_side(figures):
        for model, cell in zip(evaluated_models(figures), row.cells, strict=True):
            figure = cell.figure
            if figure is None or figure.interval is None or row.measure == SAFE:
                continue
            if row.measure == SUCCESS or model in (newest, TEACHER):
                low, high = figure.interval
                style = "dot teacher" if model == TEACHER else "dot"
                rows.append(Rate(f"{row.label}, {model}", float(figure.value), low, high, style))
    return rows
