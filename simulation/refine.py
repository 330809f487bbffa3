"""The stage `refine`: the judge reads every call of the trained agents and writes down what should have been said.

    simulate/calls -> distinct (agent, messages, output) -> resumable Ray Data job (judge, then verification)
                   -> refine/calls, one row for each call

Invariants: every call of a trained agent has exactly one row; `refined` is y*, the text that may be taught, and ""
where the call is unjudged; identical calls are judged once. Plans also get `violations_json`, what the checks in code
say of the *recorded* plan, which later teaches the Evaluator.
"""

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from agentmill.config import Strict
from agentmill.domains.base import load_domain
from agentmill.log import duration, say
from agentmill.plans.sandbox import Sandbox
from agentmill.runs import Run, atomic_dir, digest_json, wilson
from simulation.job import Job, Pool, heed, output_files, run_job
from simulation.judge import TRAINABLE, Judge, Judged
from simulation.models import ModelSettings, build_model
from simulation.pacing import Flows, forget_flows, record_flows
from simulation.tables import REFINED_SCHEMA, compact, iter_parts, prompt_of, scenarios_by_sid, write_table
from simulation.verify import Verifier

_COLUMNS = ["call_id", "sid", "turn", "index", "agent", "messages_json", "output", "status"]
_VERDICT_COLUMNS = ("verdict", "refined", "reason", "criteria_json", "violations_json")
_INPUT = pa.schema(
    [*((n, pa.string()) for n in ("call_id", "agent", "messages_json", "output")), ("world_seed", pa.int64())]
)


class RefineSettings(Strict):
    """Who judges and how many calls at a time. `attempts` is how often an unreadable judge is asked again."""

    OPERATIONAL: ClassVar[frozenset[str]] = frozenset({"actors", "in_flight", "block_rows", "max_error_share"})

    judge: ModelSettings = ModelSettings()
    attempts: int = Field(2, ge=1)
    max_tokens: int = Field(1024, ge=1)
    actors: int = Field(2, ge=1)
    in_flight: int = Field(256, ge=1)
    block_rows: int = Field(128, ge=1)
    max_error_share: float = Field(0.05, ge=0.0, le=1.0)


def run(run: Run, settings: RefineSettings, *, domain: str, seed: int) -> None:
    """Refine, or go on where an earlier attempt stopped; records `refine.*`.

    Raises:
        JobFailed: when the judge failed on more calls than `max_error_share` allows.
    """
    began = time.monotonic()
    build_model(settings.judge, load_domain(domain))
    work = run.path("refine", ".work")
    work.mkdir(parents=True, exist_ok=True)
    owners = _write_distinct(run, work / "rows.parquet")
    rows = work / "rows.parquet"
    job = Job("refine", "calls", rows, work, "call_id", settings.max_error_share, _failures, ("error",))
    pool = Pool(settings.actors, settings.block_rows, max(1, settings.in_flight // settings.block_rows))
    forget_flows(work)
    run_job(job, Refiner, {"domain": domain, "settings": settings, "seed": seed}, pool, batches=True)
    record_flows(run, "refine", work)
    counts = _write_all(run, job, owners)
    shutil.rmtree(work)
    _record(run, counts, len(set(owners.values())), time.monotonic() - began)


class Refiner:
    """The actor: a block of calls in, their verdicts out, all of a block in flight at once."""

    def __init__(self, domain: str, settings: RefineSettings, seed: int, stop: str) -> None:
        self.stop = stop
        self.domain = load_domain(domain)
        self.flows = Flows(settings.in_flight, stop)
        model = self.flows.paced("judge", settings.judge, self.domain)
        self.judge = Judge(
            self.domain, model, settings.judge, attempts=settings.attempts, max_tokens=settings.max_tokens
        )
        self.seed = seed
        self._opening = asyncio.Lock()
        self._verifier: Verifier | None = None

    async def __call__(self, block: pa.Table) -> pa.Table:
        """Judge and verify every row of the block; a judge's failure is a verdict, not an exception."""
        heed(self.stop)
        verifier = await self._opened()
        rows = await asyncio.gather(*(self._refined(verifier, row) for row in block.to_pylist()))
        self.flows.note()
        return pa.Table.from_pylist(rows, schema=_output_schema())

    async def _refined(self, verifier: Verifier, row: dict[str, Any]) -> dict[str, Any]:
        agent, output, world_seed = row["agent"], row["output"], row["world_seed"]
        frame = prompt_of(row["messages_json"])[-1]["content"]
        judged = await self.judge.judge(agent, frame, output, seed=self.seed)
        if judged.verdict != "unjudged":
            problem = await verifier.problem(agent, frame, judged.refined, world_seed)
            if problem:
                judged = Judged("unjudged", reason=f"not verified: {problem}", criteria=judged.criteria)
        found = await verifier.violations(frame, output, world_seed) if agent == "planner" else None
        return {
            "call_id": row["call_id"],
            "error": judged.reason if judged.failed else "",
            "verdict": judged.verdict,
            "refined": judged.refined,
            "reason": judged.reason,
            "criteria_json": compact(judged.criteria),
            "violations_json": "" if found is None else compact([violation.code for violation in found]),
        }

    async def _opened(self) -> Verifier:
        async with self._opening:
            if self._verifier is None:
                self._verifier = Verifier(self.domain, await Sandbox(1).__aenter__())
            return self._verifier


def _output_schema() -> pa.Schema:
    return pa.schema([(name, pa.string()) for name in ("call_id", "error", *_VERDICT_COLUMNS)])


def _failures(table: pa.Table) -> list[str]:
    return [error for error in table["error"].to_pylist() if error]


def _calls(run: Run) -> Iterator[dict[str, Any]]:
    """The calls of the trained agents, in the order of the conversations."""
    for part in iter_parts(run.path("simulate", "calls"), _COLUMNS):
        yield from (row for row in part.to_pylist() if row["agent"] in TRAINABLE)


def _write_distinct(run: Run, path: Path) -> dict[str, str]:
    """Write the distinct calls to judge; returns the call id of each call with the id under which it is judged."""
    seeds = {sid: s.world_seed for sid, s in scenarios_by_sid(run.path("simulate", "conversations")).items()}
    first: dict[str, str] = {}
    owners: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    for call in _calls(run):
        if call["status"] == "error":
            continue
        key = digest_json([call["agent"], call["messages_json"], call["output"]])
        if key not in first:
            first[key] = call["call_id"]
            rows.append({name: call.get(name) for name in _INPUT.names} | {"world_seed": seeds[call["sid"]]})
        owners[call["call_id"]] = first[key]
    write_table(pa.Table.from_pylist(rows, schema=_INPUT), path)
    return owners


def _write_all(run: Run, job: Job, owners: dict[str, str]) -> Counter[str]:
    """Write a row for each call and count the verdicts."""
    verdicts = {row["call_id"]: row for path in output_files(job) for row in pq.read_table(path).to_pylist()}
    counts: Counter[str] = Counter()
    with atomic_dir(run.path("refine", "calls")) as folder:
        for number, part in enumerate(iter_parts(run.path("simulate", "calls"), _COLUMNS)):
            rows = [_row(call, owners, verdicts) for call in part.to_pylist() if call["agent"] in TRAINABLE]
            counts.update(row["verdict"] for row in rows)
            counts.update(f"{row['agent']}.{row['verdict']}" for row in rows)
            write_table(pa.Table.from_pylist(rows, schema=REFINED_SCHEMA), folder / f"part-{number:05d}.parquet")
    return counts


def _row(call: dict[str, Any], owners: dict[str, str], verdicts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    owner = owners.get(call["call_id"], "")
    verdict = verdicts.get(owner)
    if verdict is None:
        empty = {"verdict": "unjudged", "refined": "", "reason": "the agent's model gave no output"}
        return {**call, **empty, "criteria_json": "{}", "violations_json": "", "judged_as": ""}
    return {**call, **{name: verdict[name] for name in _VERDICT_COLUMNS}, "judged_as": owner}


def _record(run: Run, counts: Counter[str], distinct: int, seconds: float) -> None:
    total = counts["keep"] + counts["edit"] + counts["unjudged"]
    run.record("refine.calls", total, unit="calls")
    run.record("refine.distinct", distinct, unit="calls")
    run.record("refine.seconds", round(seconds, 3), unit="s")
    for name, verdict in (("kept", "keep"), ("edited", "edit"), ("unjudged", "unjudged")):
        run.record(f"refine.{name}", counts[verdict], n=total, unit="calls")
        share = counts[verdict] / max(1, total)
        run.record(f"refine.{name}_share", share, n=total, interval=wilson(counts[verdict], total))
        for agent in TRAINABLE:
            run.record(f"refine.{agent}.{name}", counts[f"{agent}.{verdict}"], unit="calls")
    say(
        "refine",
        f"{total:,} calls ({distinct:,} distinct): {counts['keep']:,} kept, {counts['edit']:,} edited, "
        f"{counts['unjudged']:,} unjudged, {duration(seconds)}",
    )
