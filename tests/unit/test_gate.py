"""Calibrating the complexity gate: the bound, what is counted, what is refused, the stage and the command."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from agentmill.plans.complexity import halstead
from agentmill.plans.parse import Plan
from agentmill.records import CALL_SCHEMA
from agentmill.runs import Run, RunError, wilson
from cluster.charts import LEFT
from cluster.config import RunConfig, config_of
from cluster.gate import calibrate_again, chart, print_calibration
from cluster.gate import run as run_stage
from cluster.runner import decide
from cluster.serving import served_system
from cluster.stages import stage_named
from simulation.gate import (
    GateSettings,
    NotCalibrated,
    calibrate,
    choose,
    miss_curve,
    needed_plans,
    read_calibration,
)
from simulation.judged import JudgedPlan, recorded_plans
from simulation.tables import compact, write_table

SIMPLE = 'hours = opening_hours(day="monday")'
COMPLEX = 'found = find_cars(body="suv", budget=20000)\nif found["count"]:\n    car = car_details(stock="A1")'
OK, BAD = '{"ok":true,"violations":[]}', '{"ok":false,"violations":["INCOMPLETE_PLAN"]}'


def plans(*groups: tuple[float, int, int]) -> list[JudgedPlan]:
    """(complexity, plans, of them rejected) -> plans, five to a conversation."""
    flat = [(complexity, i < bad) for complexity, n, bad in groups for i in range(n)]
    return [JudgedPlan(f"s{i // 5}", complexity, bad) for i, (complexity, bad) in enumerate(flat)]


def calibrated(rows: Sequence[JudgedPlan], **settings: Any) -> Any:
    return calibrate(rows, GateSettings(**settings), inputs="x")


def test_the_largest_threshold_within_the_bound_is_chosen() -> None:
    found = calibrated(plans((10.0, 400, 0), (20.0, 400, 1), (30.0, 100, 10), (40.0, 100, 50)))
    assert found.threshold == 20.0
    assert found.chosen.missed == 1
    assert found.saved == 0.8
    assert found.rejections_missed == 1 / 61
    assert found.chosen.miss_rate == 0.001
    assert found.chosen.bound == pytest.approx(0.00474, abs=5e-5)  # Clopper-Pearson, 1 of 1,000, 95 % one-sided
    assert found.chosen.interval == pytest.approx((0.0000253, 0.00556), abs=5e-6)


def test_a_tighter_bound_gives_a_lower_threshold_and_a_looser_one_a_higher() -> None:
    rows = plans((10.0, 400, 0), (20.0, 400, 1), (30.0, 100, 10), (40.0, 100, 50))
    thresholds = [calibrated(rows, max_miss_rate=rate).threshold for rate in (0.004, 0.01, 0.02, 0.1)]
    assert thresholds == [10.0, 20.0, 30.0, 40.0]


def test_where_the_simplest_plans_are_missed_too_often_everything_is_asked() -> None:
    found = calibrated(plans((10.0, 900, 50), (20.0, 100, 0)))
    assert (found.threshold, found.saved, found.chosen.missed) == (0.0, 0.0, 0)


def test_the_true_miss_rate_is_above_the_allowed_one_no_more_often_than_promised() -> None:
    """600 plans whose rejection grows with complexity, many times over; the truth is known for every threshold."""
    rng, draws, settings = random.Random(4), 300, GateSettings(max_miss_rate=0.03)
    shares = {float(c): 0.002 * c for c in range(1, 41)}
    wrong = 0
    for _ in range(draws):
        drawn = [float(rng.randint(1, 40)) for _ in range(600)]
        rows = [JudgedPlan("s", c, rng.random() < shares[c]) for c in drawn]
        threshold = choose(miss_curve(rows, settings.confidence), settings.max_miss_rate).threshold
        wrong += sum(share / 40 for c, share in shares.items() if c <= threshold) > settings.max_miss_rate
    low, _ = wilson(wrong, draws)
    assert low <= 1.0 - settings.confidence


def test_too_few_plans_for_the_bound_are_refused_with_the_number_that_is_needed() -> None:
    assert needed_plans(GateSettings()) == 299
    with pytest.raises(NotCalibrated, match=r"needs at least 299 judged plans.*this run has 298 .*simulate more"):
        calibrated(plans((10.0, 297, 0), (20.0, 1, 1)))
    assert calibrated(plans((10.0, 298, 0), (20.0, 1, 1))).threshold == 10.0


def test_without_a_rejected_plan_nothing_can_be_learnt() -> None:
    with pytest.raises(NotCalibrated, match=r"rejected none of 500 plans .*a teacher that errs"):
        calibrated(plans((10.0, 500, 0)))


@pytest.mark.parametrize("asked_above", [12.5, None])
def test_plans_that_were_recorded_behind_a_gate_are_refused(asked_above: float | None) -> None:
    with pytest.raises(NotCalibrated, match=r"simulate with system.complexity_threshold=0"):
        calibrate(plans((10.0, 500, 5)), GateSettings(), inputs="x", asked_above=asked_above)


def test_plans_that_err_together_widen_the_bootstrap_bound_and_that_is_told() -> None:
    alone = [JudgedPlan(f"s{i}", 10.0, i % 100 == 0) for i in range(2000)]
    together = [JudgedPlan(f"s{i // 20}", 10.0, i < 20) for i in range(2000)]
    bounds = [calibrated(rows, max_miss_rate=0.016).bootstrap_bound for rows in (alone, together)]
    assert bounds[0] < 0.016 < bounds[1]


class MadeRun:
    """A run directory whose simulation is made by hand: evaluator calls and nothing else."""

    def __init__(self, folder: Path) -> None:
        self.config = RunConfig(name=folder.name)
        self.run = Run.create(folder, self.config.resolved(), "test")
        self.rows: list[dict[str, Any]] = []

    def judged(self, plan: str, *outputs: tuple[str, str]) -> None:
        """One plan in a turn of its own; (status, output) of each attempt."""
        sid, index = f"s{len(self.rows)}", len(self.rows)
        self._call(sid, index, "planner", plan, "ok", "intent: x")
        for attempt, (status, output) in enumerate(outputs):
            self._call(sid, index + 1 + attempt, "evaluator", output, status, f"intent: x\nplan: {plan}")

    def _call(self, sid: str, index: int, agent: str, output: str, status: str, frame: str) -> None:
        messages = [{"role": "system", "content": agent}, {"role": "user", "content": frame}]
        self.rows.append(
            {
                "call_id": f"{sid}-0-{index}", "sid": sid, "turn": 0, "index": index, "agent": agent,
                "messages_json": compact(messages), "output": output, "status": status, "error": "", "model": "m",
                "prompt_tokens": 1, "completion_tokens": 1,
            }
        )  # fmt: skip

    def build(self) -> "MadeRun":
        half = len(self.rows) // 2
        for number, rows in enumerate((self.rows[:half], self.rows[half:])):
            table = pa.Table.from_pylist(rows, schema=CALL_SCHEMA)
            write_table(table, self.run.path("simulate", "calls", f"part-{number:05d}.parquet"))
        self.run.complete("simulate", "x", 1.0)
        return self


@pytest.fixture
def made(tmp_path: Path) -> MadeRun:
    """400 simple plans, none rejected, and 100 complex ones, 20 of them rejected."""
    made = MadeRun(tmp_path / "made")
    for i in range(500):
        made.judged(COMPLEX if i % 5 == 0 else SIMPLE, ("ok", BAD if i % 25 == 0 else OK))
    return made.build()


def test_each_recorded_plan_is_a_row_and_the_last_attempt_decides(tmp_path: Path) -> None:
    made = MadeRun(tmp_path / "attempts")
    made.judged(SIMPLE, ("invalid", "?"), ("ok", BAD))
    made.judged(SIMPLE, ("error", ""), ("invalid", "?"), ("invalid", "?"))
    made.judged(COMPLEX, ("ok", OK))
    found, unjudged = recorded_plans(made.build().run, "effort")
    assert unjudged == 1
    assert [(plan.complexity, plan.rejected) for plan in found] == [
        (halstead(Plan.parse(SIMPLE)).effort, True),
        (halstead(Plan.parse(COMPLEX)).effort, False),
    ]


def test_a_run_without_a_finished_simulation_is_refused(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "new", RunConfig().resolved(), "x")
    with pytest.raises(RunError, match=r"stage simulate is not finished.*--until simulate"):
        calibrate_again(run, RunConfig())


def test_the_stage_writes_the_calibration_that_serving_uses(made: MadeRun) -> None:
    run_stage(made.run, made.config)
    volume = halstead(Plan.parse(SIMPLE)).volume
    figures = made.run.figures("gate")
    assert figures["gate.threshold"].value == volume
    assert (figures["gate.saved"].value, figures["gate.saved"].n) == (0.8, 500)
    assert (figures["gate.miss_rate"].value, figures["gate.rejections_missed"].n) == (0.0, 20)
    system = served_system(made.run, made.config)
    assert (system.complexity_threshold, system.complexity_measure, system.shadow_share) == (volume, "volume", 0.05)
    written = json.loads(made.run.path("gate", "calibration.json").read_text())
    mark = made.run.completed("simulate")
    assert mark is not None
    assert (written["inputs"], written["plans"], len(written["curve"])) == (mark.digest, 500, 2)


def test_the_stage_leaves_the_gate_open_where_the_plans_allow_no_bound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = MadeRun(tmp_path / "few")
    for _ in range(5):
        made.judged(SIMPLE, ("ok", OK))
    run_stage(made.build().run, made.config)
    assert "left open" in capsys.readouterr().err
    assert made.run.figures()["gate.threshold"].value == 0.0
    assert "needs at least 299" in str(made.run.figures()["gate.open_because"].value)
    assert "gate.miss_rate" not in made.run.figures()
    assert served_system(made.run, made.config).complexity_threshold == 0.0


@pytest.mark.parametrize("by_hand", ["null", "55.5"])
def test_a_threshold_that_was_chosen_by_hand_for_serving_stays(made: MadeRun, by_hand: str) -> None:
    run_stage(made.run, made.config)
    config = config_of(made.run, [f"system.complexity_threshold={by_hand}"])
    assert served_system(made.run, config).complexity_threshold == config.system.complexity_threshold != 0.0


def test_the_command_calibrates_with_other_bounds_and_the_next_run_notices(made: MadeRun) -> None:
    other = config_of(made.run, ["gate.max_miss_rate=0.07", "gate.measure=difficulty"])
    found = calibrate_again(made.run, other)
    assert found.threshold == halstead(Plan.parse(COMPLEX)).difficulty
    assert found.chosen is not None and found.chosen.missed == 20
    assert read_calibration(made.run) == found
    assert decide(made.run, other, stage_named("gate")).verdict == "done"
    decision = decide(made.run, made.config, stage_named("gate"))
    assert decision.verdict == "again"
    assert "gate.max_miss_rate 0.07 -> 0.01" in decision.reason


def test_the_command_that_is_refused_leaves_the_run_as_it_was(made: MadeRun) -> None:
    found = calibrate_again(made.run, made.config)
    with pytest.raises(NotCalibrated, match=r"needs at least 29,956"):
        calibrate_again(made.run, config_of(made.run, ["gate.max_miss_rate=0.0001"]))
    assert read_calibration(made.run) == found
    assert made.run.completed("gate") is not None


def test_the_table_has_about_a_dozen_rows_and_marks_the_chosen_one(capsys: pytest.CaptureFixture[str]) -> None:
    found = calibrated(plans(*((float(i), 40, int(i > 20)) for i in range(1, 61))))
    print_calibration(found)
    shown = capsys.readouterr().out
    rows = [line for line in shown.splitlines() if "%" in line and "." in line and "gate" not in line][:-2]
    assert 10 <= len(rows) <= 14
    [chosen] = [row for row in rows if "chosen" in row]
    assert f" {found.threshold:.1f} " in chosen
    assert "allowed 1.00%" in shown


def test_the_chart_shows_misses_bound_and_what_is_allowed() -> None:
    drawn = str(chart(calibrated(plans((10.0, 400, 0), (20.0, 400, 1), (40.0, 100, 50)))))
    assert drawn.count("<polyline") == 3
    assert f'x1="{LEFT + 14}"' in drawn  # the curve rises to the right, so its key stands on the left
    for name in ("plans missed", "upper bound (95 %)", "allowed", "calls saved (%)"):
        assert name in drawn
