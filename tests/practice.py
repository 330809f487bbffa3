"""Practice that the shipped base was made with, as rows of a corpus: it answers them nearly without a fault."""

from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from agentmill.runs import Run
from raytrain.base.tasks import sample


def practice_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """`count` rows with prompt, completion, agent and source; the same seed gives the same."""
    draw, found = Random(seed), []
    for _ in range(count):
        system, user, completion = sample(draw)
        prompt = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        answer = [{"role": "assistant", "content": completion}]
        found.append({"prompt": prompt, "completion": answer, "agent": "planner", "source": "teacher"})
    return found


def practice_run(folder: Path, student: Path) -> Run:
    """A run whose student answers practice, with these answers to train a drafter on."""
    run = Run.create(folder, {}, "test")
    for split, count, seed in (("train", 700, 1), ("heldout", 40, 2)):
        pq.write_table(pa.Table.from_pylist(practice_rows(count, seed)), run.path("responses", f"{split}.parquet"))
    run.path("models").mkdir(exist_ok=True)
    run.path("models", "base").symlink_to(student, target_is_directory=True)
    return run
