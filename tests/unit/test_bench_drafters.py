"""`agentmill bench drafter`: what it needs of a run, how long it trains, and its table."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agentmill.runs import Run
from benchmarks.drafters import NoResponses, _counted, _enough, table
from raytrain.settings import DrafterSettings


def answered(folder: Path, *agents: str) -> Run:
    run = Run.create(folder, {}, "test")
    pq.write_table(pa.table({"agent": list(agents)}), run.path("responses", "train.parquet"))
    return run


def test_a_run_needs_answers_and_some_to_real_dialogues(tmp_path: Path) -> None:
    assert _counted(answered(tmp_path / "both", "planner", "public", "planner")) == (1, 3)
    with pytest.raises(NoResponses, match=r"no prompts of real dialogues; run it with --set data.public=FILE"):
        _counted(answered(tmp_path / "calls", "planner"))
    with pytest.raises(NoResponses, match="has no responses: run it with --set drafter="):
        _counted(Run.create(tmp_path / "none", {}, "test"))


def test_few_rows_are_seen_more_often() -> None:
    settings = DrafterSettings()
    tokens = 100 * settings.worker.workers * settings.tokens_per_batch
    for rows in (10, 1000):
        assert _enough(settings, 100, rows) * rows * 40 > tokens
    assert _enough(settings, 100, 10) > _enough(settings, 100, 1000)


def test_sources_stand_beside_each_other_and_the_paper(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {}, "test")
    for source, value in (("external", 1.2), ("synthetic", 3.3)):
        run.record(f"drafter.{source}.mgl", value, n=10)
        run.record(f"drafter.{source}.planner.mgl", value + 0.1, n=5)
    lines = table({source: run.figures(f"drafter.{source}") for source in ("external", "synthetic")})
    assert [line.split() for line in lines] == [
        ["data", "all", "planner", "paper"],
        ["external", "1.200", "1.300"],
        ["synthetic", "3.300", "3.400", "3.53"],
    ]
