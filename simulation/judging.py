"""Judging in worker processes: a chunk of recorded calls in, a verdict on each out, many calls in flight at once.

    chunk (a slice of one part of simulate/calls) -> its trained agents' calls -> judge, a second judge for a sample
      -> verification in the world as the turn found it -> one table, a row for each call, in the order of the calls

Invariants: memory does not grow with the number of calls: what a worker remembers (verdicts by the digest of what was
judged, a part's conversations) is bounded. A verdict does not depend on what was judged before. Whatever ends a chunk
early, the verdicts that it has are kept on disk, and the next attempt asks for the others only.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from agentmill.config import Strict
from agentmill.domains.base import Domain, load_domain
from agentmill.models.chat import AgentName, ChatModel
from agentmill.plans.sandbox import Sandbox
from agentmill.runs import digest_json
from simulation.chunks import GROUPS, Chunk, Conversations, Groups
from simulation.judge import Judge, Judged
from simulation.models import ModelSettings, build_model
from simulation.outage import Guarded, ModelDown, OutageSettings, Stopped
from simulation.pacing import Flows
from simulation.remembered import Remembered
from simulation.tables import compact, prompt_of, write_table
from simulation.verify import Verifier
from simulation.work import ActorRange
from simulation.worker import JobStopped, give_up, heed

KEEP_EVERY_S = 10.0
_TEXT = (
    "call_id", "verdict", "severity", "unjudged_because", "refined", "reason", "criteria_json", "violations_json",
    "judged_as", "second_verdict",
)  # fmt: skip
_COUNTS = ("asked", "prompt_tokens", "completion_tokens")
VERDICT_SCHEMA = pa.schema(
    [*((name, pa.string()) for name in _TEXT), *((name, pa.int64()) for name in _COUNTS), ("failed", pa.bool_())]
)
Row = dict[str, Any]


class SecondLook(Strict):
    """Another judge, who looks at a share of the calls again: how far the two agree is recorded."""

    model: ModelSettings = ModelSettings()
    share: float = Field(0.02, gt=0.0, le=1.0)


class RefineSettings(Strict):
    """Who judges and how many calls at a time. `attempts` is how often an unreadable judge is asked again.

    Each of `actors` processes has up to `in_flight` calls at the judge, and remembers the last `remembered` verdicts,
    so that the same call is not paid for twice. `gold_cases` are judged for the agreement on a gold set (0: none).
    Where more than `max_user_errors` of the conversations are spoiled by the user simulator, no judge is asked at all.
    """

    OPERATIONAL: ClassVar[frozenset[str]] = frozenset(
        {"actors", "in_flight", "remembered", "max_error_share", "outage", "gold_cases", "max_user_errors"}
    )
    judge: ModelSettings = ModelSettings()
    attempts: int = Field(2, ge=1)
    max_tokens: int = Field(1024, ge=1)
    actors: Annotated[int, Field(ge=1)] | ActorRange = 2
    in_flight: int = Field(256, ge=1)
    remembered: int = Field(20_000, ge=1)
    max_error_share: float = Field(0.05, ge=0.0, le=1.0)
    outage: OutageSettings = OutageSettings()
    second_look: SecondLook | None = None
    max_user_errors: float = Field(0.05, ge=0.0, le=1.0)
    gold_cases: int = Field(240, ge=0)

    @property
    def models(self) -> tuple[ModelSettings, ...]:
        """Who judges: the judge, and the one who takes the second look."""
        return (self.judge, self.second_look.model) if self.second_look else (self.judge,)

    def with_models(self, models: Sequence[ModelSettings]) -> "RefineSettings":
        """The same with `models` in the places of its own."""
        second = self.second_look.model_copy(update={"model": models[1]}) if self.second_look else None
        return self.model_copy(update={"judge": models[0], "second_look": second})

    def guarded(
        self, model: ModelSettings, domain: Domain, *, stop: str = "", built: ChatModel | None = None
    ) -> Guarded:
        """The judge's model behind the breaker; `built` where it is there already, such as one with a flow."""
        built, name = built or build_model(model, domain), f"the judge ({model.identity})"
        return Guarded(built, self.outage, name=name, attempts=self.attempts, stop=stop)


class Refiner:
    """The actor: see the module. `folder` is simulate's, `work` the job's."""

    def __init__(self, domain: str, settings: RefineSettings, seed: int, folder: str, work: str, stop: str) -> None:
        self.domain = load_domain(domain)
        self.settings = settings
        self.seed = seed
        self.folder, self.kept, self.stop = Path(folder), Path(work) / "kept", stop
        self.flows = Flows(settings.in_flight, stop)
        self.first = _Asker(self.domain, settings, "judge", settings.judge, self.flows, seed, stop)
        look = settings.second_look
        self.second = _Asker(self.domain, settings, "second", look.model, self.flows, seed, stop) if look else None
        self.conversations = Conversations(self.folder, self.domain)
        self._groups = Groups(GROUPS)
        self._opening = asyncio.Lock()
        self._verifier: Verifier | None = None

    async def __call__(self, row: Row) -> Row:
        """Judge and verify every call of the chunk; a judge's failure is a verdict, not an exception.

        Raises:
            JobStopped: when the judge is away for good, or the job was told to stop.
        """
        heed(self.stop)
        await self._opened()
        chunk = Chunk(row["part"], row["group"], row["offset"], row["count"])
        calls = chunk.read(self.folder, self._groups).to_pylist()
        file = self.kept / f"{row['chunk']}.parquet"
        verdicts = await self._judged(calls, chunk.part, file)
        failed = [verdict["reason"] for verdict in verdicts if verdict["failed"]]
        if failed:
            _keep(verdicts, file)
        self.flows.note()
        outages, seconds = self.first.outages()
        return {
            "chunk": row["chunk"],
            "calls": row["count"],
            "failed": len(failed),
            "error": failed[0] if failed else "",
            "outages": outages,
            "outage_s": seconds,
            "verdicts": _packed(verdicts),
        }

    async def _judged(self, calls: Sequence[Row], part: str, file: Path) -> list[Row]:
        """The verdicts on a chunk's calls, in order; those that an earlier attempt has kept are taken from there."""
        done = {row["call_id"]: row for row in pq.read_table(file).to_pylist()} if file.is_file() else {}
        tasks = {
            call["call_id"]: asyncio.ensure_future(self._verdict(call, part))
            for call in calls
            if call["call_id"] not in done
        }
        waiting: set[asyncio.Future[Row]] = set(tasks.values())
        while waiting:
            finished, waiting = await asyncio.wait(waiting, timeout=KEEP_EVERY_S, return_when=asyncio.FIRST_EXCEPTION)
            broken = [error for task in finished if (error := task.exception()) is not None]
            if broken:
                await self._end(waiting, wait=all(isinstance(error, ModelDown | Stopped) for error in broken))
            if broken or waiting:
                _keep([*done.values(), *_finished(tasks.values())], file)
            if broken:
                self._give_up(broken)
        return [done[call["call_id"]] if call["call_id"] in done else tasks[call["call_id"]].result() for call in calls]

    def _give_up(self, broken: Sequence[BaseException]) -> NoReturn:
        """Say why a chunk could not be finished: a fault of ours before the judge, who is away, before a stop."""
        fault = next((error for error in broken if not isinstance(error, ModelDown | Stopped)), None)
        if fault is not None:
            raise fault
        away = next((error for error in broken if isinstance(error, ModelDown)), None)
        if away is not None:
            give_up(self.stop, str(away))
        raise JobStopped(self.stop)

    async def _end(self, tasks: Iterable["asyncio.Future[Row]"], *, wait: bool) -> None:
        """End what is under way; with `wait` calls that the judge answers at this moment come to their end."""
        for asker in filter(None, (self.first, self.second)):
            asker.guarded.give_up()
        for task in () if wait else tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _verdict(self, call: Row, part: str) -> Row:
        """One call's row."""
        agent, output = call["agent"], call["output"]
        if call["status"] == "error":
            nothing = Judged("unjudged", reason="the agent's model gave no output", because="no_output")
            return _row(call, nothing, fresh=False)
        frame = prompt_of(call["messages_json"])[-1]["content"]
        digest = digest_json([agent, frame, output])
        judged, fresh = await self.first.judged(digest, agent, frame, output)
        second = ""
        if self.second and looked_at_again(digest, self.seed, self.settings.second_look):
            second = (await self.second.judged(digest, agent, frame, output))[0].verdict
        verifier = await self._opened()
        place = self.conversations.place(part, call["sid"], call["turn"])
        if judged.verdict != "unjudged":
            problem = await verifier.problem(agent, frame, judged.refined, place)
            judged = judged.refused(problem) if problem else judged
        row = _row(call, judged, fresh=fresh) | {"judged_as": digest, "second_verdict": second}
        if agent == "planner":
            found = await verifier.violations(frame, output, place)
            row["violations_json"] = "" if found is None else compact([violation.code for violation in found])
        return row

    async def _opened(self) -> Verifier:
        """The verifier, whose sandbox lives on the event loop of the calls and ends with this process."""
        async with self._opening:
            if self._verifier is None:
                self._verifier = Verifier(self.domain, await Sandbox(1).__aenter__())
            return self._verifier


class _Asker:
    """One judge with the verdicts that it gave last, by the digest of what was judged."""

    def __init__(
        self,
        domain: Domain,
        settings: RefineSettings,
        role: str,
        model: ModelSettings,
        flows: Flows,
        seed: int,
        stop: str,
    ) -> None:
        self.guarded = settings.guarded(model, domain, stop=stop, built=flows.paced(role, model, domain))
        self.judge = Judge(domain, self.guarded, model, attempts=settings.attempts, max_tokens=settings.max_tokens)
        self.seed = seed
        self._known = Remembered["asyncio.Future[Judged]"](settings.remembered)
        self._free = asyncio.Semaphore(settings.in_flight)
        self._told = (0, 0.0)

    async def judged(self, digest: str, agent: AgentName, frame: str, output: str) -> tuple[Judged, bool]:
        """The judge's word, and whether it was really asked for it now."""
        known = self._known.get(digest)
        if known is not None:
            return await asyncio.shield(known), False
        asking = self._known.put(digest, asyncio.ensure_future(self._ask(agent, frame, output)))
        try:
            judged = await asyncio.shield(asking)
        except BaseException:
            self._known.drop(digest)
            raise
        if judged.failed:
            self._known.drop(digest)  # the next one like it is asked again
        return judged, True

    def outages(self) -> tuple[int, float]:
        """How often the model was away and for how many seconds, since this was last asked."""
        seen, (count, seconds) = self.guarded.outages, self._told
        self._told = (seen.count, seen.seconds)
        return seen.count - count, seen.seconds - seconds

    async def _ask(self, agent: AgentName, frame: str, output: str) -> Judged:
        async with self._free:
            return await self.judge.judge(agent, frame, output, seed=self.seed)


def looked_at_again(digest: str, seed: int, settings: SecondLook | None) -> bool:
    """Whether a call is in the second judge's sample: all calls that are alike are, or none."""
    if settings is None:
        return False
    return int(digest_json([seed, digest])[:12], 16) < settings.share * 16**12


def unpacked(verdicts: bytes) -> pa.Table:
    """The table of a job's row."""
    return pa.ipc.open_stream(verdicts).read_all()


def _packed(verdicts: Iterable[Row]) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, VERDICT_SCHEMA, options=options) as writer:
        writer.write_table(pa.Table.from_pylist(list(verdicts), schema=VERDICT_SCHEMA))
    return bytes(sink.getvalue().to_pybytes())


def _keep(verdicts: Iterable[Row], file: Path) -> None:
    """Put the verdicts that stand where the next attempt at this chunk finds them."""
    standing = [row for row in verdicts if not row["failed"]]
    write_table(pa.Table.from_pylist(standing, schema=VERDICT_SCHEMA), file)


def _finished(tasks: Iterable["asyncio.Future[Row]"]) -> list[Row]:
    return [task.result() for task in tasks if task.done() and not task.cancelled() and task.exception() is None]


def _row(call: Mapping[str, Any], judged: Judged, *, fresh: bool) -> Row:
    return {
        "call_id": call["call_id"],
        "verdict": judged.verdict,
        "severity": judged.severity,
        "unjudged_because": judged.because,
        "refined": judged.refined,
        "reason": judged.reason,
        "criteria_json": compact(dict(judged.criteria)),
        "violations_json": "",
        "judged_as": "",
        "second_verdict": "",
        "asked": judged.asked if fresh else 0,
        "prompt_tokens": judged.prompt_tokens if fresh else 0,
        "completion_tokens": judged.completion_tokens if fresh else 0,
        "failed": judged.failed,
    }
