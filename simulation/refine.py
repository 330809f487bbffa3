"""The stage `refine`: the judge reads every call of the trained agents and writes down what should have been said.

    simulate/calls -> chunks -> resumable Ray Data job (judge, then verification: `simulation.judging`)
                   -> refine/calls, one row for each call, in the order of the calls

Invariants: every call of a trained agent has exactly one row; `refined` is y*, the text that may be taught, and ""
where the call is unjudged; calls that are alike are judged once as far as a worker remembers. One chunk at a time is in
the driver's memory, however many there are, and equal verdicts make equal files, to the byte. Plans also get
`violations_json`, what the checks in code say of the *recorded* plan, which later teaches the Evaluator.
"""

import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from agentmill.domains.base import Domain, load_domain
from agentmill.log import duration, say
from agentmill.runs import Run, atomic_dir, digest_json, wilson
from simulation import agreement
from simulation.chunks import CALL_COLUMNS, CHUNK, GROUPS, Chunk, Groups
from simulation.claim import claim
from simulation.fidelity import require_faithful
from simulation.job import run_job
from simulation.judge import TRAINABLE
from simulation.judging import Refiner, RefineSettings, unpacked
from simulation.models import build_model
from simulation.pacing import forget_flows, record_flows
from simulation.tables import REFINED_SCHEMA, part_files, write_table
from simulation.work import Job, Pool, output_files

_CHUNK_SCHEMA = pa.schema(
    [("chunk", pa.string()), ("part", pa.string()), *((n, pa.int64()) for n in ("group", "offset", "count", "calls"))]
)
_VERDICT = [name for name in REFINED_SCHEMA.names if name not in CALL_COLUMNS]
_COSTS = ("asked", "prompt_tokens", "completion_tokens")


@dataclass
class Tally:
    """What is counted while the verdicts are written: calls by verdict and so on, what the judge cost, second looks."""

    counts: Counter[str] = field(default_factory=Counter)
    costs: Counter[str] = field(default_factory=Counter)
    second: dict[str, tuple[str, str]] = field(default_factory=dict)  # by digest: (verdict, the second judge's)
    outages: int = 0
    outage_s: float = 0.0


def run(run: Run, settings: RefineSettings, *, domain: str, seed: int) -> None:
    """Refine, or go on where an earlier attempt stopped; records `refine.*`.

    Raises:
        UnfaithfulSimulator: when the simulator made more errors of its own than `max_user_errors` allows.
        OtherWork: when an earlier attempt of another configuration left unfinished work.
        JobFailed: when the judge failed on more calls than `max_error_share` allows, or was away for too long.
    """
    began = time.monotonic()
    require_faithful(run, settings.max_user_errors)
    pack = load_domain(domain)
    for model in (settings.judge, *([settings.second_look.model] if settings.second_look else ())):
        build_model(model, pack)  # a missing key or expert is told here, before workers start
    work = run.path("refine", ".work")
    work.mkdir(parents=True, exist_ok=True)
    rows = work / "rows.parquet"
    deciding = _made_with(run, settings, pack, seed)
    claim(work, deciding, "refine")
    write_chunks(run, rows, digest_json(deciding))
    job = Job(
        "refine", "calls", rows, work, "chunk", settings.max_error_share, _failures, ("error", "failed", "calls"),
        weight="calls",
    )  # fmt: skip
    arguments = {
        "domain": domain,
        "settings": settings,
        "seed": seed,
        "folder": str(run.path("simulate")),
        "work": str(work),
    }
    forget_flows(work)
    done = run_job(job, Refiner, arguments, Pool(settings.actors, 1, settings.in_flight // CHUNK + 2))
    record_flows(run, "refine", work)
    tally = _write_all(run, job)
    gold = agreement.judge_gold(run, settings, pack, seed)
    _record(run, tally, time.monotonic() - began)
    record_flows(run, "refine", work)
    shutil.rmtree(work)
    run.record("refine.worker_peak_mib", done.worker_peak_mib, unit="MiB")
    agreement.record(run, gold, list(tally.second.values()), pack)


def write_chunks(run: Run, path: Path, variant: str) -> None:
    """Write the rows of the job: where the chunks of simulate/calls are. A chunk's id holds what decides its verdicts.

    Only the footers of the parts are read.
    """
    rows = []
    for file in part_files(run.path("simulate", "calls")):
        footer = pq.read_metadata(file)
        for group in range(footer.num_row_groups):
            size = footer.row_group(group).num_rows
            for offset in range(0, size, CHUNK):
                count = min(CHUNK, size - offset)
                name = digest_json([variant, file.name, group, offset, count])
                place = {"part": file.name, "group": group, "offset": offset, "count": count}
                rows.append({"chunk": name, **place, "calls": count})
    write_table(pa.Table.from_pylist(rows, schema=_CHUNK_SCHEMA), path)


def _made_with(run: Run, settings: RefineSettings, domain: Domain, seed: int) -> dict[str, Any]:
    """All that decides a verdict: which simulation, who judges, how, and by which prompt."""
    simulated = run.completed("simulate")
    judges = [settings.judge, *([settings.second_look.model] if settings.second_look else ())]
    return {
        "domain": domain.name,
        "seed": seed,
        "simulate": simulated.digest if simulated else None,
        "refine": settings.deciding(),
        "prompts": digest_json([domain.prompts[judge.prompts]["judge"] for judge in judges]),
    }


def _failures(table: pa.Table) -> list[str]:
    """A message for each call on which the judge failed."""
    pairs = zip(table["error"].to_pylist(), table["failed"].to_pylist(), strict=True)
    return [error for error, failed in pairs for _ in range(failed)]


def _write_all(run: Run, job: Job) -> Tally:
    """Write a row for each call, part by part and chunk by chunk, and count what was said."""
    tally, groups = Tally(), Groups(GROUPS)
    folder = run.path("simulate")
    where = {c: path for path in output_files(job) for c in pq.read_table(path, columns=["chunk"])["chunk"].to_pylist()}
    with atomic_dir(run.path("refine", "calls")) as target:
        for part, chunks in _by_part(job.rows):
            with pq.ParquetWriter(target / part, REFINED_SCHEMA, compression="zstd") as writer:
                for name, chunk in chunks:
                    row = _result(where[name], name)
                    verdicts = unpacked(row["verdicts"])
                    table = _joined(chunk.read(folder, groups), verdicts)
                    writer.write_table(table)
                    _count(tally, table, verdicts)
                    tally.outages += row["outages"]
                    tally.outage_s += row["outage_s"]
    return tally


def _by_part(rows: Path) -> Iterator[tuple[str, list[tuple[str, Chunk]]]]:
    """The chunks of each part, in order."""
    parts: dict[str, list[tuple[str, Chunk]]] = {}
    for row in pq.read_table(rows).to_pylist():
        chunk = Chunk(row["part"], row["group"], row["offset"], row["count"])
        parts.setdefault(row["part"], []).append((row["chunk"], chunk))
    yield from parts.items()


def _result(path: Path, name: str) -> dict[str, Any]:
    return next(row for row in pq.read_table(path).to_pylist() if row["chunk"] == name)


def _joined(calls: pa.Table, verdicts: pa.Table) -> pa.Table:
    """The calls with their verdicts beside them."""
    assert calls["call_id"].to_pylist() == verdicts["call_id"].to_pylist(), "a chunk's verdicts are those of its calls"
    columns = [calls[name] if name in CALL_COLUMNS else verdicts[name] for name in REFINED_SCHEMA.names]
    table = pa.Table.from_arrays(columns, names=REFINED_SCHEMA.names)
    return table.cast(REFINED_SCHEMA.remove_metadata()).replace_schema_metadata(REFINED_SCHEMA.metadata)


def _count(tally: Tally, table: pa.Table, verdicts: pa.Table) -> None:
    rows = table.select(["agent", "verdict", "severity", "unjudged_because", "judged_as", "second_verdict"]).to_pylist()
    for row in rows:
        tally.counts.update((row["verdict"], f"{row['agent']}.{row['verdict']}"))
        if row["verdict"] == "edit":
            tally.counts[f"severity.{row['severity']}"] += 1
        if row["verdict"] == "unjudged":
            tally.counts[f"because.{row['unjudged_because']}"] += 1
        if row["second_verdict"] and row["unjudged_because"] in ("", "not_verified"):
            tally.second[row["judged_as"]] = (row["verdict"], row["second_verdict"])
    for name in _COSTS:
        tally.costs[name] += sum(verdicts[name].to_pylist())


def _record(run: Run, tally: Tally, seconds: float) -> None:
    run.forget("refine")  # an earlier attempt may have had other reasons and severities
    counts = tally.counts
    total = counts["keep"] + counts["edit"] + counts["unjudged"]
    run.record("refine.calls", total, unit="calls")
    run.record("refine.seconds", round(seconds, 3), unit="s")
    for name, verdict in (("kept", "keep"), ("edited", "edit"), ("unjudged", "unjudged")):
        run.record(f"refine.{name}", counts[verdict], n=total, unit="calls")
        share = counts[verdict] / max(1, total)
        run.record(f"refine.{name}_share", share, n=total, interval=wilson(counts[verdict], total))
        for agent in TRAINABLE:
            run.record(f"refine.{agent}.{name}", counts[f"{agent}.{verdict}"], unit="calls")
    for name, count in sorted(counts.items()):
        if name.startswith(("severity.", "because.")):
            kind, _, what = name.partition(".")
            run.record(f"refine.{'severity' if kind == 'severity' else 'unjudged'}.{what}", count, unit="calls")
    _record_cost(run, tally)
    shown = f"{counts['keep']:,} kept, {counts['edit']:,} edited, {counts['unjudged']:,} unjudged"
    say("refine", f"{total:,} calls ({tally.costs['asked']:,} asked): {shown}, {duration(seconds)}")
    if tally.outages:
        say("refine", f"the judge was away {tally.outages} times, {duration(tally.outage_s)} in all; nothing was lost")


def _record_cost(run: Run, tally: Tally) -> None:
    """What an output that may be taught costs: kept, or edited and verified."""
    accepted = tally.counts["keep"] + tally.counts["edit"]
    tokens = tally.costs["prompt_tokens"] + tally.costs["completion_tokens"]
    run.record("refine.asked", tally.costs["asked"], unit="judge calls")
    run.record("refine.cost.calls_per_accepted", tally.costs["asked"] / max(1, accepted), n=accepted)
    run.record("refine.cost.tokens_per_accepted", tokens / max(1, accepted), n=accepted, unit="tokens")
    run.record("refine.outages", tally.outages)
    run.record("refine.outage_seconds", round(tally.outage_s, 1), unit="s")
