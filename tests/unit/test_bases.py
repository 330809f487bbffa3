"""`agentmill bench base`: what is read of each fine-tuning, and a run without corpora."""

from pathlib import Path

import pytest

from agentmill.config import UserError
from agentmill.runs import Run
from benchmarks.bases import bench_bases, record_base
from raytrain.settings import SftSettings


def test_both_losses_of_every_agent_are_recorded_under_the_base(tmp_path: Path) -> None:
    run, figures = (Run.create(tmp_path / name, {}, "test") for name in ("one", "bench"))
    run.record("train.sft.tokens_per_s", 5000.0, n=10, unit="tokens/s")
    for name, value in (("heldout_loss", 0.5), ("planner.heldout_loss", 0.25)):
        run.record(f"train.sft.start.{name}", value * 4, n=7, unit="nats/token")
        run.record(f"train.sft.{name}", value, n=7, unit="nats/token")
    run.record("train.sft.general_loss", 1.0, n=3, unit="nats/token")
    record_base(figures, "wide", run)
    found = {name: figure.value for name, figure in figures.figures("bench.base").items()}
    assert found == {
        "bench.base.wide.tokens_per_s": 5000.0,
        "bench.base.wide.all.before": 2.0,
        "bench.base.wide.all.after": 0.5,
        "bench.base.wide.planner.before": 1.0,
        "bench.base.wide.planner.after": 0.25,
    }


def test_a_run_without_corpora_is_told_what_to_do(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "empty", {}, "test")
    with pytest.raises(UserError, match="--until corpora"):
        bench_bases(run, {"base": tmp_path}, SftSettings(), tmp_path / "runs", seed=0)
