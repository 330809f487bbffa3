"""Checks before a plan runs: names, signatures and types, confirmation, and the domain's rules."""

import pytest

from agentmill.agents.state import DialogueState
from agentmill.plans.check import check
from agentmill.plans.parse import Plan
from tests.fakes import LEND_PLAN, library

DOMAIN = library()


def codes(text: str, intent: str = "lend", confirmed: bool = True) -> list[str]:
    state = DialogueState(intent=intent, confirmed=confirmed)
    return [found.code for found in check(Plan.parse(text), DOMAIN, state, {})]


def test_a_right_plan_has_no_violation() -> None:
    assert codes(LEND_PLAN) == []
    assert codes("books = list_books(shelf=4, longest=3)", "browse") == []
    assert codes("books = list_books()", "browse") == []
    assert codes("books = list_books(shelf=None)", "browse") == []


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('x = delete_book(title="Dune")', "UNKNOWN_TOOL"),
        ("x = list_books()", "WRONG_TOOL"),
        ("x = find_book()", "MISSING_ARGUMENT"),
        ('x = find_book(title="Dune", page=3)', "UNKNOWN_ARGUMENT"),
        ('x = find_book(title="Dune", page=y)', "UNKNOWN_ARGUMENT"),
        ("x = find_book(title=3)", "WRONG_TYPE"),
        ("x = find_book(title=None)", "WRONG_TYPE"),
        ("x = find_book(title=[])", "WRONG_TYPE"),
        ("x = find_book(title=y)", "UNKNOWN_NAME"),
        ('find_book = find_book(title="Dune")', "SHADOWED_TOOL"),
        ('x = lend_book(title="Dune", reader="Ana")', "COPY_CHECK"),
    ],
)
def test_what_is_wrong_has_its_code(text: str, code: str) -> None:
    assert code in codes(text)


@pytest.mark.parametrize("value", ['"4"', "4.5", "True", "[4]"])
def test_no_value_is_guessed_from_another_type(value: str) -> None:
    assert codes(f"x = list_books(shelf={value})", "browse") == ["WRONG_TYPE"]


def test_a_value_known_only_at_run_time_counts_as_given() -> None:
    plan = 'x = find_book(title="Dune")\ny = find_book(title=x["title"])'
    assert codes(plan) == []


def test_a_change_needs_the_confirmation_whatever_the_rules_say() -> None:
    assert codes(LEND_PLAN, confirmed=False) == ["CONFIRM_FIRST"]


def test_a_violation_names_the_nearest_tool() -> None:
    found = check(Plan.parse('x = find_bok(title="Dune")'), DOMAIN, DialogueState(intent="find"), {})
    assert "did you mean find_book?" in found[0].message
