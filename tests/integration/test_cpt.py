"""The stage cpt on a local Ray with two real workers: packed rows through a curriculum, and what is measured of it."""

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agentmill.config import UserError
from agentmill.runs import Run
from raytrain import cpt
from raytrain.settings import CptSettings, PhaseSettings, WorkerSettings
from raytrain.steplog import read_steps
from tests.survival import a_worker_killed, largest_difference, losses
from tests.tiny_llama import write_tiny_llama

SETTINGS = CptSettings(
    worker=WorkerSettings(workers=2, threads=1, device="cpu", zero_stage=2, gradient_checkpointing=True),
    learning_rate=1e-2,
    max_length=256,
    curriculum=(PhaseSettings(length=128), PhaseSettings(length=256)),
    tokens_per_batch=512,
    tokens_per_step=2048,
    log_every_steps=1,
)


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Documents about a name that their context gives; one in ten is longer than any phase."""
    draw, result = random.Random(seed), []
    for index in range(count):
        name = "".join(draw.choice("abcdefgh") for _ in range(8))
        text = f"{name} is open. " * (draw.randint(1, 5) if index % 10 else 20)
        result.append(
            {
                "prompt": [{"role": "user", "content": f"name: {name}"}],
                "completion": [{"role": "assistant", "content": text.strip()}],
                "agent": "document" if index % 2 else "dialogue",
                "source": "documents",
            }
        )
    return result


def new_run(folder: Path) -> Run:
    """A run directory as the stages before cpt leave it."""
    run = Run.create(folder, {}, "test")
    for name, count, seed in (("train", 400, 1), ("heldout", 40, 2)):
        pq.write_table(pa.Table.from_pylist(rows(count, seed)), run.path("corpora", "cpt", f"{name}.parquet"))
    write_tiny_llama(run.path("models", "base"))
    return run


@pytest.fixture(scope="module")
def finished(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = new_run(tmp_path_factory.mktemp("cpt") / "run")
    cpt.run(run, SETTINGS, seed=1)
    return run


def figures(run: Run) -> dict[str, float]:
    return {name.removeprefix("train.cpt."): float(f.value) for name, f in run.figures("train").items()}


def test_steps_hold_the_same_tokens_in_both_phases(finished: Run) -> None:
    totals = [0, *(row["tokens"] for row in read_steps(finished.root / "logs" / "cpt.jsonl"))]
    steps = [after - before for before, after in pairwise(totals)]
    assert len(steps) > 8
    assert max(steps) <= 2048
    assert sum(tokens < 0.9 * 2048 for tokens in steps) <= 2  # what is left over of each phase


def test_split_documents_are_counted_and_nothing_is_dropped(finished: Run) -> None:
    value = figures(finished)
    assert value["train_split"] == 40
    assert value["train_dropped"] == 0
    assert value["train_rows"] > 400


def test_the_loss_falls_and_is_known_by_position_with_and_without_context(finished: Run) -> None:
    value = figures(finished)
    assert value["heldout_loss"] < 0.8 * value["start.heldout_loss"]
    assert value["heldout_loss"] < value["heldout_without_context_loss"] + 0.05
    for place in ("", "start."):
        for name in ("heldout", "heldout_without_context"):
            assert {f"{place}{name}_loss_from_{2**i}" for i in range(8)} <= value.keys()
    for group in ("document", "dialogue"):
        assert value[f"{group}.heldout_loss"] < value[f"start.{group}.heldout_loss"]


def test_new_blocks_without_any_are_an_error_before_training(finished: Run) -> None:
    with pytest.raises(UserError, match=r"no new blocks.*cpt.train=all"):
        cpt.run(finished, SETTINGS.model_copy(update={"train": "new_blocks"}), seed=1)
    assert figures(finished)["steps"] == read_steps(finished.root / "logs" / "cpt.jsonl")[-1]["step"]


def test_a_killed_worker_changes_no_loss(finished: Run, tmp_path: Path) -> None:
    run, settings = new_run(tmp_path / "run"), SETTINGS.model_copy(update={"save_every_steps": 4})
    with a_worker_killed(run, "cpt", step=5):
        cpt.run(run, settings, seed=1)
    assert largest_difference(losses(run, "cpt"), losses(finished, "cpt")) < 1e-4
