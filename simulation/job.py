"""A resumable Ray Data job: rows of one Parquet file -> actors -> Parquet files, each row done once.

In go a Parquet file with a unique id column, an actor class and its pool; out comes `work/out/*.parquet`, a row for
each input row. Each attempt has a folder with the rows that were left and a ledger of the ids that it finished (Ray
Data's checkpoint: pending before the data file is written, committed after), so that a job killed at any point goes on
with the rest. Invariants: an id is in `out` at most once; one block is one output file, so at most the rows in flight
are done again; the rows' own failures travel as rows, never as exceptions.

The next attempt leaves out finished ids here and not by Ray's own filter, which starts further actors and took 40 s on
two cores to skip 850 of 1,200 rows (Ray 2.60).
"""

import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from agentmill.config import UserError
from agentmill.log import Progress, progress, say

_PENDING = ".pending.parquet"
_POLL_S = 1.0
_OTHER_CPUS = 2  # for reading and writing; each one more is another worker process to start


class JobStopped(Exception):
    """Raised in a worker when the job is to end early."""


class JobFailed(UserError):
    """More rows failed than the configuration allows. The next run does the failed ones again and keeps the others."""


@dataclass(frozen=True)
class Pool:
    """How many actors, and how many rows each has in flight: `calls` blocks of at most `block_rows` rows."""

    actors: int
    block_rows: int
    calls: int


@dataclass(frozen=True)
class Job:
    """What to run. `errors` says of an output table which of its rows failed, as a list of messages.

    Where a row stands for several `unit`s, the column `weight` of the rows and of the output says for how many.
    """

    label: str
    unit: str
    rows: Path
    work: Path
    id_column: str
    max_error_share: float
    errors: Callable[[pa.Table], list[str]]
    columns: tuple[str, ...]
    weight: str = ""

    @property
    def out(self) -> Path:
        return self.work / "out"

    @property
    def stop(self) -> Path:
        return self.work / "stop"

    @property
    def total(self) -> int:
        if self.weight:
            return self.size(pq.read_table(self.rows, columns=[self.weight]))
        return int(pq.read_metadata(self.rows).num_rows)

    def size(self, table: pa.Table) -> int:
        """How many units the rows of a table stand for."""
        return sum(table[self.weight].to_pylist()) if self.weight else int(table.num_rows)


def run_job(job: Job, actor: type, arguments: Mapping[str, Any], pool: Pool, *, batches: bool = False) -> None:
    """Do what is left of the job and wait for it. Ray is initialised already.

    `actor` is constructed with `arguments` and `stop` in each worker; its async `__call__` takes a row, or a whole
    block as an Arrow table where `batches` is set, and begins with `heed(stop)`. As soon as too many rows have failed
    for the job to end well, the file `stop` appears and the job ends.

    Raises:
        JobFailed: when more than `job.max_error_share` of the rows failed.
    """
    job.out.mkdir(parents=True, exist_ok=True)
    job.stop.unlink(missing_ok=True)
    _drop_unfinished(job)
    watch = _Watch(job)
    if watch.done < job.total:
        if watch.done:
            say(job.label, f"{watch.done:,} of {job.total:,} {job.unit} are there already; going on")
        attempt = _new_attempt(job)
        with _quiet_ray_data(), progress(job.label, job.total, job.unit) as bar, _watching(watch, bar):
            _execute(job, attempt, actor, arguments, pool, batches)
    _check_errors(job, watch)


def give_up(stop: str, reason: str) -> NoReturn:
    """End the whole job from within a worker, because going on makes no sense now; the driver tells `reason`.

    Raises:
        JobStopped: always.
    """
    Path(stop).write_text(reason, encoding="utf-8")
    raise JobStopped(reason)


def heed(stop: str) -> None:
    """End a worker's call when the job was told to stop.

    Raises:
        JobStopped: when it was.
    """
    if os.path.exists(stop):
        raise JobStopped(stop)


def output_files(job: Job) -> list[Path]:
    """The committed output files, by name."""
    return sorted(path for path in job.out.glob("*.parquet"))


def _ledger_entries(job: Job, *, pending: bool = False) -> list[Path]:
    """The ledgers' files of all attempts: the committed ones, or those whose data file may be half written."""
    return sorted(p for p in job.work.glob("attempt-*/ledger/*.parquet") if p.name.endswith(_PENDING) == pending)


def _drop_unfinished(job: Job) -> None:
    """Remove what an ended attempt was writing: data files that no ledger has committed, then what announced them."""
    committed = {entry.stem for entry in _ledger_entries(job)}
    for path in output_files(job):
        if _stem(path) not in committed:
            path.unlink()
    for entry in _ledger_entries(job, pending=True):
        entry.unlink()


def _stem(path: Path) -> str:
    """The name under which a ledger knows a data file: without the number of the file in its write task."""
    return path.stem.rpartition("-")[0]


def _new_attempt(job: Job) -> Path:
    """Make the folder of the next attempt, with the rows that no ledger holds."""
    done = {sid for entry in _ledger_entries(job) for sid in pq.read_table(entry)[job.id_column].to_pylist()}
    rows = pq.read_table(job.rows)
    left = rows.filter(pa.array([sid not in done for sid in rows[job.id_column].to_pylist()]))
    attempt = job.work / f"attempt-{len(list(job.work.glob('attempt-*'))):03d}"
    (attempt / "ledger").mkdir(parents=True)
    pq.write_table(left, attempt / "rows.parquet")
    return attempt


def _execute(job: Job, attempt: Path, actor: type, arguments: Mapping[str, Any], pool: Pool, batches: bool) -> None:
    import ray
    from ray.data import ActorPoolStrategy, DataContext, ExecutionResources
    from ray.data.checkpoint import CheckpointConfig
    from ray.exceptions import RayError

    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.use_datasource_v2 = False  # its pool of 32 footer readers takes a minute to start on two cores (Ray 2.60)
    context.execution_no_progress_timeout_s = -1  # one conversation with a slow model may take longer than the default
    context.checkpoint_config = CheckpointConfig(
        id_column=job.id_column, checkpoint_path=str(attempt / "ledger"), delete_checkpoint_on_success=False
    )
    compute = ActorPoolStrategy(
        size=pool.actors, max_tasks_in_flight_per_actor=pool.calls + 1, max_concurrent_calls_per_actor=pool.calls
    )
    context.execution_options.resource_limits = ExecutionResources(cpu=pool.actors + _OTHER_CPUS)
    with DataContext.current(context):
        blocks = math.ceil(pq.read_metadata(attempt / "rows.parquet").num_rows / pool.block_rows)
        rows = ray.data.read_parquet(str(attempt / "rows.parquet"), override_num_blocks=blocks)
        given = {**arguments, "stop": str(job.stop)}
        options: dict[str, Any] = {"compute": compute, "num_cpus": 1, "fn_constructor_kwargs": given}
        if batches:
            done = rows.map_batches(actor, batch_size=None, batch_format="pyarrow", **options)
        else:
            done = rows.map(actor, **options)
        try:
            done.write_parquet(str(job.out), concurrency=1)
        except RayError:
            if not job.stop.exists():  # else the workers did as they were told, and the errors are counted next
                raise


def _check_errors(job: Job, watch: "_Watch") -> None:
    watch.look()
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
    """Remove every block with a failed row from the output and the ledger; returns how many rows that are."""
    rows = 0
    for path in output_files(job):
        table = pq.read_table(path, columns=list(job.columns))
        if job.errors(table):
            rows += job.size(table)
            for entry in _ledger_entries(job):
                if entry.stem == _stem(path):
                    entry.unlink()
    _drop_unfinished(job)
    return rows


class _Watch:
    """What the ledger and the output show so far: rows done and the messages of those that failed."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.done = 0
        self.errors: list[str] = []
        self._seen: set[str] = set()
        self.look()

    def look(self) -> int:
        """Count what was committed since the last look; returns the number of new rows."""
        new = 0
        for stem in sorted({entry.stem for entry in _ledger_entries(self.job)} - self._seen):
            self._seen.add(stem)
            for path in self.job.out.glob(f"{stem}*.parquet"):
                table = pq.read_table(path, columns=list(self.job.columns))
                new += self.job.size(table)
                self.errors.extend(self.job.errors(table))
        self.done += new
        if len(self.errors) > self.job.max_error_share * self.job.total:
            self.job.stop.touch()
        return new


@contextmanager
def _watching(watch: _Watch, bar: Progress) -> Iterator[None]:
    """Show the progress of the ledger while the block runs."""
    finished = threading.Event()
    bar.advance(watch.done)

    def poll() -> None:
        while not finished.wait(_POLL_S):
            new = watch.look()
            if new:
                bar.advance(new, errors=len(watch.errors))

    thread = threading.Thread(target=poll, name=f"{watch.job.label}-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
        new = watch.look()
        if new:
            bar.advance(new, errors=len(watch.errors))


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
