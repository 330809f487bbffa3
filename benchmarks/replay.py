"""Recorded work put to a model again, in a closed loop: single agent calls, and whole conversations through the agents.

A call is a held-out prompt with its agent's own limit of tokens, asked greedily. A conversation is what a customer said
in a recorded one, turn by turn, to the five agents on the model in question, in a world of its own: the agents answer
anew, so that a turn costs the calls that it costs. In flight are always `in_flight` of them while there are so many
left. Invariant: every replay of one measurement has the same work in the same order.
"""

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow.parquet as pq

from agentmill.agents.settings import TeamSettings
from agentmill.agents.team import Team
from agentmill.config import UserError
from agentmill.domains.base import Domain, Scenario
from agentmill.models.chat import ChatModel, ChatReply, ChatRequest, Message, ModelError, Sampling
from agentmill.plans.sandbox import Sandbox
from agentmill.runs import Run
from simulation.tables import read_folder

T = TypeVar("T")


class NothingRecorded(UserError):
    """A run without the held-out calls or conversations that are replayed. The message has the remedy."""


class ReplayFailed(UserError):
    """The model did not answer what it was asked. The message says what it said instead."""


@dataclass(frozen=True)
class Talk:
    """What a customer said in one recorded conversation, and how it was seeded."""

    sid: str
    world_seed: int
    seed: int
    utterances: tuple[str, ...]


@dataclass(frozen=True)
class Sample:
    """One replay: seconds of each answer (of a call, or of a turn) and its text, in the order of the work; tokens that
    were generated for them, and how long all took."""

    in_flight: int
    latencies: tuple[float, ...]
    texts: tuple[str, ...]
    tokens: int
    seconds: float

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.latencies) / self.seconds

    @property
    def p50(self) -> float:
        """Seconds."""
        return statistics.median(self.latencies)

    @property
    def p90(self) -> float:
        """Seconds."""
        return float(np.quantile(self.latencies, 0.9))

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds

    def goodput(self, target_s: float) -> float:
        """Answers per second that came within the target."""
        return sum(latency <= target_s for latency in self.latencies) / self.seconds


def recorded_calls(run: Run, system: TeamSettings, count: int, seed: int) -> list[ChatRequest]:
    """At most `count` held-out agent calls of a run, drawn at random, as the agents ask them.

    Raises:
        NothingRecorded: when the run has none.
    """
    file = run.path("corpora", "sft", "heldout.parquet")
    if not file.is_file():
        raise NothingRecorded(f"{file} is not there; run the stage corpora first (--until corpora)")
    rows = pq.read_table(file, columns=["prompt", "agent"]).to_pylist()
    if not rows:
        raise NothingRecorded(f"{file} has no calls: no conversation was held out; simulate more of them")
    random.Random(seed).shuffle(rows)
    return [
        ChatRequest(
            agent=row["agent"],
            messages=tuple(Message.model_validate(message) for message in row["prompt"]),
            sampling=Sampling(max_tokens=getattr(system.max_tokens, row["agent"]), seed=seed),
        )
        for row in rows[:count]
    ]


def recorded_talks(run: Run, count: int, seed: int) -> list[Talk]:
    """At most `count` held-out conversations in which the business did not change, drawn at random.

    Raises:
        NothingRecorded: when the run has none.
    """
    folders = {part: run.path("simulate", part) for part in ("conversations", "turns")}
    missing = [folder for folder in folders.values() if not any(Path(folder).glob("*.parquet"))]
    if missing:
        raise NothingRecorded(f"{missing[0]} has no rows; run the stage simulate first (--until simulate)")
    columns = ["sid", "split", "world_seed", "scenario_json"]
    rows = [row for row in read_folder(folders["conversations"], columns).to_pylist() if row["split"] == "heldout"]
    scenarios = {row["sid"]: Scenario.model_validate_json(row["scenario_json"]) for row in rows}
    chosen = sorted(sid for sid, scenario in scenarios.items() if not scenario.switches)
    random.Random(seed).shuffle(chosen)
    said: dict[str, dict[int, str]] = {sid: {} for sid in chosen[:count]}
    for turn in read_folder(folders["turns"], ["sid", "turn", "utterance"]).to_pylist():
        if turn["sid"] in said:
            said[turn["sid"]][turn["turn"]] = turn["utterance"]
    talks = [
        Talk(sid, scenarios[sid].world_seed, scenarios[sid].seed, tuple(turns[number] for number in sorted(turns)))
        for sid, turns in said.items()
        if turns
    ]
    if not talks:
        raise NothingRecorded(f"{folders['conversations']} has no held-out conversation; simulate more of them")
    return talks


async def replay_calls(model: ChatModel, calls: Sequence[ChatRequest], in_flight: int) -> Sample:
    """Ask every call.

    Raises:
        ReplayFailed: when one is not answered.
    """
    took, texts, tokens = [0.0] * len(calls), [""] * len(calls), 0

    async def ask(number: int, call: ChatRequest) -> None:
        nonlocal tokens
        began = time.perf_counter()
        try:
            reply = await model.complete(call)
        except ModelError as error:
            raise ReplayFailed(f"a call of the {call.agent} was not answered: {error}") from error
        took[number], texts[number] = time.perf_counter() - began, reply.text
        tokens += reply.completion_tokens

    seconds = await _closed_loop(ask, calls, in_flight)
    return Sample(in_flight, tuple(took), tuple(texts), tokens, seconds)


async def replay_talks(
    model: ChatModel, domain: Domain, system: TeamSettings, talks: Sequence[Talk], in_flight: int
) -> Sample:
    """Say to the agents what the customers said. An answer is a turn's reply, and nobody waits for shadow verdicts."""
    took: list[list[float]] = [[] for _ in talks]
    replies: list[list[str]] = [[] for _ in talks]
    counting = _Counting(model)
    system = system.model_copy(update={"shadow_share": 0.0})
    async with Sandbox(1) as sandbox:
        team = Team.local(domain, counting, sandbox, system)

        async def converse(number: int, talk: Talk) -> None:
            session = await team.start(talk.sid, talk.world_seed)
            try:
                for utterance in talk.utterances:
                    outcome = await team.turn(session, utterance, talk.seed)
                    took[number].append(outcome.turn.latency_s)
                    replies[number].append(outcome.turn.reply)
            finally:
                await team.executor.close(talk.sid)

        seconds = await _closed_loop(converse, talks, in_flight)
    latencies = tuple(one for turns in took for one in turns)
    return Sample(in_flight, latencies, tuple(one for turns in replies for one in turns), counting.tokens, seconds)


async def _closed_loop(do: Callable[[int, T], Awaitable[None]], work: Sequence[T], in_flight: int) -> float:
    """Do all of the work with `in_flight` workers that each take the next piece; returns the seconds. The first piece
    that fails ends all of it, with its own error."""
    left: Iterator[tuple[int, T]] = iter(enumerate(work))

    async def worker() -> None:
        for number, piece in left:
            await do(number, piece)

    began = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as workers:
            for _ in range(min(in_flight, len(work))):
                workers.create_task(worker())
    except ExceptionGroup as failed:
        raise failed.exceptions[0]  # noqa: B904 - it has a cause of its own
    return time.perf_counter() - began


class _Counting:
    """Passes calls on and counts the tokens of the answers."""

    def __init__(self, model: ChatModel) -> None:
        self._model, self.tokens = model, 0

    async def complete(self, request: ChatRequest) -> ChatReply:
        """See ChatModel."""
        reply = await self._model.complete(request)
        self.tokens += reply.completion_tokens
        return reply
