"""Every rule of the library has a plan that breaks it and the canonical plan that keeps it."""

import pytest

from agentmill.domains.base import Situation
from agentmill.domains.library_desk import build
from agentmill.domains.library_desk.cases import CASES, due
from agentmill.domains.library_desk.rules import RULES
from agentmill.plans.check import check
from agentmill.plans.parse import Plan

DOMAIN = build()
JOINED = (
    ("find_books", "place_hold"), ("book_details", "place_hold"), ("my_loans", "renew_loan"), ("my_fines", "pay_fine"),
)  # fmt: skip


def codes(case: Situation) -> list[str]:
    return [found.code for found in check(Plan.parse(case.plan), DOMAIN, case.state, case.facts)]


def test_every_rule_has_its_case() -> None:
    assert {rule.code for rule in RULES} == CASES.keys()


@pytest.mark.parametrize("code", CASES)
def test_a_rule_refuses_what_it_forbids_and_nothing_else_is_wrong(code: str) -> None:
    assert codes(CASES[code].violates) == [code]


@pytest.mark.parametrize("code", CASES)
@pytest.mark.parametrize("confirmed", [False, True])
def test_the_plan_that_is_due_keeps_every_rule(code: str, confirmed: bool) -> None:
    assert codes(due(CASES[code].violates.state.intent, confirmed=confirmed)) == []


@pytest.mark.parametrize("requests", [*((name,) for name, i in DOMAIN.intents.items() if i.tools), *JOINED])
def test_every_request_and_every_pair_has_a_plan_that_keeps_the_rules(requests: tuple[str, ...]) -> None:
    supplied = DOMAIN.intents[requests[0]].supplies if requests[1:] else ()
    case = due(*requests, confirmed=False, without=supplied)
    assert codes(case) == []
    assert {call.tool for call in Plan.parse(case.plan).calls} <= set(DOMAIN.tools_of(requests))


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ('check_reader(card="C204816"', 'check_reader(card="C999999"', "IDENTITY_FIRST"),
        ('check_copy(book="B2047")', 'check_copy(book="B9999")', "COPY_CHECK"),
        ('account["clear"] and', 'not account["clear"] and', "FINE_LIMIT"),
        ('"within_limit"] and', '"within_limit"] or', "HOLD_LIMIT"),
    ],
)
def test_a_check_of_another_value_or_the_other_answer_does_not_count(old: str, new: str, code: str) -> None:
    case = due("place_hold", confirmed=True)
    assert old in case.plan
    assert code in codes(Situation(case.plan.replace(old, new), case.state))
