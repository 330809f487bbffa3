"""Every business rule has teeth: a plan that breaks it is refused for just that, and the plan that is due passes."""

import pytest

from agentmill.domains.automotive import build
from agentmill.domains.automotive.cases import CASES, FACTS, due, situation
from agentmill.domains.automotive.intents import INTENTS
from agentmill.domains.automotive.rules import RULES
from agentmill.domains.base import Situation
from agentmill.plans.check import check
from agentmill.plans.parse import Plan

SLOT = 'slot = check_slot(stock="N4821", day="friday", time="15:00")\n'
CHECK = 'check = verify_licence(name="Ana Brankovic", licence="D4471902")\n'
BOOK = (
    'booking = book_test_drive(stock="N4821", day="friday", time="15:00", name="Ana Brankovic", licence="D4471902")\n'
)
PLANNED = [intent.name for intent in INTENTS.values() if intent.tools]
PAIRS = (
    ("find_vehicles", "book_test_drive"), ("value_trade_in", "finance_quote"), ("opening_hours", "directions"),
    ("vehicle_details", "check_availability"), ("check_booking", "opening_hours"), ("order_status", "opening_hours"),
)  # fmt: skip


def codes(case: Situation) -> list[str]:
    return [found.code for found in check(Plan.parse(case.plan), build(), case.state, case.facts)]


def test_there_are_at_least_25_rules_and_each_has_its_case() -> None:
    assert len(RULES) >= 25
    assert set(CASES) == {rule.code for rule in RULES}


@pytest.mark.parametrize("code", CASES)
def test_a_rule_refuses_what_it_forbids_and_nothing_else_does(code: str) -> None:
    assert codes(CASES[code].violates) == [code]


@pytest.mark.parametrize("code", CASES)
def test_a_rule_lets_pass_what_keeps_it(code: str) -> None:
    assert codes(CASES[code].keeps) == []


@pytest.mark.parametrize("intent", PLANNED)
@pytest.mark.parametrize("confirmed", [False, True])
def test_plans_that_are_due_pass_every_check(intent: str, confirmed: bool) -> None:
    assert codes(due(intent, confirmed=confirmed)) == []


@pytest.mark.parametrize("pair", PAIRS)
def test_two_requests_make_one_plan_whose_second_part_takes_from_the_first(pair: tuple[str, str]) -> None:
    supplied = dict.fromkeys(INTENTS[pair[0]].supplies)
    case = due(*pair, confirmed=False, **supplied)
    assert codes(case) == []
    plan = Plan.parse(case.plan)
    assert {call.tool for call in plan.calls} & set(INTENTS[pair[0]].tools)
    assert {call.tool for call in plan.calls} & set(INTENTS[pair[1]].tools)
    assert supplied == {} or any("[" in line.split("(", 1)[1] for line in case.plan.splitlines() if "(" in line)


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        (BOOK, {"LICENCE_CHECK", "SLOT_CHECK"}),
        (f'{SLOT}{CHECK}if slot["free"] or check["verified"]:\n    {BOOK}', {"LICENCE_CHECK", "SLOT_CHECK"}),
        (f'{SLOT}{CHECK}if not check["verified"]:\n    {BOOK}', {"LICENCE_CHECK", "SLOT_CHECK"}),
        (f'{SLOT}{CHECK}if slot["free"]:\n    if check["verified"]:\n        {BOOK}', set()),
        (f"{SLOT}{CHECK}if slot.free == True and check.verified:\n    {BOOK}", set()),
    ],
)
def test_a_booking_stands_under_both_checks(text: str, broken: set[str]) -> None:
    assert set(codes(situation(text, "book_test_drive"))) == broken


def test_a_check_of_another_slot_or_driver_does_not_count() -> None:
    other = 'check = verify_licence(name="Ana Brankovic", licence="X0000000")\n'
    text = f'{SLOT}{other}if slot["free"] and check["verified"]:\n    {BOOK}'
    assert "LICENCE_CHECK" in codes(situation(text, "book_test_drive"))


@pytest.mark.parametrize(("day", "time"), [("friday", "18:00"), ("friday", "08:00"), ("sunday", "12:00")])
def test_bookings_keep_to_the_opening_hours(day: str, time: str) -> None:
    assert codes(due("book_test_drive", day=day, time=time)) == ["OPENING_HOURS"]


@pytest.mark.parametrize(
    "text",
    [
        'cars = search_inventory(make="Toyota")',
        'cars = search_inventory(make="Honda", body="suv", fuel="diesel")',
        'cars = search_inventory(make="Honda", body="suv", fuel="diesel", max_price=3000)',
    ],
)
def test_arguments_are_all_that_the_customer_said_and_nothing_else(text: str) -> None:
    assert codes(situation(text, "find_vehicles")) == ["GROUNDED_ARGUMENT"]


def test_a_lower_discount_than_asked_for_may_be_quoted_and_a_higher_one_not() -> None:
    asked = situation('offer = quote_price(stock="N4821", discount=5)', "price_offer", discount=9)
    assert codes(asked) == []
    more = situation('offer = quote_price(stock="N4821", discount=5)', "price_offer", discount=3)
    assert codes(more) == ["GROUNDED_ARGUMENT"]


def test_each_of_two_requests_may_make_its_change() -> None:
    both = due("cancel_test_drive", "reserve_vehicle")
    assert codes(both) == []
    assert FACTS["limits"]["max_discount"] == 5
