"""What runs in each worker process of a job: the job's actor, and around it what makes its rows count once.

Invariant: a finished block is written by the worker itself, atomically and under a name made from its ids, before
anybody is told of it; a worker that is given a block that is there already does not call its actor.
"""

import asyncio
import os
from collections.abc import Mapping
from typing import Any, NoReturn

import pyarrow as pa

from agentmill.runs import atomic_write_text, digest_json
from simulation.memory import MemoryWatch
from simulation.tables import write_table
from simulation.work import Job, errors_in


class JobStopped(Exception):
    """Raised in a worker when the job is to end early."""


def give_up(stop: str, reason: str) -> NoReturn:
    """End the whole job from within a worker, because going on makes no sense now; the driver tells `reason`.

    Raises:
        JobStopped: always.
    """
    atomic_write_text(stop, reason)
    raise JobStopped(reason)


def heed(stop: str) -> None:
    """End a worker's call when the job was told to stop.

    Raises:
        JobStopped: when it was.
    """
    if os.path.exists(stop):
        raise JobStopped(stop)


class Worker:
    """What runs in each worker process: the job's actor, whose finished blocks it writes."""

    def __init__(
        self, job: Job, actor: type, arguments: Mapping[str, Any], *, batches: bool, sample_every_s: float = 2.0
    ) -> None:
        self.job, self.batches = job, batches
        self.memory = MemoryWatch(job.work, sample_every_s)
        self.actor = actor(**arguments, stop=str(job.stop))

    async def __call__(self, block: pa.Table) -> pa.Table:
        """Do one block and write it, if it is not there; gives back how many units it has and the errors in it."""
        heed(str(self.job.stop))
        ids = block[self.job.id_column].to_pylist()
        path = self.job.out / f"{digest_json(ids)}.parquet"
        if ids and not path.is_file():
            done = await self._done(block)
            if done.num_rows != len(ids):
                raise AssertionError(f"{self.job.label}: {done.num_rows} rows came back of {len(ids)}")
            write_table(done, path)
        self.memory.note()
        errors = errors_in(self.job, path) if ids else []
        units = self.job.units(path) if ids else 0
        return pa.table({"rows": pa.array([units], pa.int64()), "errors": pa.array([errors], pa.list_(pa.string()))})

    async def _done(self, block: pa.Table) -> pa.Table:
        if self.batches:
            return await self.actor(block)
        return pa.Table.from_pylist(await asyncio.gather(*map(self.actor, block.to_pylist())))
