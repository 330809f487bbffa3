"""The library's scenarios are deterministic, achievable and split; success is decided by the final world."""

import pytest

from agentmill.domains.base import Goal, Json, Scenario
from agentmill.domains.library_desk import build
from agentmill.domains.library_desk.assess import assess
from agentmill.domains.library_desk.documents import documents
from agentmill.domains.library_desk.intents import FREE_TEXT_INTENTS, INTENTS
from agentmill.domains.library_desk.scenarios import WISHES, generate
from agentmill.domains.library_desk.seed import HELDOUT_SEEDS, TRAIN_SEEDS
from agentmill.domains.library_desk.tools import TOOLS
from agentmill.domains.library_desk.world import LibraryWorld


def test_scenarios_are_always_the_same_and_cover_every_intent_and_every_pair() -> None:
    scenarios = generate(600, 7, "train")
    assert scenarios[:50] == generate(50, 7, "train")
    assert len({scenario.sid for scenario in scenarios}) == 600
    wishes = {"+".join((goal.intent, *goal.also)) for scenario in scenarios for goal in scenario.goals}
    assert wishes == {*WISHES, *FREE_TEXT_INTENTS}
    assert {intent for wish in wishes for intent in wish.split("+")} == set(INTENTS)
    slots = {slot for scenario in scenarios for goal in scenario.goals for slot in goal.slots}
    assert {"else_pin", "else_book", "else_amount", "mind_book", "mind_amount"} <= slots


def test_each_split_plays_in_worlds_of_its_own() -> None:
    assert {scenario.world_seed for scenario in generate(100, 7, "heldout")} <= set(HELDOUT_SEEDS)
    assert {scenario.world_seed for scenario in generate(100, 7, "train")} <= set(TRAIN_SEEDS)
    with pytest.raises(ValueError, match="heldout"):
        generate(1, 7, "test")


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_every_goal_can_be_reached_in_its_world(split: str) -> None:
    for scenario in generate(200, 3, split):
        snapshot = fulfilled(scenario)
        assert assess(scenario, snapshot).reasons == ()


def fulfilled(scenario: Scenario) -> Json:
    """The world after all goals were done by the tools, every card shown with its right PIN."""
    world = LibraryWorld(scenario.world_seed)
    for goal in scenario.goals:
        if "card" in goal.slots:
            pin = goal.slots.get("else_pin", goal.slots["pin"])
            _call(world, "check_reader", {"card": goal.slots["card"], "pin": pin})
        for tool, arguments in _deeds(goal):
            _call(world, tool, arguments)
    world.commit()
    snapshot = world.snapshot()
    world.close()
    return snapshot


def _deeds(goal: Goal) -> list[tuple[str, Json]]:
    deeds = [(item["tool"], item["arguments"]) for item in goal.expect.get("activities", ())]
    if "holds" in goal.expect:
        deeds.append(("place_hold", goal.expect["holds"]))
    if "cancelled" in goal.expect:
        deeds.append(("cancel_hold", {"hold": goal.expect["cancelled"], "card": goal.slots["card"]}))
    if "renewed" in goal.expect:
        deeds.append(("renew_loan", goal.expect["renewed"]))
    if "payments" in goal.expect:
        deeds.append(("pay_fine", goal.expect["payments"]))
    return deeds


def _call(world: LibraryWorld, tool: str, arguments: Json) -> None:
    TOOLS[tool].function(world, **arguments)
    world.record(tool, arguments)


def with_a_hold() -> tuple[Scenario, Json]:
    scenario = next(s for s in generate(200, 1, "train") if [set(g.expect) for g in s.goals] == [{"holds"}])
    return scenario, fulfilled(scenario)


@pytest.mark.parametrize(
    "change",
    [
        {"holds": []},
        {"cancelled": ["H12345"]},
        {"renewed": [{"book": "B1000", "card": "C100000"}]},
        {"payments": [{"receipt": "P10000", "card": "C100000", "amount": 1, "owed": 0}]},
        {"identified": []},
    ],
)
def test_what_is_missing_and_what_nobody_asked_for_fail_a_conversation(change: Json) -> None:
    scenario, snapshot = with_a_hold()
    assert assess(scenario, snapshot).success
    assert not assess(scenario, {**snapshot, **change}).success


def test_a_hold_of_another_book_twice_or_above_the_limit_fails_a_conversation() -> None:
    scenario, snapshot = with_a_hold()
    hold = snapshot["holds"][0]
    for holds in ([{**hold, "book": "B0000"}], [hold, hold], [{**hold, "of_reader": 99}]):
        assert not assess(scenario, {**snapshot, "holds": holds}).success


def test_a_refusal_that_was_not_looked_up_fails_a_conversation() -> None:
    refused = next(s for s in generate(200, 1, "train") if [set(g.expect) for g in s.goals] == [{"activities"}])
    assert assess(refused, fulfilled(refused)).success
    assert not assess(refused, {**fulfilled(refused), "activity": []}).success


def test_documents_come_with_their_contexts_and_say_nothing_of_readers() -> None:
    rows = documents()
    assert len(rows) > 500
    assert all(row.keys() == {"document", "context", "source"} and row["document"] for row in rows)
    assert not any("PIN " in row["document"] and row["source"].endswith("catalogue") for row in rows)


@pytest.mark.parametrize(
    ("reply", "facts"),
    [
        ("B2047 is The Silent Harbour by Ada Lehmann from 1998, on poetry; 2 of 3 copies are in.", []),
        ("Welcome to Harbour Street Library. Your PIN please.", []),
        ("B2048 is on crime.", ["b2048", "crime"]),
        ("It is due on Monday, says Gregor.", ["monday", "gregor"]),
    ],
)
def test_facts_that_occur_nowhere_are_found(reply: str, facts: list[str]) -> None:
    found = {"title": "The Silent Harbour", "author": "Ada Lehmann", "year": 1998, "subject": "poetry", "in": 2}
    context = {"results": {"found": {**found, "copies": 3}}, "state": {"book": "B2047"}, "utterance": ""}
    assert build().grounded(reply, context) == facts
