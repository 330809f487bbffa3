"""The sweep over merge weights: which points stand on the front, which one is taken, and what is told."""

import json
import math
from pathlib import Path

import pytest

from agentmill.config import ConfigError, override, validate
from agentmill.runs import Run
from cluster import merging
from cluster.charts import Spot, trade
from cluster.config import RunConfig
from cluster.merging import Swept, assignment, merges_of, next_step, stage_of, table
from raytrain.settings import DpoSettings, MergeSettings
from raytrain.sweep import Loss, Point, SweepError, choose, end_of, file_name, front, kept_job, losses_of


def point(weight: float, domain: float, general: float) -> Point:
    return Point(MergeSettings(weight=weight), {"heldout": Loss(domain, 100), "general": Loss(general, 50)})


POINTS = [point(0, 2.0, 1.0), point(0.25, 1.0, 0.98), point(0.5, 0.6, 1.01), point(0.75, 0.7, 1.2), point(1, 0.5, 1.5)]


def swept(**changes: object) -> Swept:
    given = {"stage": "sft", "points": POINTS, "best": front(POINTS), "pick": POINTS[2], "chosen_by": "a rule"}
    return Swept(**{**given, **changes})  # type: ignore[arg-type]


def test_the_front_is_what_no_other_point_beats_in_both_losses() -> None:
    assert [p.merge.weight for p in front(POINTS)] == [0.25, 0.5, 1]


def test_the_pick_costs_at_most_what_was_allowed() -> None:
    assert [choose(POINTS, cost).merge.weight for cost in (0, 0.02, 0.3, 0.5)] == [0.25, 0.5, 0.5, 1]


def test_where_every_merge_costs_too_much_the_start_is_taken() -> None:
    assert choose([POINTS[0], POINTS[4]], 0.1).merge.weight == 0


def test_the_ends_are_models_that_the_stage_has_scored() -> None:
    ends = [end_of(MergeSettings(method="linear", weight=weight)) for weight in (0, 0.5, 1)]
    assert ends == ["start", None, "end"]
    assert end_of(MergeSettings(method="ties", weight=1)) is None
    assert end_of(MergeSettings(method="ties", weight=1, density=1)) == "end"


def test_the_start_of_a_preference_stage_loses_what_a_coin_does() -> None:
    """It is DPO's reference: there is no loss of it to measure, because every margin is 0."""
    ranking = {"planner": [3.0, 4.0], "explainer": [1.0, 2.0]}
    losses = losses_of({"heldout": {"ranking": ranking}, "general": {"loss": {"general": [5.0, 10.0]}}})
    assert losses == {"heldout": Loss(math.log(2), 6), "general": Loss(0.5, 10)}


def test_each_merge_has_its_own_file() -> None:
    merges = [
        MergeSettings.model_validate({"method": method, "weight": weight, "density": density})
        for method, density in (("linear", 0.2), ("slerp", 0.2), ("ties", 0.2), ("ties", 0.5))
        for weight in (0.1, 0.25)
    ]
    assert len({file_name(merge) for merge in merges}) == len(merges)


def test_weights_are_read_in_order_and_the_start_is_always_there() -> None:
    assert [merge.weight for merge in merges_of("slerp", "1, 0.5,0.25", 0.2)] == [0, 0.25, 0.5, 1]


@pytest.mark.parametrize(
    ("method", "weights", "wrong"),
    [("linear", "a,b", "is no list of numbers"), ("linear", "0,2", "weight=2"), ("mean", "0,1", "method='mean'")],
)
def test_wrong_values_are_named(method: str, weights: str, wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        merges_of(method, weights, 0.2)


def test_a_pick_that_is_not_measured_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "one", RunConfig().resolved(), "agentmill run local.yaml")
    with pytest.raises(ConfigError, match=r"--pick 0.7 is none of --weights 0,0.5,1"):
        merging.sweep_run(run, "sft", "linear", "0,0.5,1", 0.2, 0.02, 0.7)


def test_the_last_trained_stage_is_meant_unless_one_is_named(tmp_path: Path) -> None:
    config = RunConfig(dpo=DpoSettings(), cpt=None)
    run = Run.create(tmp_path / "one", config.resolved(), "test")
    assert stage_of(run, None) == "dpo"
    assert stage_of(run, "sft") == "sft"
    with pytest.raises(ConfigError, match="--stage cpt is no stage that this run trains; it trains sft, dpo"):
        stage_of(run, "cpt")


def test_a_run_without_a_trained_model_is_told_to_train_first(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="do the stage first"):
        kept_job(Run.create(tmp_path / "one", {}, "test"), "sft")


def test_the_table_has_a_line_a_weight_and_names_the_pick() -> None:
    lines = table(swept())
    assert len(lines) == 1 + len(POINTS)
    assert lines[3].split() == ["0.5", "0.6000", "1.0100", "on", "the", "front", "<-", "the", "pick"]


@pytest.mark.parametrize(
    "merge",
    [MergeSettings(method="slerp", weight=0.3), MergeSettings(method="ties", weight=1, density=0.5), None],
)
def test_the_line_for_the_next_run_gives_that_very_merge(tmp_path: Path, merge: MergeSettings | None) -> None:
    line = assignment("sft", merge or MergeSettings(weight=1))
    config = validate(RunConfig, override(RunConfig().resolved(), [line]), "test")
    assert config.sft.merge == merge
    run = Run.create(tmp_path / "one", {}, "agentmill run local.yaml")
    assert next_step(run, swept())[1].startswith("  agentmill run local.yaml --set 'sft.merge=")


def test_pick_figures_and_page_are_written(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "one", {}, "agentmill run local.yaml")
    merging._record(run, swept())
    figures = run.figures("merge.sft")
    assert figures["merge.sft.linear.w25.heldout_loss"].value == 1.0
    assert figures["merge.sft.pick.weight"].value == 0.5
    pick = json.loads((run.root / "merge" / "sft" / "pick.json").read_text())
    assert pick["set"] == "sft.merge={method: linear, weight: 0.5}"
    page = merging._page(run, swept())
    assert page.count("<circle") == len(POINTS)
    assert "--set" in page


def test_labels_of_a_chart_are_escaped() -> None:
    spot = Spot("<b>", 1.0, 2.0)
    drawn = trade([spot], [spot], x_label="x", y_label="y")
    assert "<b>" not in drawn
    assert "nothing was measured" in trade([], [], x_label="x", y_label="y")
