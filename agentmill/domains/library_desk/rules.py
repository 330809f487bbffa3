"""The library's business rules: each looks at a parsed plan and the dialogue state; none needs the world's facts.

The kit gives what every pack needs. What is the library's own has one shape: a call of a tool stands under an `if` on
the answer of a check that was asked about the same values.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING

from agentmill.agents.state import DialogueState
from agentmill.domains.base import Json, Rule
from agentmill.domains.kit.rules import confirm_first, grounded_arguments, one_change, proven
from agentmill.domains.library_desk.intents import INTENTS
from agentmill.domains.library_desk.tools import TOOLS

if TYPE_CHECKING:
    from agentmill.plans.parse import Plan

PERSONAL = tuple(name for name, tool in TOOLS.items() if "card" in tool.parameters and name != "check_reader")


def only_under(code: str, description: str, calls: Collection[str], check: str, key: str, *names: str) -> Rule:
    """Each of `calls` runs only where `check`, asked about the same values of `names`, said `key`."""

    def broken(plan: "Plan", state: DialogueState, facts: Json) -> str | None:
        for call in plan.calls:
            if call.tool in calls and not proven(call, check, key, *names):
                asked = " and ".join(names)
                return f"Call {check} for the same {asked} first, and {call.tool} only under an if on its {key}."
        return None

    return Rule(code, description, broken)


RULES: tuple[Rule, ...] = (
    confirm_first(TOOLS),
    only_under(
        "IDENTITY_FIRST",
        "Nothing of a reader is read or changed but under an if on check_reader's valid.",
        PERSONAL,
        "check_reader",
        "valid",
        "card",
    ),
    only_under(
        "HOLD_LIMIT",
        "A hold is placed only under an if on check_account's within_limit.",
        ("place_hold",),
        "check_account",
        "within_limit",
        "card",
    ),
    only_under(
        "FINE_LIMIT",
        "A hold is placed and a loan renewed only under an if on check_account's clear.",
        ("place_hold", "renew_loan"),
        "check_account",
        "clear",
        "card",
    ),
    only_under(
        "COPY_CHECK",
        "A hold is placed only under an if on check_copy's holdable.",
        ("place_hold",),
        "check_copy",
        "holdable",
        "book",
    ),
    only_under(
        "RENEWAL_CHECK",
        "A loan is renewed only under an if on check_renewal's allowed: not while another reader has a hold on it.",
        ("renew_loan",),
        "check_renewal",
        "allowed",
        "book",
        "card",
    ),
    only_under(
        "OWN_HOLD",
        "A hold is cancelled only under an if on find_hold's found: it is the reader's own.",
        ("cancel_hold",),
        "find_hold",
        "found",
        "hold",
        "card",
    ),
    only_under(
        "PAYMENT_LIMIT",
        "A payment is taken only under an if on check_payment's allowed: not above what is owed.",
        ("pay_fine",),
        "check_payment",
        "allowed",
        "card",
        "amount",
    ),
    grounded_arguments(TOOLS, INTENTS),
    one_change(TOOLS),
)
