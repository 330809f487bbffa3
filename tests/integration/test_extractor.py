"""The student's states from a real vLLM engine on the CPU, beside those that a worker computes itself."""

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from transformers import PreTrainedModel

from agentmill.runs import Run
from raytrain import attention
from raytrain.batches import Plan
from raytrain.data import TokenRows
from raytrain.drafter.acceptance import accepted_by_row
from raytrain.drafter.extractor import engines
from raytrain.drafter.model import load_drafter_for_scoring
from raytrain.drafter.sources import Online, Row, Source, Streamed
from raytrain.drafter.stage import STAGE, _record_waiting
from raytrain.drafter.states import States, student_states
from raytrain.hardware import Placement
from raytrain.inputs import prepare
from raytrain.job import HELDOUT, Job
from raytrain.packing import PackedCollator, best_fit
from raytrain.reference import load_for_scoring
from raytrain.settings import DrafterSettings, WorkerSettings
from raytrain.site import DEFAULT_SITE
from raytrain.stage import job_of, train_stage
from raytrain.steplog import WAITED, read_steps
from tests.practice import practice_run

STEPS = 6
SETTINGS = DrafterSettings(
    worker=WorkerSettings(workers=1, threads=1, device="cpu"),
    states="engine",
    tokens_per_batch=512,
    max_steps=STEPS,
    patience=None,
    source="synthetic",
    contract=False,
)
BF16, FP32 = (Placement(device="cpu", threads=1, precision=precision) for precision in ("bf16", "fp32"))
TOGETHER = 1024


@pytest.fixture(scope="module")
def run(ray_local: None, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return practice_run(tmp_path_factory.mktemp("extractor") / "run", tiny_model_dir)


@pytest.fixture(scope="module")
def job(run: Run) -> Iterator[Job]:
    """A job whose engine is there, and reads at most 512 tokens at a time: packs of TOGETHER are read in chunks."""
    attention.register()
    job = job_of(run, STAGE, SETTINGS, "base", 1, DEFAULT_SITE)
    prepare(run, STAGE, job)
    STAGE.ready(run, job)
    with STAGE.beside_workers(job):
        yield job


@pytest.fixture(scope="module")
def rows(job: Job) -> TokenRows:
    return TokenRows.load(job.sets[HELDOUT])


@pytest.fixture(scope="module")
def engine(job: Job, drafter: PreTrainedModel) -> Streamed:
    width = drafter.config.transformer_layer_config.hidden_size
    return Streamed(engines(job), SETTINGS.engine.ahead, width, torch.device("cpu"))


@pytest.fixture(scope="module")
def drafter(job: Job) -> PreTrainedModel:
    return load_drafter_for_scoring(job.untrained, BF16)


@pytest.fixture(scope="module")
def packs(rows: TokenRows) -> Plan:
    return best_fit(rows.lengths, np.arange(len(rows)), TOGETHER)


def side_by_side(states: Iterable[States]) -> torch.Tensor:
    """[tokens, (layers + 1) * width], of all rows."""
    return torch.cat([torch.cat([seen.hidden, seen.last], dim=-1)[0] for seen in states]).double()


def states_of(source: Source, packed: Iterable[Row]) -> torch.Tensor:
    return side_by_side(seen for _, seen in source.each(packed))


def test_the_engine_has_the_students_states(
    job: Job, rows: TokenRows, packs: Plan, drafter: PreTrainedModel, engine: Streamed
) -> None:
    """In bf16 it is as far from the exact ones as the student itself is."""
    packed = [PackedCollator(rows, 0).tensors(pack) for pack in packs]
    student, layers = load_for_scoring(job.start, FP32), drafter.target_layer_ids
    exact = side_by_side(student_states(student, layers, row) for row in packed)
    online, streamed = (states_of(source, packed) for source in (Online(drafter, BF16), engine))
    assert len(streamed) == rows.lengths.sum()
    off, usual = ((states - exact).norm(dim=-1) / exact.norm(dim=-1) for states in (streamed, online))
    assert off.mean() < 1.25 * usual.mean()
    assert off.max() < 2 * usual.max()


def test_it_accepts_as_many_drafts(rows: TokenRows, packs: Plan, drafter: PreTrainedModel, engine: Streamed) -> None:
    means = []
    for source in (Online(drafter, BF16), engine):
        counts = [n for _, lengths in accepted_by_row(drafter, rows, packs, 3, source) for n in lengths]
        means.append(1 + sum(counts) / len(counts))
    assert means[1] == pytest.approx(means[0], rel=0.02)
    assert means[0] > 1.1


def test_so_many_batches_are_on_their_way_and_no_more(job: Job, rows: TokenRows, packs: Plan, engine: Streamed) -> None:
    asked = 0

    def packed() -> Iterator[Row]:
        nonlocal asked
        for pack in packs:
            asked += 1
            yield PackedCollator(rows, 0).tensors(pack)

    ahead = SETTINGS.engine.ahead
    for taken, (row, seen) in enumerate(engine.each(packed()), start=1):
        assert asked == min(taken + ahead, len(packs))
        assert seen.last.shape[1] == row["input_ids"].shape[1]
    assert taken == len(packs) > ahead + 1
    assert engine.waited_s > 0


def test_a_dead_engine_is_started_again_and_asked_again(
    job: Job, rows: TokenRows, packs: Plan, engine: Streamed
) -> None:
    (actor,), packed = engines(job), PackedCollator(rows, 0).tensors(packs[0])
    before = states_of(engine, [packed])
    process = ray.get(actor.__ray_call__.remote(lambda _: os.getpid()))
    os.kill(process, signal.SIGKILL)
    torch.testing.assert_close(states_of(engine, [packed]), before)
    assert ray.get(actor.__ray_call__.remote(lambda _: os.getpid())) != process


def test_a_stage_trains_on_streamed_states(run: Run, job: Job) -> None:
    train_stage(run, replace(STAGE, beside_workers=lambda job: nullcontext()), SETTINGS, start="base", seed=1)
    _record_waiting(run)
    figures = {name: float(figure.value) for name, figure in run.figures().items()}
    log = read_steps(run.root / "logs" / "drafter.jsonl")
    assert [row["step"] for row in log] == list(range(1, STEPS + 1))
    assert log[-1]["loss"] < log[0]["loss"]
    assert figures["train.drafter.waited"] == pytest.approx(sum(row[WAITED] for row in log) / log[-1]["seconds"])
    assert 0 < figures["train.drafter.waited"] < 1
    assert figures["train.drafter.heldout_accepted_at_1"] > 0.1
