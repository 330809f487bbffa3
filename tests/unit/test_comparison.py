"""The table of models: its columns, its signs, and what it says of the teacher."""

from pathlib import Path

import pytest

from agentmill.runs import Run, RunError, wilson
from cluster import comparison
from cluster.config import ReportSettings, RunConfig
from cluster.report import render
from cluster.status import print_result


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run.create(tmp_path / "one", RunConfig().resolved(), "test")
    for model, won in {"teacher": 49, "dpo": 46, "base": 0, "sft": 44}.items():
        run.record(f"evaluate.{model}.success", won / 50, n=50, interval=wilson(won, 50))
        run.record(f"evaluate.{model}.planner.equivalent", won / 50, n=50, interval=wilson(won, 50))
        run.record(f"evaluate.{model}.calls", 10 * won)
    for stage in ("sft", "dpo"):
        run.record(f"train.{stage}.steps", 10)
    run.record("train.sft.start.heldout_loss", 3.5, n=900, unit="nats/token")
    run.record("train.sft.heldout_loss", 0.5, n=900, unit="nats/token")
    run.record("train.dpo.start.sft_heldout_loss", 0.5, n=900, unit="nats/token")
    run.record("train.dpo.sft_heldout_loss", 0.25, n=900, unit="nats/token")
    run.record("train.dpo.heldout_loss", 0.6, n=90, unit="nats/pair")
    for name, difference, p in (
        ("sft.versus.base.success", 0.88, 1e-9),
        ("dpo.versus.sft.success", 0.04, 0.7),
        ("dpo.versus.sft.planner.equivalent", -0.1, 0.01),
        ("dpo.versus.teacher.planner.equivalent", -0.06, 0.02),
    ):
        run.record(f"evaluate.{name}", difference, n=50, interval=(difference - 0.05, difference + 0.05))
        run.record(f"evaluate.{name}.p", p)
    return run


def test_columns_follow_the_chain_and_the_teacher_is_last(run: Run) -> None:
    figures = run.figures()
    assert comparison.evaluated_models(figures) == ["base", "sft", "dpo", "teacher"]
    assert comparison.newest_evaluated(figures) == "dpo"
    rows = comparison.side_by_side(figures)
    assert [row.measure for row in rows] == ["success", "planner.equivalent", "agents_loss"]
    assert comparison.side_by_side(figures, everything=True)[-1].measure == "calls"


def test_a_sign_stands_only_where_a_difference_was_shown(run: Run) -> None:
    success, plans, loss = comparison.side_by_side(run.figures())
    assert [cell.sign for cell in success.cells] == ["", "▲", "", ""]
    assert [cell.sign for cell in plans.cells] == ["", "", "▼", ""]
    assert [cell.figure and cell.figure.value for cell in loss.cells] == [3.5, 0.5, 0.25, None]


def test_the_newest_model_is_held_against_the_teacher(run: Run) -> None:
    said = comparison.against_teacher(run.figures(), "dpo")
    assert said == "dpo against the teacher: worse in Planner: plan equivalent; elsewhere no difference is shown"
    assert comparison.against_teacher(run.figures(), "sft").endswith("no difference is shown")


def test_terminal_markdown_and_report_show_the_same(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    print_result(run)
    told = capsys.readouterr().out
    page = render(run, ReportSettings())
    text = comparison.markdown(run)
    for value in ("88.0 % ▲", "92.0 % ▼", "98.0 %", "0.25"):
        assert value in told
        assert value in text
        assert value in page
    assert "| scenarios completed | 0.0 % [0, 7] | 88.0 % ▲ [76, 94] |" in text
    assert "dpo against sft" in page
    assert "no difference shown" in page


def test_a_run_without_an_evaluation_says_so(tmp_path: Path) -> None:
    fresh = Run.create(tmp_path / "fresh", {}, "test")
    with pytest.raises(RunError, match=r"no model of .* was evaluated yet"):
        comparison.print_models(fresh)


def test_what_is_said_to_be_served_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run.create(tmp_path / "one", RunConfig.model_validate({"dpo": {}}).resolved(), "test")
    print_result(run)
    assert "serve it" not in capsys.readouterr().out
    run.complete("sft", "x", 1.0)
    print_result(run)
    assert "agentmill serve one --stage sft" in capsys.readouterr().out
    run.complete("dpo", "x", 1.0)
    print_result(run)
    assert "`agentmill serve one`" in capsys.readouterr().out
