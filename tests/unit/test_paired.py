"""Two models on the same scenarios and calls: what is claimed, and what is not."""

from pathlib import Path

import pytest

from agentmill.runs import Run
from simulation import paired
from simulation.paired import Paired, holm, mcnemar
from tests.evaluated import evaluated


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run.create(tmp_path / "one", {}, "test")
    both = {f"s{i}": i < 5 for i in range(50)}
    evaluated(run, "base", both, {f"c{i}": False for i in range(40)})
    evaluated(run, "sft", dict.fromkeys(both, True), {f"c{i}": i < 3 for i in range(40)})
    return run


def test_models_are_compared_on_what_both_met(run: Run) -> None:
    found = paired.compare(run, "sft", "base")
    assert (found["success"].n, found["success"].gained, found["success"].lost) == (50, 45, 0)
    assert found["success"].difference == 0.9
    assert found["planner.equivalent"].difference == 3 / 40
    evaluated(run, "base", {"s1": False, "other": True}, {"c1": False})
    assert paired.compare(run, "sft", "base")["success"].n == 1


def test_a_difference_that_chance_can_make_is_not_claimed(run: Run) -> None:
    found = paired.record(run, "sft", "base")
    assert found["success"].p < 1e-9
    assert found["planner.equivalent"].p == pytest.approx(0.25)  # three heads of a fair coin, two-sided
    figures = run.figures("evaluate.sft.versus.base")
    assert figures["evaluate.sft.versus.base.success"].value == 0.9
    assert figures["evaluate.sft.versus.base.planner.equivalent.p"].n == 3


@pytest.mark.parametrize(
    ("gained", "lost", "p"), [(0, 0, 1.0), (5, 5, 1.0), (1, 0, 1.0), (6, 0, 2 / 64), (8, 1, 20 / 512)]
)
def test_mcnemars_test_is_exact(gained: int, lost: int, p: float) -> None:
    assert mcnemar(gained, lost) == pytest.approx(p)


def test_holm_multiplies_the_smallest_by_all_and_never_falls() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == {"b": 1.0, "a": 1.0}
    assert holm({}) == {}


def test_the_interval_holds_the_difference_and_stays_within_its_range() -> None:
    for one in (Paired(50, 45, 0, 0), Paired(50, 0, 50, 0), Paired(50, 0, 0, 1), Paired(20, 3, 1, 1)):
        low, high = one.interval
        assert -1 <= low <= one.difference <= high <= 1
        assert low < high
    low, high = Paired(50, 0, 0, 1).interval
    assert low == pytest.approx(-high)
