"""Where the workers of a stage begin: agreed on by all ranks before a model is built.

Rank 0 looks for the newest whole checkpoint and tells the others; Ray's own record of checkpoints is not asked, because
it misses those that were uploaded just before a kill, and knows nothing of files that were lost since.
"""

import uuid
from dataclasses import dataclass
from pathlib import Path

import ray.train
import torch.distributed

from raytrain import checkpoints
from raytrain.job import Job
from raytrain.resize import to_universal


@dataclass(frozen=True)
class Start:
    """`checkpoint` is the folder that training goes on from, None at the beginning; `resized` whether another number
    of workers saved it. `attempt` names this start of the workers, `nodes` is the number of machines they are on."""

    attempt: str
    checkpoint: Path | None
    resized: bool
    nodes: int


def begin(job: Job) -> Start:
    """Agree on where to begin; a checkpoint of another number of workers is made ready for this one."""
    context = ray.train.get_context()
    told: list[Start | None] = [None]
    nodes: list[int] = [0] * context.get_world_size()
    torch.distributed.all_gather_object(nodes, context.get_node_rank())
    if context.get_world_rank() == 0:
        told = [_look(job, context.get_world_size(), 1 + max(nodes))]
    torch.distributed.broadcast_object_list(told)
    assert told[0] is not None, "rank 0 tells every rank where to begin"
    return told[0]


def _look(job: Job, workers: int, nodes: int) -> Start:
    found = checkpoints.find(job.storage)
    for sentence in found.passed_over:
        job.note(sentence)
    checkpoints.clear_broken(job.storage)
    attempt, saved = uuid.uuid4().hex[:8], found.newest
    if saved is None:
        if found.passed_over:
            job.note("no whole checkpoint is left: training begins anew")
        return Start(attempt, None, False, nodes)
    resized = saved.workers != workers
    kept = ""
    if resized:
        to_universal(saved.folder)
        kept = (
            f", saved by {saved.workers} workers and taken over by {workers}: steps, rows, learning rate and optimizer "
            f"state stay, random states begin anew"
        )
    job.note(f"going on after step {saved.step}{kept}")
    return Start(attempt, saved.folder, resized, nodes)
