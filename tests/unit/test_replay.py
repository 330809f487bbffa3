"""Recorded work is replayed in a closed loop: what is drawn of a run, what is in flight, and what comes out."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from agentmill.agents.settings import MaxTokens, TeamSettings
from agentmill.agents.team import Team
from agentmill.domains.base import Domain, PlannedSwitch, Scenario, load_domain
from agentmill.models.chat import ChatReply, ChatRequest, Message, ModelError
from agentmill.plans.sandbox import Sandbox
from agentmill.runs import Run
from benchmarks.replay import (
    NothingRecorded,
    ReplayFailed,
    Sample,
    Talk,
    recorded_calls,
    recorded_talks,
    replay_calls,
    replay_talks,
)
from simulation.corpora.rows import SFT_SCHEMA
from simulation.models import ModelSettings, build_model
from simulation.rolled import Rolled
from simulation.rollout import converse
from simulation.tables import conversation_tables, write_table
from tests.fakes import reply

EXPERT = ModelSettings()
SYSTEM = TeamSettings(max_tokens=MaxTokens(planner=77, understander=33))


def calls(count: int) -> list[ChatRequest]:
    return [ChatRequest(agent="planner", messages=(Message(role="user", content=str(n)),)) for n in range(count)]


def of(call: ChatRequest) -> int:
    return int(call.messages[0].content)


class Slow:
    """Answers each call after so many hundredths of a second, but for the one it refuses; notes how many were in work
    as each was done."""

    def __init__(self, hundredths: Sequence[int], refuses: int | None = None) -> None:
        self.hundredths, self.refuses = hundredths, refuses
        self.working, self.at_work = 0, list[int]()

    async def complete(self, request: ChatRequest) -> ChatReply:
        self.working += 1
        await asyncio.sleep(self.hundredths[of(request)] / 100)
        self.at_work.append(self.working)
        self.working -= 1
        if of(request) == self.refuses:
            raise ModelError("the prompt is longer than the context", retryable=False)
        return reply(f"{of(request)} is answered")


@pytest.mark.parametrize("in_flight", [1, 4, 9])
async def test_as_many_as_asked_for_are_in_flight_while_there_are_so_many_left(in_flight: int) -> None:
    model = Slow([3, 1, 2, 0, 1, 3, 0, 2, 1])
    sample = await replay_calls(model, calls(9), in_flight)
    assert model.at_work == [min(in_flight, 9 - done) for done in range(9)]
    assert (sample.in_flight, len(sample.latencies)) == (in_flight, 9)


async def test_answers_and_latencies_are_in_the_order_of_the_work() -> None:
    slow = Slow([9, 0, 1, 4])
    sample = await replay_calls(slow, calls(4), 3)
    assert sample.texts == tuple(f"{number} is answered" for number in range(4))
    assert sample.tokens == 4 * 3
    for latency, hundredths in zip(sample.latencies, slow.hundredths, strict=True):
        assert 0.0099 * hundredths <= latency <= sample.seconds
    assert min(sample.latencies) == sample.latencies[1]


async def test_a_model_that_refuses_ends_the_replay_with_its_words() -> None:
    model = Slow([1] * 9, refuses=3)
    with pytest.raises(ReplayFailed, match=r"planner was not answered: the prompt is longer than the context") as told:
        await replay_calls(model, calls(9), 2)
    assert isinstance(told.value.__cause__, ModelError)
    assert len(model.at_work) < 6


def test_rates_percentiles_and_goodput() -> None:
    sample = Sample(2, (4.0, 1.0, 10.0, 2.0, 3.0), ("",) * 5, tokens=60, seconds=8.0)
    assert sample.p50 == 3.0 and sample.p90 == pytest.approx(7.6)
    assert (sample.rate, sample.tokens_per_s) == (0.625, 7.5)
    assert [sample.goodput(target) for target in (0.5, 3.0, 10.0)] == [0.0, 3 / 8, 5 / 8]


# What a run has.


@pytest.fixture(scope="module")
def automotive() -> Domain:
    return load_domain("automotive")


@pytest.fixture(scope="module")
def played(automotive: Domain) -> list[Rolled]:
    """Conversations between the expert as customer and the agents on the expert: six held out, two to learn from."""
    scenarios = [*automotive.scenarios(6, 1, "heldout"), *automotive.scenarios(2, 1, "train")]

    async def play() -> list[Rolled]:
        user, model = (build_model(EXPERT, automotive) for _ in range(2))
        async with Sandbox(1) as sandbox:
            team = Team.local(automotive, model, sandbox, TeamSettings())
            return [
                await converse(team, user, one, sid=f"s{number}", seed=5, speaker=EXPERT)
                for number, one in enumerate(plain(scenarios))
            ]

    return asyncio.run(play())


def plain(scenarios: Sequence[Scenario]) -> list[Scenario]:
    return [one.model_copy(update={"switches": (), "max_turns": 4}) for one in scenarios]


def recorded(folder: Path, played: Sequence[Rolled]) -> Run:
    """A run of these conversations, in two parts."""
    run = Run.create(folder, {}, "test")
    for number, half in enumerate((played[::2], played[1::2])):
        conversations = [one.conversation for one in half]
        turns = [turn for one in half for turn in reversed(one.turns)]
        tables = conversation_tables(conversations, turns, [])
        for name in ("conversations", "turns"):
            write_table(tables[name], run.path("simulate", name, f"part-{number:05}.parquet"))
    return run


def with_calls(folder: Path, agents: Sequence[str]) -> Run:
    """A run with a held-out call of each of these agents."""
    rows: list[dict[str, Any]] = [
        {
            "prompt": [{"role": "system", "content": agent}, {"role": "user", "content": str(number)}],
            "completion": [{"role": "assistant", "content": "yes"}],
            "agent": agent,
        }
        for number, agent in enumerate(agents)
    ]
    run = Run.create(folder, {}, "test")
    for split, kept in (("train", rows[:1]), ("heldout", rows[1:])):
        write_table(pa.Table.from_pylist(kept, schema=SFT_SCHEMA), run.path("corpora", "sft", f"{split}.parquet"))
    return run


def test_held_out_calls_are_drawn_by_their_seed_and_asked_as_the_agents_ask(tmp_path: Path) -> None:
    run = with_calls(tmp_path / "run", ["planner", *["planner", "understander"] * 20])
    drawn = recorded_calls(run, SYSTEM, 30, seed=1)
    assert drawn == recorded_calls(run, SYSTEM, 30, seed=1)
    assert drawn != recorded_calls(run, SYSTEM, 30, seed=2)
    assert drawn[:10] == recorded_calls(run, SYSTEM, 10, seed=1)
    whole = recorded_calls(run, SYSTEM, 99, seed=1)
    assert sorted(int(one.messages[1].content) for one in whole) == list(range(1, 41))  # 0 is to learn from
    for call in whole:
        assert [message.role for message in call.messages] == ["system", "user"]
        assert call.messages[0].content == call.agent
        assert call.sampling.max_tokens == {"planner": 77, "understander": 33}[call.agent]
        assert call.sampling.temperature == 0.0


def test_a_run_without_held_out_calls_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(NothingRecorded, match=r"corpora/sft/heldout\.parquet is not there; .*--until corpora"):
        recorded_calls(Run.create(tmp_path / "none", {}, "test"), SYSTEM, 1, 0)
    with pytest.raises(NothingRecorded, match="no conversation was held out; simulate more"):
        recorded_calls(with_calls(tmp_path / "train", ["planner"]), SYSTEM, 1, 0)


def test_held_out_conversations_without_switches_are_drawn_by_their_seed(tmp_path: Path, played: list[Rolled]) -> None:
    run = recorded(tmp_path / "run", [switched(played[0]), *played[1:]])
    talks = recorded_talks(run, 4, seed=1)
    assert len(talks) == 4
    assert talks == recorded_talks(run, 4, seed=1)
    draws = {tuple(talk.sid for talk in recorded_talks(run, 4, seed)) for seed in range(6)}
    assert len(draws) > 1
    whole = {talk.sid: talk for talk in recorded_talks(run, 99, seed=1)}
    assert sorted(whole) == ["s1", "s2", "s3", "s4", "s5"]
    for done in played[1:6]:
        scenario = Scenario.model_validate_json(done.conversation.scenario_json)
        said = tuple(turn.utterance for turn in done.turns)
        assert whole[done.conversation.sid] == Talk(done.conversation.sid, scenario.world_seed, scenario.seed, said)


def switched(done: Rolled) -> Rolled:
    scenario = Scenario.model_validate_json(done.conversation.scenario_json)
    scenario = scenario.model_copy(update={"switches": (PlannedSwitch(name="closed_today", turn=1),)})
    conversation = done.conversation.model_copy(update={"scenario_json": scenario.model_dump_json()})
    return done.model_copy(update={"conversation": conversation})


def test_a_run_without_held_out_conversations_is_refused_with_the_remedy(tmp_path: Path, played: list[Rolled]) -> None:
    with pytest.raises(NothingRecorded, match=r"simulate/conversations has no rows; .*--until simulate"):
        recorded_talks(Run.create(tmp_path / "none", {}, "test"), 1, 0)
    with pytest.raises(NothingRecorded, match="has no held-out conversation; simulate more"):
        recorded_talks(recorded(tmp_path / "train", played[6:]), 1, 0)


async def test_the_model_that_answered_in_the_record_answers_so_again(
    tmp_path: Path, played: list[Rolled], automotive: Domain
) -> None:
    talks = recorded_talks(recorded(tmp_path / "run", played), 99, seed=1)
    replies = {done.conversation.sid: [turn.reply for turn in done.turns] for done in played}
    model = build_model(EXPERT, automotive)
    alone, together = [await replay_talks(model, automotive, SYSTEM, talks, count) for count in (1, 6)]
    assert alone.texts == together.texts == tuple(text for talk in talks for text in replies[talk.sid])
    for sample in (alone, together):
        assert len(sample.latencies) == sum(len(talk.utterances) for talk in talks)
        assert 0 < min(sample.latencies) <= max(sample.latencies) <= sample.seconds
        assert sample.tokens == alone.tokens > 0


async def test_nobody_waits_for_verdicts_in_the_shadow(automotive: Domain) -> None:
    asked: list[ChatRequest] = []
    expert = build_model(EXPERT, automotive)

    class Listening:
        async def complete(self, request: ChatRequest) -> ChatReply:
            asked.append(request)
            return await expert.complete(request)

    never_asked = TeamSettings(complexity_threshold=None, shadow_share=1.0)
    sample = await replay_talks(
        Listening(), automotive, never_asked, [Talk("s", 1, 1, ("Are you open on Friday?",))], 1
    )
    assert sample.texts[0]
    assert {request.agent for request in asked} == {"understander", "planner", "explainer"}
