"""The rules that packs share: confirmed changes, one change, arguments that the customer or a result has given."""

import pytest

from agentmill.agents.state import DialogueState
from agentmill.domains.base import Intent
from agentmill.domains.kit.rules import confirm_first, grounded_arguments, one_change, proven
from agentmill.plans.parse import Plan
from tests.fakes import find_book, lend_book, list_books

TOOLS = {item.name: item for item in (find_book, list_books, lend_book)}
INTENTS = {"lend": Intent("lend", "borrow", tuple(TOOLS), ("title",), ("reader",))}
RULES = (confirm_first(TOOLS), one_change(TOOLS), grounded_arguments(TOOLS, INTENTS))
LEND = 'done = lend_book(title="Dune", reader="Ana")'


def broken(text: str, *, confirmed: bool = True, **entities: str) -> list[str]:
    state = DialogueState(intent="lend", entities=entities, confirmed=confirmed)
    return [rule.code for rule in RULES if rule.check(Plan.parse(text), state, {}) is not None]


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        (LEND, []),
        ('book = find_book(title="Dune")', []),
        (f"{LEND}\n{LEND}", ["ONE_CHANGE"]),
        ('lend_book(title="Emma", reader="Ana")', ["GROUNDED_ARGUMENT"]),
        ('lend_book(title="Dune")', ["GROUNDED_ARGUMENT"]),
        ("list_books(shelf=3)", ["GROUNDED_ARGUMENT"]),
        ('books = list_books()\nlend_book(title=books[0]["title"], reader="Ana")', []),
        ('books = list_books()\nlend_book(title="Dune", reader=books[0]["title"])', ["GROUNDED_ARGUMENT"]),
        ('books = list_books()\nlend_book(title=books, reader="Ana")', ["GROUNDED_ARGUMENT"]),
    ],
)
def test_shared_rules(text: str, codes: list[str]) -> None:
    assert broken(text, title="Dune", reader="Ana") == codes


def test_nothing_changes_unconfirmed() -> None:
    assert broken(LEND, confirmed=False, title="Dune", reader="Ana") == ["CONFIRM_FIRST"]


def test_a_call_is_proven_by_a_check_of_the_same_values_only() -> None:
    text = 'book = find_book(title="Dune")\nif book["found"]:\n    done = lend_book(title="Dune", reader="Ana")'
    lend = Plan.parse(text).calls[1]
    assert proven(lend, "find_book", "found", "title")
    assert not proven(lend, "find_book", "copies", "title")
    other = Plan.parse(text.replace('find_book(title="Dune")', 'find_book(title="Emma")')).calls[1]
    assert proven(other, "find_book", "found")
    assert not proven(other, "find_book", "found", "title")
    assert not proven(lend, "list_books", "found")
