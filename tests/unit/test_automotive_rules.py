"""Each business rule refuses what it forbids and lets the canonical plan pass."""

import pytest

from agentmill.agents.state import DialogueState
from agentmill.domains.automotive import build
from agentmill.domains.automotive.canonical import canonical_plan
from agentmill.domains.automotive.intents import INTENTS
from agentmill.domains.automotive.rules import RULES
from agentmill.domains.base import Json
from agentmill.plans.check import check
from agentmill.plans.parse import Plan

FACTS: Json = {"hours": {"friday": ["09:00", "18:00"], "sunday": None}}
BOOKING = {"stock": "N4821", "day": "friday", "time": "15:00", "name": "Ana Brankovic", "licence": "D4471902"}
VALUES: Json = {
    **BOOKING, "reference": "T20817", "make": "Honda", "model": "Civic", "body": "suv", "fuel": "diesel",
    "max_price": 30000, "year": 2016, "mileage": 84000, "condition": "good",
}  # fmt: skip
SLOT = 'slot = check_slot(stock="N4821", day="friday", time="15:00")\n'
CHECK = 'check = verify_licence(name="Ana Brankovic", licence="D4471902")\n'
BOOK = (
    'booking = book_test_drive(stock="N4821", day="friday", time="15:00", name="Ana Brankovic", licence="D4471902")\n'
)


def broken(text: str, *, intent: str = "book_test_drive", confirmed: bool = True, **changes: object) -> set[str]:
    entities = {name: VALUES[name] for name in INTENTS[intent].required + INTENTS[intent].optional} | changes
    state = DialogueState(intent=intent, entities=entities, confirmed=confirmed)
    plan = Plan.parse(text)
    return {rule.code for rule in RULES if rule.check(plan, state, FACTS) is not None}


@pytest.mark.parametrize("intent", [intent.name for intent in INTENTS.values() if intent.tools])
@pytest.mark.parametrize("confirmed", [False, True])
def test_canonical_plans_pass_every_check(intent: str, confirmed: bool) -> None:
    entities = {name: VALUES[name] for name in INTENTS[intent].required + INTENTS[intent].optional}
    state = DialogueState(intent=intent, entities=entities, confirmed=confirmed)
    plan = Plan.parse(canonical_plan(intent, entities, confirmed=confirmed))
    assert check(plan, build(), state, FACTS) == []


def test_nothing_changes_before_the_customer_has_confirmed() -> None:
    text = f'{SLOT}{CHECK}if slot["free"] and check["verified"]:\n    {BOOK}'
    assert broken(text, confirmed=False) == {"CONFIRM_FIRST"}
    cancel = 'done = cancel_booking(reference="T20817")'
    assert broken(cancel, intent="cancel_test_drive", confirmed=False) == {"CONFIRM_FIRST"}


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        (BOOK, {"LICENCE_CHECK", "SLOT_CHECK"}),
        (f'{SLOT}{CHECK}if slot["free"]:\n    {BOOK}', {"LICENCE_CHECK"}),
        (f'{SLOT}{CHECK}if slot["free"] or check["verified"]:\n    {BOOK}', {"LICENCE_CHECK", "SLOT_CHECK"}),
        (f'{SLOT}{CHECK}if check["verified"]:\n    {BOOK}', {"SLOT_CHECK"}),
        (f'{SLOT}{CHECK}if not check["verified"]:\n    {BOOK}', {"LICENCE_CHECK", "SLOT_CHECK"}),
        (f'{SLOT}{CHECK}if slot["free"]:\n    if check["verified"]:\n        {BOOK}', set()),
        (f"{SLOT}{CHECK}if slot.free == True and check.verified:\n    {BOOK}", set()),
    ],
)
def test_a_booking_stands_under_both_checks(text: str, codes: set[str]) -> None:
    assert broken(text) == codes


def test_a_check_of_another_slot_or_driver_does_not_count() -> None:
    other = 'check = verify_licence(name="Ana Brankovic", licence="X0000000")\n'
    assert "LICENCE_CHECK" in broken(f'{SLOT}{other}if slot["free"] and check["verified"]:\n    {BOOK}')


@pytest.mark.parametrize(("day", "time"), [("friday", "18:00"), ("friday", "08:00"), ("sunday", "12:00")])
def test_bookings_keep_to_the_opening_hours(day: str, time: str) -> None:
    text = f'{SLOT}{CHECK}if slot["free"] and check["verified"]:\n    {BOOK}'
    text = text.replace("friday", day).replace("15:00", time)
    assert broken(text, day=day, time=time) == {"OPENING_HOURS"}


@pytest.mark.parametrize(
    "text",
    [
        'cars = search_inventory(make="Toyota")',
        'cars = search_inventory(make="Honda", body="suv", fuel="diesel")',
        'cars = search_inventory(make="Honda", body="suv", fuel="diesel", max_price=3000)',
    ],
)
def test_arguments_are_all_that_the_customer_said_and_nothing_else(text: str) -> None:
    assert broken(text, intent="find_vehicles") == {"GROUNDED_ARGUMENT"}


def test_a_plan_makes_at_most_one_change() -> None:
    twice = 'a = cancel_booking(reference="T20817")\nb = cancel_booking(reference="T20817")'
    assert broken(twice, intent="cancel_test_drive") == {"ONE_CHANGE"}
