"""A resumable Ray Data job: rows of one Parquet file -> actors -> Parquet files, each row done once.

In go a Parquet file with a unique id column, an actor class and its pool; out comes `work/out/*.parquet`, a row for
each input row. A worker writes its finished block itself, under a name made from the block's ids, and atomically: the
file is the commit. So the driver and the object store never hold results, and memory does not grow with the rows.

Invariants: a block that was written is never done again, not even by the worker that follows a killed one; what a
killed attempt was still writing has another name and is removed; an id that two attempts wrote (workers may outlive
their driver for a moment) counts once, see `simulation.index`. The rows' own failures travel as rows, never as
exceptions. The next attempt reads which ids are there and does the rest.

Ray Data's own checkpoint was left for this: it starts further actors to skip what is done (40 s for 850 rows on two
cores, Ray 2.60), writes in tasks of their own, and at a kill loses blocks that were finished and not yet written.
"""

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from agentmill.config import UserError
from agentmill.log import Progress, duration, progress, say
from agentmill.runs import atomic_write_text, digest_json
from simulation.index import finished_ids
from simulation.memory import worker_peaks
from simulation.tables import write_table
from simulation.work import Job, Pool, errors_in, output_files
from simulation.worker import Worker

_OTHER_CPUS = 1  # for reading the rows; each one more is another worker process to start
_READ_ROWS = 1024  # about so many rows are one file of an attempt, and read by one task
_STATE_EVERY_S = 2.0


class JobFailed(UserError):
    """More rows failed than the configuration allows. The next run does the failed ones again and keeps the others."""


@dataclass(frozen=True)
class Done:
    """What a job that ended well says of itself: rows in `out`, how many of them failed, the largest worker in MiB."""

    rows: int
    failed: int
    worker_peak_mib: float


def run_job(job: Job, actor: type, arguments: Mapping[str, Any], pool: Pool, *, batches: bool = False) -> Done:
    """Do what is left of the job and wait for it. Ray is initialised already.

    `actor` is constructed with `arguments` and `stop` in each worker; its async `__call__` takes a row and gives one,
    or takes a whole block as an Arrow table and gives one where `batches` is set. As soon as too many rows have failed
    for the job to end well, the file `stop` appears and the job ends; an actor with long blocks may `heed` it.

    Raises:
        JobFailed: when more than `job.max_error_share` of the rows failed.
    """
    job.out.mkdir(parents=True, exist_ok=True)
    job.stop.unlink(missing_ok=True)
    for half_written in job.out.glob(".*.part"):
        half_written.unlink(missing_ok=True)
    watch = _Watch(job)
    if watch.done < job.total:
        if watch.done:
            say(job.label, f"{watch.done:,} of {job.total:,} {job.unit} are there already; going on")
        attempt = _new_attempt(job, pool)
        with _quiet_ray_data(), progress(job.label, job.total, job.unit) as bar:
            watch.show(bar)
            _execute(job, attempt, actor, arguments, pool, batches, watch)
    _check_errors(job, watch)
    return Done(watch.done, len(watch.errors), max(worker_peaks(job.work).values(), default=0.0))


def read_state(work: Path) -> dict[str, Any] | None:
    """How far the job in `work` was when its driver last wrote it down: done, total, unit, failed, per_s."""
    file = work / "state.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def _new_attempt(job: Job, pool: Pool) -> Path:
    """Write the rows that are left as files of even size; holds all ids and the rows of one file."""
    finished = finished_ids(job.out, job.id_column)
    left = pc.invert(pc.is_in(pq.read_table(job.rows, columns=[job.id_column])[job.id_column], finished))
    count = int(pc.sum(left).as_py())
    attempt = job.work / f"attempt-{len(list(job.work.glob('attempt-*'))):03d}"
    (attempt / "rows").mkdir(parents=True)
    files = math.ceil(count / max(_READ_ROWS, pool.block_rows))
    waiting = _Waiting(job.rows, left)
    for number in range(files):
        rows = count * (number + 1) // files - count * number // files
        pq.write_table(waiting.take(rows), attempt / "rows" / f"part-{number:05d}.parquet")
    return attempt


class _Waiting:
    """The rows of a file that are marked, from its beginning on, without holding the others."""

    def __init__(self, path: Path, marks: pa.ChunkedArray) -> None:
        self._file = pq.ParquetFile(path)
        self._batches = self._file.iter_batches(_READ_ROWS)
        self._marks, self._at = marks, 0
        self._held: pa.Table = self._file.schema_arrow.empty_table()

    def take(self, count: int) -> pa.Table:
        """The next `count` rows."""
        while self._held.num_rows < count:
            batch = next(self._batches)
            marks = self._marks.slice(self._at, batch.num_rows).combine_chunks()
            self._at += batch.num_rows
            self._held = pa.concat_tables([self._held, pa.Table.from_batches([batch.filter(marks)])])
        taken, self._held = self._held.slice(0, count), self._held.slice(count)
        return taken


def _execute(
    job: Job, attempt: Path, actor: type, arguments: Mapping[str, Any], pool: Pool, batches: bool, watch: "_Watch"
) -> None:
    import ray
    from ray.data import ActorPoolStrategy, DataContext, ExecutionResources
    from ray.exceptions import RayError

    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.use_datasource_v2 = False  # its pool of 32 footer readers takes a minute to start on two cores (Ray 2.60)
    context.execution_no_progress_timeout_s = -1  # one conversation with a slow model may take longer than the default
    context.execution_options.resource_limits = ExecutionResources(cpu=pool.most + _OTHER_CPUS)
    compute = ActorPoolStrategy(
        min_size=pool.least, max_size=pool.most, max_tasks_in_flight_per_actor=pool.calls + 1,
        max_concurrent_calls_per_actor=pool.calls,
    )  # fmt: skip
    files = sorted((attempt / "rows").glob("*.parquet"))
    blocks = sum(math.ceil(pq.read_metadata(file).num_rows / pool.block_rows) for file in files)
    given = {"job": job, "actor": actor, "arguments": dict(arguments), "batches": batches}
    with DataContext.current(context):
        rows = ray.data.read_parquet([str(file) for file in files], override_num_blocks=blocks, concurrency=1)
        done = rows.map_batches(
            Worker, batch_size=None, batch_format="pyarrow", compute=compute, num_cpus=1, fn_constructor_kwargs=given
        )
        try:
            for block in done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                watch.add(block)
        except RayError:
            if not job.stop.exists():  # else the workers did as they were told, and the errors are counted next
                raise


def _check_errors(job: Job, watch: "_Watch") -> None:
    given_up = job.stop.read_text(encoding="utf-8") if job.stop.exists() else ""
    job.stop.unlink(missing_ok=True)
    if given_up:
        raise JobFailed(
            f"{job.label}: {given_up}; {watch.done:,} of {job.total:,} {job.unit} are done and kept; mend the cause "
            "and run the same command again, which asks only for what is missing"
        )
    if len(watch.errors) <= job.max_error_share * job.total:
        return
    share = len(watch.errors) / watch.done
    first = watch.errors[0]
    forgotten = _forget_failed(job)
    raise JobFailed(
        f"{job.label}: {len(watch.errors)} of {watch.done} {job.unit} failed ({share:.1%}), more than "
        f"max_error_share={job.max_error_share:g} allows; the first: {first}; mend the cause and run again "
        f"({forgotten} {job.unit} will be done again), or raise {job.label}.max_error_share"
    )


def _forget_failed(job: Job) -> int:
    """Remove the rows that failed from the output; returns how many units those are."""
    before = sum(map(job.units, output_files(job)))
    for path in output_files(job):
        if errors_in(job, path):
            rows = pq.read_table(path)
            kept = rows.filter(pa.array([not job.errors(rows.slice(i, 1)) for i in range(rows.num_rows)]))
            if kept.num_rows:  # under another name: the block that they were in must not be taken for done
                write_table(kept, path.with_name(f"{digest_json(kept[job.id_column].to_pylist())}.parquet"))
            path.unlink()
    return before - sum(map(job.units, output_files(job)))


class _Watch:
    """What is done so far: rows and the messages of those that failed, of earlier attempts and of this one."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.done = 0
        self.errors: list[str] = []
        self._bar: Progress | None = None
        self._began, self._written = 0.0, 0.0
        for path in output_files(job):
            self.done += job.units(path)
            self.errors.extend(errors_in(job, path))
        self._before = self.done
        self._stop_at_too_many()

    def show(self, bar: Progress) -> None:
        """Show what comes on `bar` too."""
        self._bar = bar
        bar.advance(self.done)

    def add(self, block: pa.Table) -> None:
        """Count finished blocks, as the workers tell them."""
        new, now = int(pc.sum(block["rows"]).as_py() or 0), time.monotonic()
        self.done += new
        self.errors += [error for errors in block["errors"].to_pylist() for error in errors]
        if not self._began:  # the rate is that of workers that have started
            self._began, self._before = now, self.done
        rate = (self.done - self._before) / max(now - self._began, 1e-3)
        if self._bar is not None:
            left = {"left": duration((self.job.total - self.done) / rate)} if rate else {}
            self._bar.advance(new, per_s=rate, **left, errors=len(self.errors))
        if now - self._written > _STATE_EVERY_S:
            self._written = now
            state = {"done": self.done, "total": self.job.total, "unit": self.job.unit, "failed": len(self.errors)}
            atomic_write_text(self.job.work / "state.json", json.dumps({**state, "per_s": round(rate, 2)}))
        self._stop_at_too_many()

    def _stop_at_too_many(self) -> None:
        if len(self.errors) > self.job.max_error_share * self.job.total:
            self.job.stop.touch()


@contextmanager
def _quiet_ray_data() -> Iterator[None]:
    """Ray Data's own lines are left out while a job runs: the progress of the job says the same in one line."""
    import logging

    import ray.data  # noqa: F401  (its import sets the loggers up anew)

    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # what goes wrong is raised, and told once
    try:
        yield
    finally:
        logger.setLevel(level)
