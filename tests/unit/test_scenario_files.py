"""Scenarios drawn one by one, the ids of conversations, and finished conversations as Arrow tables."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from agentmill.agents.settings import TeamSettings
from agentmill.domains.base import Domain, Goal, Scenario, load_domain
from agentmill.domains.kit.scenarios import Drawn
from agentmill.models.chat import Message
from agentmill.records import Call, Conversation, Turn
from agentmill.runs import digest_json
from simulation.models import ModelSettings
from simulation.rolled import Rolled, pack, unpack
from simulation.scenarios import conversation_sid, draw_scenarios, made_with, read_sids, write_scenarios
from simulation.tables import conversation_tables

DOMAIN = load_domain("automotive")
EXPERT = ModelSettings()


def scenario(number: int, split: str = "train") -> Scenario:
    goal = Goal(intent="small_talk", slots={}, expect={})
    return Scenario(
        sid=f"{split}{number}", seed=number, world_seed=number, persona="plain", goals=(goal,), split=split,
    )  # fmt: skip


def test_a_drawn_sequence_makes_what_is_looked_at_and_nothing_else() -> None:
    made: list[int] = []

    def draw(number: int) -> Scenario:
        made.append(number)
        return scenario(number)

    drawn = Drawn(10**9, draw)
    assert len(drawn) == 10**9
    assert [one.seed for one in drawn[7:9]] == [7, 8]
    assert drawn[-1].seed == 10**9 - 1
    assert next(iter(drawn)).seed == 0
    assert made == [7, 8, 10**9 - 1, 0]
    assert Drawn(3, scenario) == [scenario(0), scenario(1), scenario(2)]
    assert Drawn(3, scenario) != [scenario(0), scenario(1), scenario(1)]
    with pytest.raises(IndexError):
        Drawn(3, scenario)[3]


def test_scenarios_are_written_as_they_are_drawn_and_stay_while_the_same_are_asked_for(tmp_path: Path) -> None:
    path, drawn = tmp_path / "scenarios.parquet", {"conversations": 3000}
    source = lambda count, seed, split: Drawn(count, lambda i: scenario(i // 2 if i < 4 else i, split))  # noqa: E731
    write_scenarios(path, draw_scenarios(source, 3000, 0.1, 0), "v", drawn)
    rows = pq.read_table(path).to_pylist()
    assert len(rows) == 2996  # two of each split were drawn twice
    assert [row["split"] for row in rows] == ["train"] * 2698 + ["heldout"] * 298
    assert rows[0]["sid"] == conversation_sid(scenario(0), "v")
    assert read_sids(path).to_pylist() == [row["sid"] for row in rows]
    assert pq.read_metadata(path).num_row_groups == 3

    def never() -> Iterator[Scenario]:
        yield scenario(0)
        raise AssertionError("drawn again")

    write_scenarios(path, never(), "v", drawn)
    with pytest.raises(AssertionError, match="drawn again"):
        write_scenarios(path, never(), "v", {"conversations": 3001})
    assert len(read_sids(path)) == 2996


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 1},
        {"system": TeamSettings(max_replans=1)},
        {"system": TeamSettings(prompts="full")},
        {"teacher": ModelSettings(mistake_rate=0.1)},
        {"user": ModelSettings(kind="endpoint", url="http://127.0.0.1:1/v1", name="m")},
    ],
    ids=["seed", "settings", "prompts", "teacher", "user"],
)
def test_a_conversations_id_depends_on_what_decides_how_it_goes(changed: dict[str, object]) -> None:
    given: dict[str, object] = {
        "domain": DOMAIN, "system": TeamSettings(), "teacher": EXPERT, "user": EXPERT, "seed": 0,
    }  # fmt: skip
    before, after = (digest_json(made_with(**one)) for one in (given, {**given, **changed}))  # type: ignore[arg-type]
    assert conversation_sid(scenario(1), before) != conversation_sid(scenario(1), after)
    assert conversation_sid(scenario(1), before) != conversation_sid(scenario(2), before)


def test_a_reworded_prompt_gives_other_ids_and_a_longer_time_out_the_same() -> None:
    def variant(domain: Domain, system: TeamSettings) -> str:
        return digest_json(made_with(domain, system, EXPERT, EXPERT, 0))

    from dataclasses import replace

    brief = DOMAIN.prompts["brief"]
    reworded = replace(DOMAIN, prompts={**DOMAIN.prompts, "brief": {**brief, "planner": "Plan."}})
    judged = replace(DOMAIN, prompts={**DOMAIN.prompts, "brief": {**brief, "judge": "Judge."}})
    same = variant(DOMAIN, TeamSettings())
    assert variant(reworded, TeamSettings()) != same
    assert variant(judged, TeamSettings()) == same  # the judge has no part in a conversation
    assert variant(DOMAIN, TeamSettings(call_timeout_s=9.0)) == same


def played(sid: str, turns: int, latency_s: float = 0.5) -> Rolled:
    messages = (Message(role="system", content="s"), Message(role="user", content="ü\n"))
    conversation = Conversation(
        sid=sid, scenario_json=scenario(3, "heldout").model_dump_json(), status="exit", success=True,
        reasons=("a", "b"), turns=turns, calls=turns, world_json="{}", seconds=2 * latency_s,
    )  # fmt: skip
    made = tuple(
        Turn(
            sid=sid, turn=i, utterance="u", reply="r", status="answered", intent="x", plan="", complexity=1.5,
            replans=0, violations=("V",), results_json="{}", latency_s=latency_s,
        )
        for i in range(turns)
    )  # fmt: skip
    calls = tuple(
        Call(
            call_id=f"{sid}-{i}-0", sid=sid, turn=i, index=0, agent="planner", messages=messages, output="o",
            status="ok", model="m", prompt_tokens=1, completion_tokens=2, latency_s=latency_s,
        )
        for i in range(turns)
    )  # fmt: skip
    return Rolled(conversation=conversation, turns=made, calls=calls)


def test_packed_conversations_give_the_same_tables_in_whatever_order_they_are_taken() -> None:
    done = [played("a", 2), played("b", 0), played("c", 3)]
    packed = pack(done)
    assert packed["sid"].to_pylist() == ["a", "b", "c"]
    taken = unpack(packed.take([2, 1, 0]))
    wanted = conversation_tables(
        [one.conversation for one in done[::-1]], [t for one in done[::-1] for t in one.turns],
        [c for one in done[::-1] for c in one.calls],
    )  # fmt: skip
    for name in ("conversations", "turns", "calls"):
        assert taken[name].equals(wanted[name]), name
        assert taken[name].schema.equals(wanted[name].schema, check_metadata=True)
    row = taken["conversations"].to_pylist()[0]
    assert (row["scenario"], row["split"], row["world_seed"]) == ("heldout3", "heldout", 3)
    timings = taken["timings"].to_pylist()
    assert [(row["kind"], row["sid"]) for row in timings[:4]] == [
        ("conversation", "c"), ("turn", "c"), ("turn", "c"), ("turn", "c"),
    ]  # fmt: skip
    assert len(timings) == 3 + 5 + 5


def test_what_a_clock_measured_is_in_the_timings_alone() -> None:
    one, other = unpack(pack([played("a", 2, 0.1)])), unpack(pack([played("a", 2, 0.2)]))
    for name in ("conversations", "turns", "calls"):
        assert one[name].equals(other[name]), name
    assert one["timings"]["seconds"].to_pylist() == [0.2, 0.1, 0.1, 0.1, 0.1]
