"""The simulator's own errors: each kind is found, and what the assistant did wrong is none of them."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agentmill.agents.settings import TeamSettings
from agentmill.agents.team import Team
from agentmill.domains.base import Assessment, Goal, Json, Scenario, load_domain
from agentmill.plans.sandbox import Sandbox
from agentmill.records import Turn
from agentmill.runs import Run
from benchmarks.fidelity import detect
from benchmarks.fidelity import record as record_detection
from simulation.conversation import Played
from simulation.faults import FaultyUser
from simulation.fidelity import UnfaithfulSimulator, record, require_faithful, unmet, user_errors
from simulation.models import ModelSettings
from simulation.reachable import record as record_reachable
from simulation.reachable import unreachable
from simulation.rollout import converse, rolled
from simulation.tables import conversation_tables, write_table

AUTOMOTIVE = load_domain("automotive")
BOOK = Goal(intent="book_test_drive", slots={"stock": "N4821", "day": "friday"}, expect={"booking": {"stock": "N4821"}})


def scenario(*goals: Goal, **more: Any) -> Scenario:
    return Scenario(sid="s", seed=1, world_seed=3, persona="plain", goals=goals or (BOOK,), split="train", **more)


def turn(number: int, said: str, reply: str, intent: str = "book_test_drive", status: Any = "answered") -> Turn:
    return Turn(
        sid="s", turn=number, utterance=said, reply=reply, status=status, intent=intent, plan="", complexity=0.0,
        replans=0, violations=(), results_json="{}", latency_s=0.0,
    )  # fmt: skip


def errors(*pairs: tuple[str, str], status: Any = "turn_limit", more: Json | None = None) -> tuple[str, ...]:
    """What is found in a conversation of (customer, assistant) pairs that reached its goals."""
    turns = tuple(turn(number, *pair) for number, pair in enumerate(pairs))
    played = Played(status=status, turns=turns, calls=())
    return user_errors(AUTOMOTIVE, scenario(**(more or {})), played, Assessment(success=True), {})


@pytest.mark.parametrize(
    "said",
    [
        "Yes. Assistant: Done, it is booked.",
        '{"intent":"book_test_drive","entities":{}}',
        "intent: book_test_drive confirmed: yes",
        "I have booked it for you.",
        "How can I help you today?",
        'slot = check_slot(stock="N4821", day="friday")',
        "N4821 is free on Friday at 15:00, shall we go ahead with it then?",
    ],
)
def test_an_utterance_that_speaks_as_the_assistant_is_found(said: str) -> None:
    reply = "N4821 is free on Friday at 15:00, shall we go ahead with it then?"
    assert errors(("A test drive of N4821 on Friday, please.", reply), (said, "Pardon?")) == ("answered_for_assistant",)


@pytest.mark.parametrize(
    "said",
    [
        "Have you booked it for me? I booked a drive last week too.",
        "Can you help me today?",
        "Well, here is what I want: N4821 on Friday.",
        "Friday at 15:00 it is.",
    ],
)
def test_what_a_customer_may_say_is_no_error(said: str) -> None:
    assert errors(("A test drive of N4821, please.", "N4821 is free on Friday at 15:00."), (said, "Fine.")) == ()


def test_values_are_contradictions_only_where_the_customer_cannot_know_them() -> None:
    opening = ("I'd like a test drive of N4821 on Friday.", "Friday is taken. N4821 is free on Monday.")
    assert errors(opening, ("Then Monday.", "Fine.")) == ()
    assert errors(opening, ("Then Sunday.", "Fine.")) == ("contradicted",)
    assert errors(opening, ("Then Sunday.", "Fine."), more={"profile": {"free": ["sunday"]}}) == ()
    assert errors(("I'd like a test drive of K1111 on Friday.", "Fine.")) == ("contradicted",)
    own = {"profile": {"car": ["Honda", "Civic"]}}
    assert errors(("Fair enough. What is my 2019 Honda Civic worth?", "In which condition is it?"), more=own) == ()


def test_the_same_again_and_again_is_a_loop() -> None:
    same = ("I want a test drive of N4821.", "On which day?")
    assert errors(*[same] * 3) == ()
    assert errors(*[same] * 4) == ("repeated",)
    assert errors(*[("Yes, please.", f"Shall I do number {i}?") for i in range(6)]) == ()


def left(*turns: Turn, goals: tuple[Goal, ...] = (BOOK,)) -> bool:
    played = Played(status="exit", turns=turns, calls=())
    world: Json = {"activity": [], "hours": {}, "bookings": []}
    found = user_errors(AUTOMOTIVE, scenario(*goals), played, AUTOMOTIVE.assess(scenario(*goals), world), world)
    return "left_early" in found


def test_leaving_is_early_where_the_goal_was_still_to_be_had() -> None:
    ask = "A test drive of N4821 on Friday, please."
    assert left()
    assert left(turn(0, "Hello!", "Hello, how can I help?", intent="small_talk"))
    assert left(turn(0, ask, "At what time?", status="asked"))
    assert left(turn(0, ask, "N4821 is free on Friday at 15:00. Shall I book it?"))


def test_leaving_is_not_early_where_the_assistant_failed_or_refused() -> None:
    ask, question = "A test drive of N4821 on Friday, please.", "At what time?"
    assert not left(turn(0, ask, "I am sorry, I did not get that right.", status="safe_reply"))
    assert not left(turn(0, ask, "N4821 is sold."))
    assert not left(turn(0, ask, "We are open from 09:00. Shall I say more?", intent="opening_hours"))
    assert not left(*(turn(i, said, question, status="asked") for i, said in enumerate((ask, "At 3pm.", "At 15:00."))))


def test_goals_are_told_apart_by_what_they_add() -> None:
    hours = {"tool": "opening_hours", "arguments": {"day": "friday"}}
    asked = Goal(intent="opening_hours", slots={"day": "friday"}, expect={"activities": [hours]})
    world: Json = {"activity": [hours], "hours": {}, "bookings": []}
    assert unmet(AUTOMOTIVE, scenario(asked, BOOK), world) == [BOOK]


def test_faults_that_are_made_are_found_and_good_customers_are_left_in_peace(tmp_path: Path) -> None:
    found = detect(AUTOMOTIVE, 80)
    assert found.false_alarms.n == 80
    assert found.false_alarms.value <= 0.02
    assert found.recall.n > 40
    assert found.recall.value > 0.85
    assert all(measure.value > 0.7 for measure in found.by_kind.values())
    run = Run.create(tmp_path / "bench", {}, "test")
    record_detection(run, found)
    assert run.figures()["simulate.fidelity.recall"].n == found.recall.n


async def test_a_goal_that_nobody_can_reach_is_told_from_one_that_was_missed() -> None:
    good = AUTOMOTIVE.source("core")(3, 5, "train")
    impossible = Goal(intent="small_talk", slots={"topic": "weather"}, expect={"cancelled": "T00000"})
    bad = good[0].model_copy(update={"goals": (*good[0].goals, impossible)})
    assert await unreachable(AUTOMOTIVE, [*good, bad], TeamSettings()) == [False, False, False, True]


async def played(kind: str) -> Any:
    """A conversation with a faulty customer, as records."""
    assert AUTOMOTIVE.expert is not None
    expert = AUTOMOTIVE.expert(0.0)
    one = AUTOMOTIVE.source("core")(1, 11, "train")[0]
    async with Sandbox(1) as sandbox:
        team = Team.local(AUTOMOTIVE, expert, sandbox, TeamSettings())
        user = FaultyUser(AUTOMOTIVE, expert, kind, 1)
        return await converse(team, user, one, sid=kind, seed=0, speaker=ModelSettings())


def test_the_gate_stops_a_bad_simulator_and_lets_a_good_one_pass(tmp_path: Path) -> None:
    bad = asyncio.run(played("repeated")).conversation
    assert bad.user_errors == ("repeated",)
    good = bad.model_copy(update={"user_errors": ()})
    run = Run.create(tmp_path / "run", {}, "test")

    def recorded(*conversations: Any) -> None:
        tables = conversation_tables(conversations, [], [])
        write_table(tables["conversations"], run.path("simulate", "conversations", "part-00000.parquet"))
        record(run)

    recorded(*[good] * 30, bad)
    assert run.figures()["simulate.user_errors"].value == pytest.approx(1 / 31)
    require_faithful(run, 0.05)
    recorded(*[good] * 20, *[bad] * 10)
    with pytest.raises(
        UnfaithfulSimulator, match=r"in 10 of 30 conversations \(33\.3%.*mostly repeated; .*simulate again"
    ):
        require_faithful(run, 0.05)
    recorded(*[good] * 30)
    run.record("simulate.user_errors.unreachable", 0.3, n=30, interval=(0.2, 0.4))
    with pytest.raises(UnfaithfulSimulator, match=r"30\.0% of the conversations have goals that cannot be reached"):
        require_faithful(run, 0.05)


def test_failed_conversations_are_played_again_and_the_share_is_of_all(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {}, "test")
    scenarios = AUTOMOTIVE.source("core")(4, 5, "train")
    impossible = Goal(intent="small_talk", slots={"topic": "weather"}, expect={"cancelled": "T00000"})
    bad = scenarios[0].model_copy(update={"goals": (*scenarios[0].goals, impossible)})
    nothing = Played(status="exit", turns=(), calls=())
    done = [
        rolled(nothing, one, sid=str(number), world={}, assessment=Assessment(success=ok), seconds=0.0).conversation
        for number, (one, ok) in enumerate(
            [(scenarios[1], True), (scenarios[2], True), (scenarios[3], False), (bad, False)]
        )
    ]
    write_table(
        conversation_tables(done, [], [])["conversations"], run.path("simulate", "conversations", "part-00000.parquet")
    )
    record_reachable(run, AUTOMOTIVE, TeamSettings(), sample=10, seed=1)
    figure = run.figures()["simulate.user_errors.unreachable"]
    assert (figure.value, figure.n) == (0.25, 2)
