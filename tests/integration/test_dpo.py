"""The stage dpo on a local Ray with two real workers: both ways to the reference, what is measured, what is refused."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agentmill.runs import Run
from raytrain import dpo
from raytrain.data import CorpusError
from raytrain.settings import DpoSettings, LoraSettings, WorkerSettings
from raytrain.steplog import read_steps
from tests.survival import a_worker_killed, largest_difference, losses
from tests.tiny_llama import write_tiny_llama

STEPS = 12
SETTINGS = DpoSettings(
    worker=WorkerSettings(workers=2, threads=1, device="cpu", precision="fp32"),
    lora=LoraSettings(rank=8, alpha=16),
    learning_rate=5e-3,
    max_steps=STEPS,
    tokens_per_batch=1024,
    max_length=160,
)
AGENTS = ("planner", "understander")


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    found = []
    for i in range(count):
        name = "".join(draw.choice("abcdefgh") for _ in range(draw.randint(3, 12)))
        found.append(
            {
                "prompt": [{"role": "user", "content": f"customer: my name is {name}"}],
                "chosen": [{"role": "assistant", "content": f'{{"name": "{name}"}}'}],
                "rejected": [{"role": "assistant", "content": f"name {name.upper()}, I think"}],
                "completion": [{"role": "assistant", "content": f'{{"name": "{name}"}}'}],
                "agent": draw.choice(AGENTS),
                "source": "hand" if i % 4 == 0 else "judge",
            }
        )
    return found


def new_run(folder: Path) -> Run:
    """A run directory as the stages before dpo leave it; the start is a random model."""
    run = Run.create(folder, {}, "test")
    for split, count, seed in (("train", 200, 1), ("heldout", 30, 2)):
        pq.write_table(pa.Table.from_pylist(rows(count, seed)), run.path("corpora", "dpo", f"{split}.parquet"))
        pq.write_table(pa.Table.from_pylist(rows(count, seed)), run.path("corpora", "sft", f"{split}.parquet"))
    write_tiny_llama(run.path("models", "sft"))
    return run


def trained(folder: Path, **fields: Any) -> Run:
    run = new_run(folder)
    dpo.run(run, SETTINGS.model_copy(update=fields), start="sft", seed=1)
    return run


def log(run: Run) -> list[dict[str, Any]]:
    return read_steps(run.root / "logs" / "dpo.jsonl")


@pytest.fixture(scope="module")
def finished(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose reference is the model with its adapter off, under ZeRO 3, which gathers weights for both passes."""
    sharded = SETTINGS.worker.model_copy(update={"zero_stage": 3})
    return trained(tmp_path_factory.mktemp("live") / "run", worker=sharded)


def test_heldout_pairs_are_told_apart_by_every_agent(finished: Run) -> None:
    value = {name: float(figure.value) for name, figure in finished.figures("train").items()}
    assert value["train.dpo.heldout_loss"] < np.log(2)
    assert value["train.dpo.heldout_accuracy"] > 0.9
    assert value["train.dpo.heldout_ranking"] >= value["train.dpo.start.heldout_ranking"]
    for agent in AGENTS:
        assert value[f"train.dpo.{agent}.heldout_margin"] > 0
    for side in ("chosen", "rejected"):
        moved = value[f"train.dpo.heldout_{side}_logp"] - value[f"train.dpo.start.heldout_{side}_logp"]
        assert value[f"train.dpo.heldout_{side}_change"] == pytest.approx(moved, abs=1e-2)
    assert "train.dpo.start.heldout_margin" not in value
    assert {"train.dpo.sft_heldout_loss", "train.dpo.start.sft_heldout_loss", "train.dpo.general_loss"} <= set(value)
    assert (value["train.dpo.train_rows.hand"], value["train.dpo.train_rows.judge"]) == (50, 150)


def test_the_first_step_stands_at_the_reference_and_the_log_has_every_agent(finished: Run) -> None:
    steps = log(finished)
    assert [row["step"] for row in steps] == list(range(1, STEPS + 1))
    assert steps[0]["loss"] == pytest.approx(np.log(2), abs=1e-5)
    assert steps[0]["pairs/margin"] == pytest.approx(0, abs=1e-5)
    assert steps[-1]["pairs/margin"] > 0.01
    for agent in AGENTS:
        assert steps[-1][f"{agent}/loss"] < np.log(2)


def test_precomputed_references_train_the_same_model(finished: Run, tmp_path: Path) -> None:
    before = trained(tmp_path / "run", precompute_reference=True)
    assert [row["loss"] for row in log(before)] == pytest.approx([row["loss"] for row in log(finished)], abs=1e-4)
    for name in ("train.dpo.heldout_margin", "train.dpo.heldout_chosen_change", "train.dpo.sft_heldout_loss"):
        assert before.figures()[name].value == pytest.approx(finished.figures()[name].value, abs=1e-2)


def test_a_pair_that_is_too_long_stops_the_stage_when_asked(ray_local: None, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"of 200 pairs of train.parquet are longer than dpo.max_length=60"):
        trained(tmp_path / "run", max_length=60, overflow="error")


def test_a_killed_worker_changes_no_loss(finished: Run, tmp_path: Path) -> None:
    run, settings = new_run(tmp_path / "run"), SETTINGS.model_copy(update={"save_every_steps": 4})
    with a_worker_killed(run, "dpo", step=5):
        dpo.run(run, settings, start="sft", seed=1)
    assert largest_difference(losses(run, "dpo"), losses(finished, "dpo")) < 1e-4
