"""What `agentmill bench serving` records and shows: figures by their names, the paper's tables beside ours, a page."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from agentmill.runs import Run, wilson
from benchmarks import serving_tables as tables
from benchmarks.serving import CALLS, Configuration, Measured
from cluster.serving_benches import _page, _write
from tests.measured import ENGINE, ladder


@pytest.fixture
def measured() -> Measured:
    """A ladder at 1 and 6 in flight, the teacher at 6 only, and one that is none of the paper's."""
    return ladder()


def test_the_latency_target_is_twice_what_bf16_takes_alone(measured: Measured) -> None:
    assert tables.target_of(measured) == pytest.approx(2 * 1 / 2.0)
    assert tables.target_of(Measured([Configuration("teacher", ENGINE)])) is None


def test_figures_have_their_names_and_take_the_place_of_older_ones_of_their_scale(
    tmp_path: Path, measured: Measured
) -> None:
    run = Run.create(tmp_path / "run", {}, "test")
    for scale in ("demo", "inflated"):
        run.record(f"bench.serving.{scale}.gone.queries_per_s@1", 1.0)
    tables.record(measured, run, "demo", 1.0)
    found = run.figures("bench.serving.demo")
    assert "bench.serving.demo.gone.queries_per_s@1" not in found
    assert list(run.figures("bench.serving.inflated")) == ["bench.serving.inflated.gone.queries_per_s@1"]
    over_bf16 = found["bench.serving.demo.drafted_quantized_over_bf16@1"]
    assert [over_bf16.value, over_bf16.n] == pytest.approx([5 / 2, 3])
    equal = found["bench.serving.demo.equal_outputs"]
    assert [equal.value, equal.n, equal.interval] == [5 / 6, 6, wilson(5, 6)]
    rate = found["bench.serving.demo.bf16.queries_per_s@6"]
    assert rate.value == pytest.approx(12.0) and rate.interval == pytest.approx((9.6, 14.4))
    assert rate.unit == "queries/s"
    assert found["bench.serving.demo.bf16.p90_s@6"].value == pytest.approx(0.5)
    assert found["bench.serving.demo.bf16.goodput@6"].value == pytest.approx(12.0)
    mgl = found["bench.serving.demo.drafted.mgl@1"]
    assert (mgl.value, mgl.n) == (3.5, 30)
    assert found["bench.serving.demo.turns.drafted_over_bf16@1"].value == pytest.approx(1.5)
    assert found["bench.serving.demo.drafted.turns_per_s@1"].unit == "turns/s"
    assert found["bench.serving.demo.target_s"].value == 1.0
    for name in ("bf16.mgl@1", "teacher.queries_per_s@1", "drafted_over_teacher@1", "bf16_over_bf16@1"):
        assert f"bench.serving.demo.{name}" not in found
    tables.record(measured, run, "inflated", None)
    found = run.figures("bench.serving.inflated")
    assert found["bench.serving.inflated.drafted_quantized_over_teacher@6"].value == pytest.approx(5.0)
    assert found["bench.serving.inflated.drafted_quantized_over_bf16@6"].value == pytest.approx(2.5)
    assert not any("goodput" in name or "target" in name for name in found)
    assert "bench.serving.demo.equal_outputs" in run.figures()


def rows(lines: Sequence[str]) -> dict[str, list[str]]:
    """The rows of a table by their first cell, the head by none."""
    cut = [[part.strip() for part in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {cells[0]: cells[1:] for cells in cut}


def test_table_1_has_the_paper_s_columns_beside_ours(measured: Measured) -> None:
    found = rows(tables.table_1(measured, 6, "title"))
    ours = ["P90, s", "queries/s", "x teacher", "x BF16", "MGL"]
    assert found.pop("") == [*ours, "paper: P90, s", "queries/s", "x teacher", "x BF16"]
    assert found["teacher"] == ["1", "6", "1", "0.5", "", "3.92", "1.46", "1.00", ""]
    assert found["quantized"] == ["0.333", "18", "3", "1.5", "", "", "", "2.50", ""]
    assert found["drafted_quantized"] == ["0.2", "30", "5", "2.5", "3.50", "0.92", "6.54", "4.48", "1.92"]
    assert found["five<i>"][5:] == [""] * 4
    assert list(found) == [one.name for one in measured.configurations]
    assert "teacher" not in rows(tables.table_1(measured, 1, "title"))


def test_table_2_has_the_drafters_by_their_data_and_is_left_out_without_them(measured: Measured) -> None:
    found = rows(tables.table_2(measured, 6))
    assert found == {"drafter": ["MGL", "x BF16", "paper: MGL", "x BF16"], "combined": ["3.50", "3", "3.80", "1.78"]}
    assert tables.table_2(Measured(measured.configurations[:5], measured.cells), 6) == []


def test_the_ladder_rises_from_the_teacher_beside_the_paper_s(measured: Measured) -> None:
    steps = tables.ladder(measured, 6)
    assert steps == [
        ("teacher", 1.0, 1.0), ("bf16", pytest.approx(2.0), 2.33), ("quantized", pytest.approx(3.0), 2.50),
        ("drafted", pytest.approx(4.0), None), ("drafted_quantized", pytest.approx(5.0), 4.48),
    ]  # fmt: skip
    assert rows(tables.ladder_lines(steps, 6))["drafted_quantized"] == ["5.00", "4.48"]
    assert tables.ladder(measured, 1) == [] and tables.ladder_lines([], 1) == []


def titled(lines: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """The tables of some lines by their titles."""
    places = [place for place, line in enumerate(lines) if line.startswith("**")]
    ends = [*places[1:], len(lines)]
    return {lines[place].strip("*"): rows(lines[place:end]) for place, end in zip(places, ends, strict=True)}


def test_curves_have_a_row_for_each_configuration_and_empty_cells_where_it_was_not_measured(
    measured: Measured,
) -> None:
    found = titled(tables.curves(measured, 0.7))
    assert list(found) == [
        "queries/s", "tokens/s", "P50, s", "P90, s", "queries/s within 0.7 s", "turns/s of conversations",
        "P50 of a turn, s", "P90 of a turn, s", "times bf16's queries/s", "times teacher's queries/s",
    ]  # fmt: skip
    calls = found["queries/s"]
    assert calls.pop("in flight") == ["1", "6"]
    assert list(calls) == [one.name for one in measured.configurations]
    assert (calls["teacher"], calls["bf16"]) == (["", "6"], ["2", "12"])
    assert found["queries/s within 0.7 s"]["teacher"] == ["", "0"]
    assert list(found["turns/s of conversations"]) == ["in flight", "bf16", "drafted"]
    assert found["times bf16's queries/s"]["teacher"] == ["", "0.50 [0.50, 0.50]"]
    assert "bf16" not in found["times bf16's queries/s"]
    assert found["times teacher's queries/s"]["bf16"] == ["", "2.00 [2.00, 2.00]"]
    calls_only = {at: one for at, one in measured.cells.items() if at[0] == CALLS and at[1] != "teacher"}
    found = titled(tables.curves(Measured(measured.configurations, calls_only), None))
    assert list(found) == ["queries/s", "tokens/s", "P50, s", "P90, s", "times bf16's queries/s"]


def test_tables_replays_and_curves_are_written(tmp_path: Path, measured: Measured) -> None:
    run = Run.create(tmp_path / "run", {}, "test")
    _write(run, measured, "inflated", 1.0)
    told = (run.root / "serving" / "inflated.md").read_text()
    assert "**Inflated models: the run's answers at the cost of larger ones, 6 in flight**" in told
    assert told.endswith("5 of 6 answers with a drafter are those without one.\n")
    whole = json.loads((run.root / "serving" / "inflated.json").read_text())
    assert (whole["target_s"], len(whole["cells"])) == (1.0, 7 * 2 - 1 + 2)
    drafted = next(one for one in whole["cells"] if (one["configuration"], one["in_flight"]) == ("drafted", 6))
    assert (drafted["mgl"], len(drafted["replays"])) == (3.5, 3)
    assert drafted["replays"][1]["latencies_s"] == [pytest.approx(6 / (4 * 6 * 0.8), abs=1e-4)] * 3
    assert drafted["replays"][1]["counts"]["accepted"] == 25
    assert (run.root / "serving" / "inflated.html").is_file()


def test_the_page_has_a_curve_of_each_configuration_and_escapes_names(tmp_path: Path, measured: Measured) -> None:
    run = Run.create(tmp_path / "a&b", {}, "test")
    page = _page(run, measured, "inflated", ["| five<i> | 1 |"])
    assert page.count("<svg") == 2
    assert page.count("<polyline") == 2 * len(measured.configurations)
    assert "five&lt;i&gt;" in page and "five<i>" not in page
    assert "a&amp;b" in page and "a&b" not in page
    assert "The models are inflated" in page and "The models are inflated" not in _page(run, measured, "demo", [])
    assert "nothing was recorded" in _page(run, Measured([]), "demo", [])
