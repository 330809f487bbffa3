"""A changed number of workers: each step keeps its rows, whoever computes them."""

from pathlib import Path

import numpy as np
import pytest

from raytrain.batches import plan_batches
from raytrain.data import join
from raytrain.hardware import Placement
from raytrain.job import Job
from raytrain.resize import redeal, rounds
from raytrain.settings import SftSettings, WorkerSettings

LENGTHS = np.random.default_rng(0).integers(20, 120, 500)
ROWS = join([(np.zeros(length, np.int32), 1, "planner") for length in LENGTHS])


def job(begun_with: int, workers: int, accumulate: int = 1, max_steps: int | None = None) -> Job:
    settings = SftSettings(
        worker=WorkerSettings(workers=workers), accumulate=accumulate, tokens_per_batch=512, max_length=128, epochs=2,
        max_steps=max_steps,
    )  # fmt: skip
    here = Path("nowhere")
    placement = Placement("cpu", 1, "fp32")
    return Job("sft", "", here, here, here, settings, placement, (), seed=3, begun_with=begun_with)


def steps(made: Job) -> list[list[int]]:
    """The rows of each step."""
    plan, size = made.plan(ROWS), made.settings.worker.workers * made.accumulate
    return [sorted(row for batch in plan[i : i + size] for row in batch) for i in range(0, len(plan), size)]


@pytest.mark.parametrize("max_steps", [None, 7])
@pytest.mark.parametrize(("begun_with", "accumulate"), [(1, 1), (2, 1), (2, 3), (4, 2)])
@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_every_step_keeps_its_rows(begun_with: int, accumulate: int, workers: int, max_steps: int | None) -> None:
    before, after = job(begun_with, begun_with, accumulate, max_steps), job(begun_with, workers, accumulate, max_steps)
    assert steps(after) == steps(before)
    lengths = [made.step_tokens(LENGTHS, made.plan(ROWS)) for made in (before, after)]
    assert lengths[0] == lengths[1]
    assert len(after.plan(ROWS)) % workers == 0  # every rank takes its part in every round


def test_an_unchanged_number_of_workers_keeps_the_plan() -> None:
    assert job(2, 2, 3).plan(ROWS) == plan_batches(LENGTHS, 512, 2, 2, seed=3)
    assert job(2, 2, 3).accumulate == 3


def test_no_batch_grows() -> None:
    """Memory was enough for the batches there were; halves are smaller."""
    before, after = job(2, 2).plan(ROWS), job(2, 3).plan(ROWS)
    assert max(map(len, after)) <= max(map(len, before))


def test_batches_are_halved_where_there_are_more_places() -> None:
    assert redeal([[1, 2, 3, 4], [5, 6]], 2, 3) == [[1, 2], [3, 4], [5, 6]]
    assert redeal([[1]], 1, 3) == [[1], [], []]
    assert rounds(4, 3) == 2
