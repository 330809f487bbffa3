"""`agentmill bench drafter`: what it needs of a run, what it makes of the answers, and its table."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agentmill.runs import Run
from benchmarks import drafters
from benchmarks.drafters import Drafted, Extent, NoResponses, _counted, bench_drafters, estimates, table
from raytrain.settings import DrafterSettings
from raytrain.site import DEFAULT_SITE


def answered(folder: Path, *agents: str) -> Run:
    run = Run.create(folder, {}, "test")
    for file in ("train", "public_heldout") if "public" in agents else ("train",):
        pq.write_table(pa.table({"agent": list(agents)}), run.path("responses", f"{file}.parquet"))
    return run


def drafted(gains: int, answers: int = 40) -> Drafted:
    """Answers of 12 tokens; the first half took 6 passes each, the others `gains` fewer."""
    passes = np.where(np.arange(answers) < answers // 2, 6, 6 - gains)
    counts = np.stack([np.full(answers, 12), passes], axis=1)
    return Drafted({}, counts, counts[: answers // 2])


def test_a_run_needs_answers_and_some_to_real_dialogues(tmp_path: Path) -> None:
    assert _counted(answered(tmp_path / "both", "planner", "public", "planner")) == (1, 3)
    with pytest.raises(NoResponses, match=r"no prompts of real dialogues; run it with --set data.public=FILE"):
        _counted(answered(tmp_path / "calls", "planner"))
    with pytest.raises(NoResponses, match="has no responses: run it with --set drafter="):
        _counted(Run.create(tmp_path / "none", {}, "test"))


def test_each_source_has_the_same_passes_over_its_own_rows_and_no_cap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run's own `max_steps` and early stop would let the larger sources see their rows less often."""
    trained: list[tuple[DrafterSettings, int]] = []

    def train(folder: Path, source: Run, student: str, settings: DrafterSettings, seed: int, site: Any) -> Drafted:
        trained.append((settings, seed))
        return drafted(len(trained))

    monkeypatch.setattr(drafters, "_trained", train)
    monkeypatch.setenv("AGENTMILL_BENCH_RUN", str(tmp_path / "bench"))
    source = answered(tmp_path / "run", "planner", "public", "planner")
    settings = DrafterSettings(max_steps=5, epochs=1, patience=2)
    run = bench_drafters(tmp_path, source, "dpo", settings, Extent(epochs=4, seed=9), DEFAULT_SITE)
    assert sorted(one.source for one, _ in trained) == ["combined", "external", "synthetic"]
    assert {(one.epochs, one.max_steps, one.patience, seed) for one, seed in trained} == {(4, None, None, 9)}
    assert [one.contract for one, _ in trained] == [True, False, False]
    assert {"drafter.combined.mgl", "drafter.combined.mixed.mgl", "drafter.external.public.mgl"} <= set(run.figures())


def test_both_sets_together_count_by_their_share() -> None:
    made = {name: drafted(2) for name in ("external", "synthetic", "combined")}
    found, between = estimates(made, share=0.25)
    assert found["drafter.combined.mgl"].value == pytest.approx(12 / 5)
    assert found["drafter.combined.public.mgl"].value == pytest.approx(12 / 6)
    assert found["drafter.combined.mixed.mgl"].value == pytest.approx(12 / (0.75 * 5 + 0.25 * 6))
    assert all(one.value == 0 and one.interval == (0, 0) for one in between.values())


def test_answers_are_drawn_alike_for_all_sources() -> None:
    """Apart, the intervals of two sources overlap; over the same answers the better one is never below the other."""
    made = {"external": drafted(0), "synthetic": drafted(2), "combined": drafted(3)}
    found, between = estimates(made, share=0.2)
    assert found["drafter.combined.mgl"].interval[0] < found["drafter.synthetic.mgl"].interval[1]
    one = between["drafter.difference.combined_synthetic.calls"]
    assert one.interval[0] > 0 and one.interval[0] < one.value < one.interval[1]
    assert one.n == 40
    assert between["drafter.difference.combined_synthetic.public"].interval == (0, 0)


def test_sources_stand_beside_each_other_and_the_paper(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {}, "test")
    for source, value in (("external", 1.2), ("synthetic", 3.3)):
        run.record(f"drafter.{source}.mgl", value, n=10)
        run.record(f"drafter.{source}.planner.mgl", value + 0.1, n=5)
        run.record(f"drafter.{source}.steps", 40)
    lines = table({source: run.figures(f"drafter.{source}") for source in ("external", "synthetic")})
    assert [line.split() for line in lines] == [
        ["data", "steps", "calls", "planner", "paper"],
        ["external", "40", "1.200", "1.300"],
        ["synthetic", "40", "3.300", "3.400", "3.53"],
    ]
