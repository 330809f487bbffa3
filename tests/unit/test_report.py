"""The report and its charts: self-contained, escaped, and every number from a record."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agentmill.records import CALL_SCHEMA, CONVERSATION_SCHEMA, TIMING_SCHEMA, TURN_SCHEMA
from agentmill.runs import Run, wilson
from cluster.charts import Rate, Series, curve, rates, smooth, ticks
from cluster.config import ReportSettings, RunConfig
from cluster.evidence import conversations, samples
from cluster.report import render
from cluster.training import merges, position_curves, section, step_log
from simulation.gate import GateSettings, calibrate, open_gate, write_calibration
from simulation.judged import JudgedPlan

HOSTILE = "<script>alert(1)</script>"


def call(agent: str, index: int, output: str) -> dict[str, Any]:
    messages = [{"role": "system", "content": agent}, {"role": "user", "content": f"customer: {HOSTILE}"}]
    return {
        "call_id": f"s1-0-{index}", "sid": "s1", "turn": 0, "index": index, "agent": agent,
        "messages_json": json.dumps(messages), "output": output, "status": "ok", "error": "", "model": "student",
        "prompt_tokens": 41, "completion_tokens": 13,
    }  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with everything that a report shows."""
    run = Run.create(tmp_path / "demo", RunConfig(name="demo").resolved(), "agentmill run configs/local.yaml")
    for name, value in {"simulate.conversations": 1234, "simulate.calls": 56789, "corpora.sft.train": 4321}.items():
        run.record(name, value)
    run.record("evaluate.sft.success", 0.9, n=50, interval=wilson(45, 50))
    run.record("evaluate.teacher.success", 0.96, n=50, interval=wilson(48, 50))
    run.record("evaluate.sft.planner.equivalent", 0.875, n=160, interval=wilson(140, 160))
    run.record("run.stage.simulate.seconds", 75.0, unit="s")
    run.complete("simulate", "x", 75.0)
    rows = [
        {
            "prompt": [{"role": "system", "content": "Planner."}, {"role": "user", "content": "intent: opening_hours"}],
            "completion": [{"role": "assistant", "content": f"hours = opening_hours(day='{agent}')"}],
            "agent": agent, "call_id": str(n), "sid": "s", "source": "judge",
        }
        for n, agent in enumerate(["planner"] * 5 + ["explainer"])
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), run.path("corpora", "sft", "train.parquet"))
    run.path("logs", "sft.jsonl").write_text(
        "".join(json.dumps({"step": s, "loss": 3 / s, "tokens_per_s": 900.0}) + "\n" for s in range(1, 60))
        + '{"step": 6'
    )
    folder = run.path("evaluate", "sft", "x").parent
    conversation = {
        "sid": "s1", "scenario_json": json.dumps({"goals": [{"intent": "opening_hours", "slots": {"day": "friday"}}]}),
        "status": "exit", "error": "", "success": True, "reasons_json": "[]", "turns": 1, "calls": 2,
        "world_json": "{}",
    }  # fmt: skip
    turn = {
        "sid": "s1", "turn": 0, "utterance": HOSTILE, "reply": "We open at 9:00.", "status": "answered",
        "intent": "opening_hours", "plan": 'hours = opening_hours(day="friday")', "complexity": 1.0, "replans": 0,
        "violations_json": "[]", "results_json": '{"hours":{"open":"09:00"}}',
    }  # fmt: skip
    calls = [call("planner", 0, 'hours = opening_hours(day="friday")'), call("explainer", 1, "We open at 9:00.")]
    for name, schema, data in (
        ("conversations", CONVERSATION_SCHEMA, [conversation]),
        ("turns", TURN_SCHEMA, [turn]),
        ("calls", CALL_SCHEMA, calls),
        ("timings", TIMING_SCHEMA, [{"kind": "call", "sid": "s1", "turn": 0, "index": 0, "seconds": 0.0123}]),
    ):
        (folder / name).mkdir()
        pq.write_table(pa.Table.from_pylist(data, schema=schema), folder / name / "part-0.parquet")
    return run


class Links(HTMLParser):
    """Collects every reference to something outside the page, and checks that tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.outside += [v for k, v in attrs if k in {"src", "href"} and v and not v.startswith(("#", "data:"))]
        if tag not in {"meta", "link", "br", "line", "circle", "polyline"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in {"line", "circle", "polyline"}:
            assert self.open.pop() == tag


def test_the_page_needs_nothing_else(run: Run) -> None:
    page = render(run, ReportSettings())
    reader = Links()
    reader.feed(page)
    assert reader.outside == []
    assert reader.open == []
    assert "@import" not in page
    assert "url(" not in page


def test_text_of_models_and_customers_is_escaped(run: Run) -> None:
    page = render(run, ReportSettings())
    assert HOSTILE not in page
    assert page.count("&lt;script&gt;") >= 2


def test_it_shows_what_was_recorded(run: Run) -> None:
    page = render(run, ReportSettings())
    for text in ("1,234", "56,789", "4,321", "90.0 %", "78.6 to 95.7 %", "96.0 %", "87.5 %", "1 min 15 s", "n = 50"):
        assert text in page, text
    for text in ("41 + 13 tokens", "hours = opening_hours", "wants opening_hours: day friday", "&#34;open&#34;"):
        assert text in page, text


def test_the_gates_curve_and_what_was_measured_of_it_have_a_place(run: Run) -> None:
    assert "not calibrated" in render(run, ReportSettings())
    plans = [JudgedPlan(f"s{i}", 10.0 if i < 400 else 20.0, i > 490) for i in range(500)]
    write_calibration(run, calibrate(plans, GateSettings(), inputs="x"))
    run.record("evaluate.sft.gate.miss_rate", 0.004, n=250, interval=wilson(1, 250))
    page = render(run, ReportSettings())
    for text in ("plans missed", "upper bound (95 %)", "80.0% of the calls saved", "evaluate.sft.gate.miss_rate"):
        assert text in page, text


def test_a_gate_that_was_left_open_says_why(run: Run) -> None:
    write_calibration(run, open_gate(GateSettings(), inputs="x", because="too <few>"))
    assert "left open, every plan is put to the model evaluator: too &lt;few&gt;" in render(run, ReportSettings())


def test_a_run_that_has_just_begun_has_a_report(tmp_path: Path) -> None:
    fresh = Run.create(tmp_path / "fresh", RunConfig().resolved(), "x")
    page = render(fresh, ReportSettings())
    assert "nothing was recorded" in page
    assert "none were recorded" in page


def test_samples_take_the_agents_in_turn(run: Run) -> None:
    assert [sample.agent for sample in samples(run, 4)] == ["explainer", "planner", "planner", "planner"]
    assert samples(run, 0) == []


def test_a_line_that_a_kill_cut_short_is_left_out(run: Run) -> None:
    log = step_log(run, "sft")
    assert [entry["step"] for entry in log] == list(range(1, 60))


def test_a_step_that_was_done_twice_counts_once(run: Run) -> None:
    run.path("logs", "sft.jsonl").write_text(
        '{"step": 1, "loss": 2}\n{"step": 2, "loss": 1}\n{"step": 2, "loss": 0.5}\n'
    )
    assert [entry["loss"] for entry in step_log(run, "sft")] == [2, 0.5]


def test_every_stage_that_trained_has_its_curves(run: Run) -> None:
    rows = [
        {"step": s, "loss": 0.7, "tokens_per_s": 500.0, "planner/margin": 0.1 * s, "pairs/margin": 0.2 * s}
        for s in range(1, 9)
    ]
    rows[3]["explainer/margin"] = 0.5  # an agent that few steps have
    run.path("logs", "dpo.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    charts = {chart.title: str(chart.svg) for chart in section(run)}
    chosen = "dpo: reward margin of the chosen over the rejected answer"
    assert list(charts) == ["sft: loss", "sft: speed", "dpo: loss", chosen, "dpo: speed"]
    margins = charts[chosen]
    assert "planner" in margins
    assert "explainer" in margins
    assert "pairs" not in margins
    assert all(title in render(run, ReportSettings()) for title in charts)


def test_loss_by_position_is_drawn_before_and_after_with_context_and_without(run: Run) -> None:
    for where in ("train.cpt.heldout", "train.cpt.start.heldout", "train.cpt.heldout_without_context"):
        for position in (1, 2, 16):
            run.record(f"{where}_loss_from_{position}", 3.0 / position, n=10, unit="nats/token")
    run.record("train.cpt.heldout_loss", 1.0, n=30, unit="nats/token")
    curves = {line.name: list(line.points) for line in position_curves(run.figures("train.cpt"), "cpt")}
    assert list(curves) == ["after, with context", "after, without", "before, with context"]
    assert curves["before, with context"] == [(0, 3.0), (1, 1.5), (4, 0.1875)]
    assert position_curves(run.figures("train.sft"), "sft") == []


def test_a_sweep_of_merges_is_drawn_by_weight_and_shows_the_pick(run: Run) -> None:
    for weight, domain, general in (("100", 1.0, 3.0), ("0", 2.0, 1.0), ("12_5", 1.5, 1.5)):
        run.record(f"merge.sft.linear.w{weight}.heldout_loss", domain, n=9)
        run.record(f"merge.sft.linear.w{weight}.general_loss", general, n=9)
    run.record("merge.sft.pick.weight", 0.125)
    run.record("merge.sft.pick.method", "linear")
    run.record("merge.sft.pick.heldout_loss", 1.5)
    found = merges(run.figures("merge.sft"), "sft")
    assert [(spot.label, spot.x, spot.y) for spot in found["linear"]] == [
        ("0", 1.0, 2.0), ("0.125", 1.5, 1.5), ("1", 3.0, 1.0),
    ]  # fmt: skip
    assert [spot.style for spot in found["linear"]] == ["dot", "dot teacher", "dot"]
    assert "sft: linear merges" in render(run, ReportSettings())


def test_a_conversation_has_its_calls_in_order(run: Run) -> None:
    (talk,) = conversations(run, 3, "sft")
    assert [c.agent for c in talk.turns[0].calls] == ["planner", "explainer"]
    assert conversations(run, 0, "sft") == []


def test_charts_are_well_formed_and_escape_labels() -> None:
    line = curve([Series("a <b>", [(0, 1.0), (1, 0.5), (2, float("nan"))])], x_label="step", y_label="loss")
    dots = rates([Rate("<i>", 0.9, 0.8, 0.95)])
    for chart in (line, dots):
        ElementTree.fromstring(str(chart))
    assert "nan" not in line
    assert "&lt;i&gt;" in dots
    places = [float(x) for x in re.findall(r'points="([^"]*)"', str(line))[0].replace(",", " ").split()]
    assert all(0 <= place <= 720 for place in places)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.31, 0.32), (1, 1), (3, 950), (-2, 5)])
def test_ticks_cover_the_span_with_round_numbers(low: float, high: float) -> None:
    marks = ticks(low, high)
    assert marks[0] <= low + 1e-9
    assert marks[-1] >= high - 1e-9
    assert 2 <= len(marks) <= 12


def test_smoothing_is_a_running_mean() -> None:
    assert smooth([(0, 1.0), (1, 3.0), (2, 5.0)], 2) == [(0, 1.0), (1, 2.0), (2, 4.0)]
