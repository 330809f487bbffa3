"""The stage `simulate`: scenarios -> conversations between the user simulator and the teacher's system M.

    scenarios.parquet -> resumable Ray Data job (actors, many conversations in flight) -> calls/ turns/ conversations/

Invariants: every scenario has exactly one conversation, failed ones included; rows stand in the order of the
scenarios; the three folders appear together when the last conversation is done.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from agentmill.agents.gate import GateCounts
from agentmill.agents.settings import TeamSettings
from agentmill.config import Strict
from agentmill.domains.base import ALL, load_domain
from agentmill.log import duration, say
from agentmill.runs import Run, atomic_dir, digest_json, wilson
from simulation.job import Job, Pool, output_files, run_job
from simulation.models import ModelSettings, build_model
from simulation.rollout import Rolled, Rollout, read_rollout_row
from simulation.scenarios import draw_scenarios, read_sids, write_scenarios
from simulation.tables import conversation_tables, read_folder, write_table

FOLDERS = ("conversations", "turns", "calls")  # calls are moved into place first, conversations last
_PART = 1000


class SimulateSettings(Strict):
    """How many conversations, who plays in them, and how many at a time.

    `in_flight` conversations run at once in each of `actors` processes; `block_rows` of them make one output file,
    which is what a killed run loses at most per block in flight.
    """

    conversations: int = Field(1200, ge=2)
    heldout_share: float = Field(0.1, gt=0.0, lt=1.0)
    teacher: ModelSettings = ModelSettings(mistake_rate=0.06)
    user: ModelSettings = ModelSettings()
    actors: int = Field(2, ge=1)
    in_flight: int = Field(64, ge=1)
    block_rows: int = Field(16, ge=1, le=16)  # Ray Data's own limit of rows at once in one block's task
    conversation_timeout_s: float = Field(900.0, gt=0.0)
    max_error_share: float = Field(0.02, ge=0.0, le=1.0)


def run(run: Run, settings: SimulateSettings, *, domain: str, system: TeamSettings, seed: int, mix: str = ALL) -> None:
    """Simulate scenarios of `mix`, or go on where an earlier attempt stopped; records `simulate.*`.

    Raises:
        JobFailed: when more conversations failed than `max_error_share` allows.
    """
    began = time.monotonic()
    pack = load_domain(domain)
    for model in (settings.teacher, settings.user):
        build_model(model, pack)  # a missing key or expert is told here, before workers start
    variant = digest_json([domain, system.model_dump(), settings.teacher.identity, settings.user.identity, seed])
    rows = run.path("simulate", "scenarios.parquet")
    write_scenarios(
        rows, draw_scenarios(pack.source(mix), settings.conversations, settings.heldout_share, seed), variant
    )
    work = run.path("simulate", ".work")
    if not _is_compacted(run, rows):
        job = Job("simulate", "conversations", rows, work, "sid", settings.max_error_share, _errors, ("error",))
        arguments = {
            "domain": domain,
            "system": system,
            "teacher": settings.teacher,
            "user": settings.user,
            "seed": seed,
            "timeout_s": settings.conversation_timeout_s,
        }
        pool = Pool(settings.actors, settings.block_rows, max(1, settings.in_flight // settings.block_rows))
        run_job(job, Rollout, arguments, pool)
        _compact(run, job)
        run.record("simulate.seconds", round(time.monotonic() - began, 3), unit="s")
    shutil.rmtree(work, ignore_errors=True)
    _record(run, time.monotonic() - began)


def _errors(table: pa.Table) -> list[str]:
    return [error for error in table["error"].to_pylist() if error]


def _is_compacted(run: Run, rows: Path) -> bool:
    """Whether the finished folders hold exactly the conversations of `rows`."""
    folder = run.path("simulate", "conversations")
    return folder.is_dir() and read_folder(folder, ["sid"])["sid"].to_pylist() == read_sids(rows)


def _compact(run: Run, job: Job) -> None:
    """Rewrite the job's small files as parts of many conversations each, in the order of the scenarios."""
    with ExitStack() as stack:
        folders = {name: stack.enter_context(atomic_dir(run.path("simulate", name))) for name in FOLDERS}
        for number, part in enumerate(_in_order(job)):
            tables = conversation_tables(
                [done.conversation for done in part],
                [turn for done in part for turn in done.turns],
                [call for done in part for call in done.calls],
            )
            for name, table in tables.items():
                write_table(table, folders[name] / f"part-{number:05d}.parquet")


def _in_order(job: Job) -> Iterator[list[Rolled]]:
    """The finished conversations in the order of the scenarios, `_PART` at a time; holds one such part in memory."""
    where = {sid: path for path in output_files(job) for sid in pq.read_table(path, columns=["sid"])["sid"].to_pylist()}
    sids = read_sids(job.rows)
    for start in range(0, len(sids), _PART):
        wanted = sids[start : start + _PART]
        rows: dict[str, dict[str, Any]] = {}
        for path in dict.fromkeys(where[sid] for sid in wanted):
            rows.update((row["sid"], row) for row in pq.read_table(path).to_pylist())
        yield [read_rollout_row(rows[sid]) for sid in wanted]


def _record(run: Run, seconds: float) -> None:
    table = read_folder(run.path("simulate", "conversations"), ["success", "status", "turns", "calls"])
    count, won = table.num_rows, sum(table["success"].to_pylist())
    turns, calls = sum(table["turns"].to_pylist()), sum(table["calls"].to_pylist())
    statuses = table["status"].to_pylist()
    run.record("simulate.conversations", count, unit="conversations")
    run.record("simulate.calls", calls, unit="calls")
    run.record("simulate.turns", turns, unit="turns")
    run.record("simulate.success", won / count, n=count, interval=wilson(won, count))
    for status in ("error", "turn_limit"):
        found = statuses.count(status)
        run.record(f"simulate.{status}", found / count, n=count, interval=wilson(found, count))
    marks = read_folder(run.path("simulate", "turns"), ["gate"])["gate"].to_pylist()
    for name, share in GateCounts(marks).rates().items():
        run.record(f"simulate.gate.{name}", share.value, n=share.n, interval=share.interval)
    shown = f"{count:,} conversations, {turns:,} turns, {calls:,} calls, success {won / count:.1%}"
    say("simulate", f"{shown}, {duration(seconds)}")
