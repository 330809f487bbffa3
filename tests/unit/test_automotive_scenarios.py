"""Scenarios are deterministic, achievable and split; success is decided by the final world."""

import time

import pytest

from agentmill.domains.automotive.assess import assess
from agentmill.domains.automotive.coverage import generate_coverage
from agentmill.domains.automotive.documents import documents
from agentmill.domains.automotive.grounding import GROUNDING
from agentmill.domains.automotive.intents import INTENTS
from agentmill.domains.automotive.scenarios import generate, generate_core
from agentmill.domains.automotive.seed import HELDOUT_SEEDS, TRAIN_SEEDS, world_data
from agentmill.domains.automotive.tools import TOOLS
from agentmill.domains.automotive.world import AutomotiveWorld
from agentmill.domains.base import Goal, Json, Scenario, ScenarioSource


def test_a_thousand_scenarios_are_made_in_seconds_and_always_the_same() -> None:
    began = time.perf_counter()
    scenarios = generate(1000, 7, "train")
    assert time.perf_counter() - began < 5
    assert scenarios[:50] == generate(50, 7, "train")
    assert len({scenario.sid for scenario in scenarios}) == 1000
    assert {goal.intent for scenario in scenarios for goal in scenario.goals} == set(INTENTS)
    assert all(1 <= sum(bool(INTENTS[goal.intent].tools) for goal in s.goals) <= 3 for s in scenarios)
    assert len({goal.intent for s in generate_core(500, 7, "train") for goal in s.goals}) == 9


def test_held_out_scenarios_share_no_world_and_no_customer_with_training() -> None:
    assert {scenario.world_seed for scenario in generate(200, 7, "heldout")} <= set(HELDOUT_SEEDS)
    trained = {customer.name for seed in TRAIN_SEEDS for customer in world_data(seed).customers}
    held_out = {customer.name for seed in HELDOUT_SEEDS for customer in world_data(seed).customers}
    assert len(trained & held_out) < 0.01 * len(held_out)
    with pytest.raises(ValueError, match="heldout"):
        generate(1, 7, "test")


@pytest.mark.parametrize("source", [generate, generate_core, generate_coverage])
def test_every_goal_can_be_reached_in_its_world(source: ScenarioSource) -> None:
    for scenario in source(300, 3, "heldout"):
        if scenario.switches:
            continue  # its end is that of a world which changes meanwhile
        world = AutomotiveWorld(scenario.world_seed)
        for goal in scenario.goals:
            _fulfil(world, goal)
        assert assess(scenario, world.snapshot()).reasons == ()
        world.close()


DEEDS = {
    "booking": "book_test_drive",
    "moved": "move_booking",
    "visit": "book_service",
    "reservation": "reserve_vehicle",
    "lead": "capture_lead",
}


def _fulfil(world: AutomotiveWorld, goal: Goal) -> None:
    """Do what the goal asks for, by the tools."""
    for wanted in goal.expect.get("activities", []):
        _call(world, wanted["tool"], wanted["arguments"])
    for kind, tool in DEEDS.items():
        if kind in goal.expect:
            _call(world, tool, goal.expect[kind])
    if "cancelled" in goal.expect:
        _call(world, "cancel_booking", {"reference": goal.expect["cancelled"]})
    if "visit_cancelled" in goal.expect:
        _call(world, "cancel_service", {"reference": goal.expect["visit_cancelled"]})
    if "delivery" in goal.expect:
        delivery = goal.expect["delivery"]
        _call(world, "move_delivery", {"order": delivery["number"], "day": delivery["day"]})


def test_all_scenarios_hold_every_kind_of_wish() -> None:
    goals = [goal for scenario in generate(1500, 5, "train") for goal in scenario.goals]
    pairs = {(goal.intent, *goal.also) for goal in goals if goal.also}
    assert len(pairs) == 8
    slots = {name.partition("_")[0] for goal in goals for name in goal.slots}
    assert {"else", "mind"} <= slots
    kinds = {kind for goal in goals for kind in goal.expect}
    assert kinds == {"activities", "cancelled", "visit_cancelled", "delivery", *DEEDS}


def _call(world: AutomotiveWorld, tool: str, arguments: Json) -> None:
    TOOLS[tool].function(world, **arguments)
    world.record(tool, arguments)
    world.commit()


def _booking_scenario() -> tuple[Scenario, Json]:
    scenario = next(s for s in generate_core(100, 1, "train") if [set(g.expect) for g in s.goals] == [{"booking"}])
    world = AutomotiveWorld(scenario.world_seed)
    _fulfil(world, scenario.goals[0])
    snapshot = world.snapshot()
    world.close()
    return scenario, snapshot


def test_what_nobody_asked_for_fails_a_conversation() -> None:
    scenario, snapshot = _booking_scenario()
    assert assess(scenario, snapshot).success
    assert not assess(scenario, {**snapshot, "bookings": []}).success
    assert not assess(scenario, {**snapshot, "bookings": snapshot["bookings"] * 2}).success
    assert not assess(scenario, {**snapshot, "cancelled": ["T12345"]}).success
    other = [{**snapshot["bookings"][0], "stock": "A0001"}]
    assert not assess(scenario, {**snapshot, "bookings": other}).success


def test_a_broken_rule_fails_a_conversation() -> None:
    scenario, snapshot = _booking_scenario()
    unverified = [{**snapshot["bookings"][0], "verified": False}]
    assert any("LICENCE_CHECK" in r for r in assess(scenario, {**snapshot, "bookings": unverified}).reasons)
    closed = {**snapshot["hours"], snapshot["bookings"][0]["day"]: None}
    assert any("OPENING_HOURS" in r for r in assess(scenario, {**snapshot, "hours": closed}).reasons)


@pytest.mark.parametrize(
    ("reply", "facts"),
    [
        ("N4821 is a 2021 Toyota RAV4 for $27,450.", []),
        ("It is free on Friday at 3 pm for Ana Brankovic.", []),
        ("It is free on Monday at 15:00.", ["monday"]),
        ("N4822 costs $27500.", ["n4822", "27500"]),
        ("Ask for Gregor. It comes with a 24 month warranty.", ["24", "gregor"]),
        ("It is a diesel in blue.", ["diesel", "blue"]),
        ("Hello! Welcome to Northgate Motors, how can I help you?", []),
        ("Honda has better ones.", ["honda"]),
    ],
)
def test_facts_that_occur_nowhere_are_found(reply: str, facts: list[str]) -> None:
    context = {
        "results": {"car": {"year": 2021, "make": "Toyota", "model": "RAV4", "price": 27450}},
        "state": {"stock": "N4821", "day": "friday", "time": "15:00"},
        "utterance": "I'm Ana Brankovic",
    }
    assert GROUNDING.ungrounded(reply, context) == facts


def test_documents_come_with_their_contexts() -> None:
    rows = documents()
    assert len(rows) > 500
    assert all(row.keys() == {"document", "context", "source"} and row["document"] for row in rows)
