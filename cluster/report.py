"""The report of a run: one HTML file that needs nothing else, no script and no other host.

In goes a run directory; out comes `report/index.html`. Invariant: every number on the page is a recorded figure or
stands in a recorded artefact (a corpus row, a call); text from models and customers is escaped.
"""

from collections.abc import Mapping
from typing import Any

import jinja2

from agentmill.log import say
from agentmill.runs import Figure, Run, atomic_write_text
from cluster import evidence, gate, scenarios
from cluster.charts import Rate, Series, curve, rates, smooth
from cluster.config import ReportSettings
from cluster.stages import STAGES
from cluster.status import shown, shown_interval
from simulation.gate import read_calibration

AGENT_WORK = {
    "success": "scenarios completed",
    "understander.intent": "Understander: intent",
    "understander.entities": "Understander: entities",
    "planner.equivalent": "Planner: plan equivalent",
    "planner.executable": "Planner: plan executable",
    "explainer.grounded": "Explainer: reply grounded",
}
WHO = {"sft": "student", "teacher": "teacher"}
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
        evaluation=_evaluation(figures),
        evaluation_chart=rates(_rates(figures)),
        scenarios=scenarios.section(run),
        samples=evidence.samples(run, settings.samples),
        loss=_loss_chart(run),
        speed=_speed_chart(run),
        conversations=evidence.conversations(run, settings.conversations),
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
        rows.append(
            {"name": stage.name, "does": stage.does, "seconds": seconds, "when": mark.completed if mark else ""}
        )
    return rows


def _under(figures: Mapping[str, Figure], *prefixes: str) -> dict[str, Figure]:
    return {name: f for name, f in figures.items() if name.split(".")[0] in prefixes}


def _evaluation(figures: Mapping[str, Figure]) -> list[dict[str, Any]]:
    """One row for each thing that was judged, student and teacher side by side; what else is there comes after."""
    names = {name.split(".", 2)[2] for name in figures if name.startswith(("evaluate.sft.", "evaluate.teacher."))}
    ordered = [name for name in AGENT_WORK if name in names] + sorted(names - AGENT_WORK.keys())
    return [
        {
            "label": AGENT_WORK.get(name, name.replace(".", ": ")),
            "cells": [figures.get(f"evaluate.{stage}.{name}") for stage in WHO],
        }
        for name in ordered
    ]


def _rates(figures: Mapping[str, Figure]) -> list[Rate]:
    rows = []
    for name, label in AGENT_WORK.items():
        for stage, who in WHO.items():
            figure = figures.get(f"evaluate.{stage}.{name}")
            if figure is not None and figure.interval is not None:
                low, high = figure.interval
                style = "dot" if stage == "sft" else "dot teacher"
                rows.append(Rate(f"{label}, {who}", float(figure.value), low, high, style))
    return rows


def _loss_chart(run: Run) -> Any:
    log = evidence.loss_log(run)
    points = [(entry["step"], entry["loss"]) for entry in log if "loss" in entry]
    window = max(1, len(points) // 40)
    series = [Series("each step", points, "line faint"), Series(f"mean of {window} steps", smooth(points, window))]
    heldout = [(entry["step"], entry["heldout_loss"]) for entry in log if "heldout_loss" in entry]
    if heldout:
        series.append(Series("held out", heldout, "line second"))
    return curve(series, x_label="step", y_label="loss (nats a token)")


def _speed_chart(run: Run) -> Any:
    points = [(entry["step"], entry["tokens_per_s"]) for entry in evidence.loss_log(run) if "tokens_per_s" in entry]
    return curve([Series("tokens/s", points)], x_label="step", y_label="tokens/s") if points else ""
