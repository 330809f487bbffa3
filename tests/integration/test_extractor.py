"""The student's states from a real vLLM engine on the CPU, beside those that a worker computes itself."""

import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from transformers import AutoTokenizer, PreTrainedModel

from agentmill.runs import Run
from raytrain import attention
from raytrain.batches import Plan
from raytrain.data import TokenRows, tokenise
from raytrain.drafter import stage
from raytrain.drafter.acceptance import accepted_by_row
from raytrain.drafter.extractor import engines, extractors
from raytrain.drafter.model import load_drafter_for_scoring, make_drafter
from raytrain.drafter.sources import Online, Row, Source, Streamed
from raytrain.hardware import Placement
from raytrain.job import DRAFTER, Job
from raytrain.packing import PackedCollator, best_fit
from raytrain.settings import DrafterSettings, WorkerSettings
from raytrain.steplog import WAITED, read_steps
from tests.practice import practice_run

STEPS = 6
SETTINGS = DrafterSettings(
    worker=WorkerSettings(workers=2, threads=1, device="cpu"),
    states="engine",
    max_steps=STEPS,
    patience=None,
    source="synthetic",
    contract=False,
)
BF16, FP32 = (Placement(device="cpu", threads=1, precision=precision) for precision in ("bf16", "fp32"))
TOGETHER = 2048


@pytest.fixture(scope="module")
def run(ray_local: None, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return practice_run(tmp_path_factory.mktemp("extractor") / "run", tiny_model_dir)


@pytest.fixture(scope="module")
def rows(run: Run, tiny_model_dir: Path) -> TokenRows:
    attention.register()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    return tokenise(DRAFTER, run.path("responses", "heldout.parquet"), tokenizer, 512, "drop")[0]


@pytest.fixture(scope="module")
def job(run: Run, rows: TokenRows, tiny_model_dir: Path) -> Iterator[Job]:
    """A job whose engine is there, and reads at most 512 tokens at a time: packs of TOGETHER are read in chunks."""
    settings = SETTINGS.model_copy(update={"tokens_per_batch": 512})
    job = Job(DRAFTER, "", run.root / "work", tiny_model_dir, run.root / "log", settings, BF16, (), 1, 1)
    make_drafter(tiny_model_dir, settings, rows, job.untrained, seed=1)
    with extractors(job):
        yield job


@pytest.fixture(scope="module")
def engine(job: Job, drafter: PreTrainedModel) -> Streamed:
    width = drafter.config.transformer_layer_config.hidden_size
    return Streamed(engines(job), job.settings.engine.ahead, width, torch.device("cpu"))


@pytest.fixture(scope="module")
def drafter(job: Job) -> PreTrainedModel:
    return load_drafter_for_scoring(job.untrained, BF16)


@pytest.fixture(scope="module")
def packs(rows: TokenRows) -> Plan:
    return best_fit(rows.lengths, np.arange(len(rows)), TOGETHER)


def states_of(source: Source, packed: Iterable[Row]) -> torch.Tensor:
    """[tokens, (layers + 1) * width], of all rows."""
    return torch.cat([torch.cat([seen.hidden, seen.last], dim=-1)[0] for _, seen in source.each(packed)]).double()


def test_the_engine_has_the_students_states(
    job: Job, rows: TokenRows, packs: Plan, drafter: PreTrainedModel, engine: Streamed
) -> None:
    """In bf16 it is as far from the exact ones as the student itself is."""
    packed = [PackedCollator(rows, 0).tensors(pack) for pack in packs]
    online, streamed = states_of(Online(drafter, BF16), packed), states_of(engine, packed)
    exact = states_of(Online(load_drafter_for_scoring(job.untrained, FP32), FP32), packed)
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

    ahead = job.settings.engine.ahead
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


def test_a_stage_trains_on_streamed_states(run: Run) -> None:
    stage.run(run, SETTINGS, start="base", seed=1)
    figures = {name: float(figure.value) for name, figure in run.figures().items()}
    log = read_steps(run.root / "logs" / "drafter.jsonl")
    assert [row["step"] for row in log] == list(range(1, STEPS + 1))
    assert log[-1]["loss"] < log[0]["loss"]
    assert figures["train.drafter.waited"] == pytest.approx(sum(row[WAITED] for row in log) / log[-1]["seconds"])
    assert 0 < figures["train.drafter.waited"] < 1
    assert figures["drafter.synthetic.mgl"] > 1.1
