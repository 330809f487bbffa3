"""The stage `simulate`: scenarios -> conversations between the user simulator and the teacher's system M.

    scenarios.parquet -> resumable Ray Data job (actors, many conversations in flight) -> calls/ turns/ conversations/

Invariants: every scenario has exactly one conversation, failed ones included; rows stand in the order of the
scenarios; the folders appear together when the last conversation is done, and hold the same bytes whenever the same
conversations were played, however often the work was interrupted; what a clock measured is in timings/ alone. The
driver holds ids, never conversations.
"""

import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, ClassVar

import pyarrow as pa
from pydantic import Field

from agentmill.agents.gate import GateCounts
from agentmill.agents.settings import TeamSettings
from agentmill.config import Strict
from agentmill.domains.base import ALL, load_domain
from agentmill.log import duration, progress, say
from agentmill.runs import Run, atomic_dir, digest_json, wilson
from simulation import fidelity, reachable
from simulation.claim import claim
from simulation.diversity import record_coverage
from simulation.index import Index, read_rows
from simulation.job import run_job
from simulation.models import ModelSettings, build_model
from simulation.pacing import blocks_at_once, forget_flows, record_flows
from simulation.parallel import in_parallel
from simulation.rolled import unpack
from simulation.rollout import Rollout
from simulation.scenarios import draw_scenarios, made_with, read_sids, write_scenarios
from simulation.tables import iter_parts, read_folder, write_table
from simulation.work import ActorRange, Job, Pool

FOLDERS = ("conversations", "timings", "turns", "calls")  # calls are moved into place first, conversations last
PART = 256  # conversations in one file of each folder, and in memory at a time


class SimulateSettings(Strict):
    """How many conversations, who plays in them, and how many at a time.

    There are `actors` processes: a number, or a range (`{min: 2, max: 16}`) within which the pool grows and shrinks.
    Each has at most `in_flight` calls under way at each model, fewer where the model's server has no use for more, and
    as many conversations open as that takes; with the expert alone, `in_flight` conversations. `block_rows` of them
    make one output file, which is what a killed run loses at most per block in flight. `replay_failed` failed
    conversations are played again without errors, to see whether their goals can be reached at all.
    """

    OPERATIONAL: ClassVar[frozenset[str]] = frozenset(
        {"actors", "in_flight", "block_rows", "conversation_timeout_s", "max_error_share", "replay_failed"}
    )
    conversations: int = Field(1200, ge=2)
    heldout_share: float = Field(0.1, gt=0.0, lt=1.0)
    teacher: ModelSettings = ModelSettings(mistake_rate=0.06)
    user: ModelSettings = ModelSettings()
    actors: Annotated[int, Field(ge=1)] | ActorRange = 2
    in_flight: int = Field(64, ge=1)
    block_rows: int = Field(16, ge=1)
    conversation_timeout_s: float = Field(900.0, gt=0.0)
    max_error_share: float = Field(0.02, ge=0.0, le=1.0)
    replay_failed: int = Field(50, ge=0)


def run(run: Run, settings: SimulateSettings, *, domain: str, system: TeamSettings, seed: int, mix: str = ALL) -> None:
    """Simulate scenarios of `mix`, or go on where an earlier attempt stopped; records `simulate.*`.

    Raises:
        OtherWork: when an earlier attempt of another configuration left unfinished work.
        JobFailed: when more conversations failed than `max_error_share` allows.
    """
    began = time.monotonic()
    pack = load_domain(domain)
    for model in (settings.teacher, settings.user):
        build_model(model, pack)  # a missing key or expert is told here, before workers start
    deciding = made_with(pack, system, settings.teacher, settings.user, seed)
    drawn = {"mix": mix, "conversations": settings.conversations, "heldout_share": settings.heldout_share}
    work, rows = run.path("simulate", ".work"), run.path("simulate", "scenarios.parquet")
    claim(work, {**deciding, **drawn}, "simulate")
    scenarios = draw_scenarios(pack.source(mix), settings.conversations, settings.heldout_share, seed)
    write_scenarios(rows, scenarios, digest_json(deciding), drawn)
    if not _is_compacted(run, rows):
        job = Job("simulate", "conversations", rows, work, "sid", settings.max_error_share, _errors, ("error",))
        arguments = {
            "domain": domain,
            "system": system,
            "teacher": settings.teacher,
            "user": settings.user,
            "seed": seed,
            "timeout_s": settings.conversation_timeout_s,
            "in_flight": settings.in_flight,
        }
        models = (settings.teacher, settings.user)
        at_once = blocks_at_once(models, settings.in_flight, settings.block_rows)
        pool = Pool(settings.actors, settings.block_rows, at_once)
        forget_flows(work)
        done = run_job(job, Rollout, arguments, pool, batches=True)
        record_flows(run, "simulate", work)
        _compact(run, job, pool.most)
        run.record("simulate.seconds", round(time.monotonic() - began, 3), unit="s")
        run.record("simulate.worker_peak_mib", done.worker_peak_mib, unit="MiB")
    shutil.rmtree(work, ignore_errors=True)
    _record(run, time.monotonic() - began)
    record_coverage(run, pack)
    fidelity.record(run)
    reachable.record(run, pack, system, sample=settings.replay_failed, seed=seed)


def _errors(table: pa.Table) -> list[str]:
    return [error for error in table["error"].to_pylist() if error]


def _is_compacted(run: Run, rows: Path) -> bool:
    """Whether the finished folders hold exactly the conversations of `rows`."""
    folder = run.path("simulate", "conversations")
    return folder.is_dir() and bool(read_folder(folder, ["sid"])["sid"].combine_chunks().equals(read_sids(rows)))


def _compact(run: Run, job: Job, at_once: int) -> None:
    """Rewrite the job's small files as parts of `PART` conversations each, in the order of the scenarios."""
    with ExitStack() as stack, progress("compact", job.total, job.unit) as bar:
        folders = {name: stack.enter_context(atomic_dir(run.path("simulate", name))) for name in FOLDERS}
        parts = _parts(job, folders)
        if job.total <= PART:
            bar.advance(sum(compact_part(*given) for given in parts))
        else:
            for count in in_parallel(compact_part, parts, at_once):
                bar.advance(count)


def _parts(job: Job, folders: Mapping[str, Path]) -> Iterator[tuple[list[Path], list[str], dict[str, Path]]]:
    """What each part is made from: files, conversations in order, where its tables go."""
    index, sids = Index(job.out, job.id_column), read_sids(job.rows)
    for number, start in enumerate(range(0, len(sids), PART)):
        wanted = sids.slice(start, PART).to_pylist()
        targets = {name: folder / f"part-{number:05d}.parquet" for name, folder in folders.items()}
        yield index.files_of(wanted), wanted, targets


def compact_part(files: list[Path], sids: list[str], targets: Mapping[str, Path]) -> int:
    """Write the tables of the conversations `sids`, which are somewhere in `files`; returns how many they are."""
    for name, table in unpack(read_rows(files, "sid", sids)).items():
        write_table(table, targets[name])
    return len(sids)


def _record(run: Run, seconds: float) -> None:
    counts, statuses = Counter[str](), Counter[str]()
    for part in iter_parts(run.path("simulate", "conversations"), ["success", "status", "turns", "calls"]):
        statuses.update(part["status"].to_pylist())
        counts["conversations"] += part.num_rows
        for name in ("success", "turns", "calls"):
            counts[name] += sum(part[name].to_pylist())
    count, won, turns, calls = (counts[name] for name in ("conversations", "success", "turns", "calls"))
    run.record("simulate.conversations", count, unit="conversations")
    run.record("simulate.calls", calls, unit="calls")
    run.record("simulate.turns", turns, unit="turns")
    run.record("simulate.success", won / count, n=count, interval=wilson(won, count))
    for status in ("error", "turn_limit"):
        found = statuses[status]
        run.record(f"simulate.{status}", found / count, n=count, interval=wilson(found, count))
    marks = (mark for part in iter_parts(run.path("simulate", "turns"), ["gate"]) for mark in part["gate"].to_pylist())
    for name, share in GateCounts(marks).rates().items():
        run.record(f"simulate.gate.{name}", share.value, n=share.n, interval=share.interval)
    shown = f"{count:,} conversations, {turns:,} turns, {calls:,} calls, success {won / count:.1%}"
    say("simulate", f"{shown}, {duration(seconds)}")
