"""The dealership's business rules: each looks at a parsed plan, the dialogue state and the world's facts.

A check returns the sentence that tells the Planner what to do, or None where the rule is kept. Most rules are of one
kind: a change is made only where a check of the very same values said that it may be (`Guard`).
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentmill.agents.state import DialogueState
from agentmill.domains.automotive import limits
from agentmill.domains.automotive.intents import INTENTS
from agentmill.domains.automotive.tools import TOOLS
from agentmill.domains.base import Json, Rule
from agentmill.domains.kit.rules import confirm_first, grounded_arguments, one_change, proven, source

if TYPE_CHECKING:
    from agentmill.plans.parse import Plan, ToolCall


@dataclass(frozen=True)
class Guard:
    """`deed` runs only under an if on `key` of `check`, asked about the same `same` arguments."""

    deed: str
    check: str
    key: str
    same: tuple[str, ...]

    def __call__(self, plan: "Plan", state: DialogueState, facts: Json) -> str | None:
        if all(self._proven(call) for call in plan.calls if call.tool == self.deed):
            return None
        return f'Call {self.check} for the same values first and {self.deed} only under an if on its "{self.key}".'

    def _proven(self, deed: "ToolCall") -> bool:
        return proven(deed, self.check, self.key, *self.same)


LOWERED = ("discount",)  # less of it may be given than was asked for


def _no_change_in_a_loop(plan: "Plan", state: DialogueState, facts: Json) -> str | None:
    for node in ast.walk(plan.tree):
        if isinstance(node, ast.For):
            inside = {id(part) for part in ast.walk(node)}
            for call in plan.calls:
                if id(call.node) in inside and TOOLS[call.tool].changes:
                    return f"{call.tool} stands in a for: make a change once, for one thing that the customer named."
    return None


def _opening_hours(plan: "Plan", state: DialogueState, facts: Json) -> str | None:
    for call, day, time in _times(plan, "book_test_drive", "move_booking"):
        hours = facts.get("hours", {}).get(day, ("", "99"))
        if hours is None or not hours[0] <= time < hours[1]:
            return f"The dealership is closed on {day} at {time}: leave out {call.tool} and only check the slot."
    return None


def _service_hours(plan: "Plan", state: DialogueState, facts: Json) -> str | None:
    for call, day, time in _times(plan, "book_service"):
        hours = facts.get("hours", {}).get(day, ("", "99"))
        late = hours is None or not hours[0] <= time < f"{int(hours[1][:2]) - 1:02d}:00"
        if day in ("saturday", "sunday") or late:
            return f"The workshop takes no car on {day} at {time}: leave out {call.tool} and only check the slot."
    return None


def _times(plan: "Plan", *tools: str) -> "Iterator[tuple[ToolCall, str, str]]":
    """The calls of `tools` with the day and time that are written out in them."""
    for call in plan.calls:
        day, time = call.value("day"), call.value("time")
        if call.tool in tools and isinstance(day, str) and isinstance(time, str):
            yield call, day, time


def _move_slot(plan: "Plan", state: DialogueState, facts: Json) -> str | None:
    """A booking is moved only where a slot of its own car was found free: the car that find_booking named."""
    for call in plan.calls:
        if call.tool == "move_booking" and not any(
            said == "free"
            and earlier.tool == "check_slot"
            and source(earlier, "stock").endswith("['stock']")
            and all(source(earlier, name) == source(call, name) for name in ("day", "time"))
            for earlier, said in call.proven
        ):
            return 'Call check_slot with stock=booking["stock"] and move_booking only under an if on its "free".'
    return None


def _order_identity(plan: "Plan", state: DialogueState, facts: Json) -> str | None:
    """Whose order it is comes first: whether it was delivered is nobody else's business."""
    guards = (Guard(tool, "find_order", "found", ("order",)) for tool in ("check_delivery_day", "move_delivery"))
    return next((sentence for guard in guards if (sentence := guard(plan, state, facts))), None)


RULES: tuple[Rule, ...] = (
    confirm_first(TOOLS),
    Rule(
        "LICENCE_CHECK",
        "A test drive is booked only under an if on verify_licence's verified.",
        Guard("book_test_drive", "verify_licence", "verified", ("name", "licence")),
    ),
    Rule(
        "SLOT_CHECK",
        "A test drive is booked only under an if on check_slot's free.",
        Guard("book_test_drive", "check_slot", "free", ("stock", "day", "time")),
    ),
    Rule("OPENING_HOURS", "Test drives are booked inside the opening hours.", _opening_hours),
    grounded_arguments(TOOLS, INTENTS, lowered=LOWERED),
    one_change(TOOLS),
    Rule("NO_CHANGE_IN_LOOP", "Nothing that changes the world stands in a for.", _no_change_in_a_loop),
    Rule(
        "CANCEL_LOOKUP",
        "A test drive is cancelled only under an if on find_booking's found.",
        Guard("cancel_booking", "find_booking", "found", ("reference",)),
    ),
    Rule(
        "MOVE_LOOKUP",
        "A test drive is moved only under an if on find_booking's found.",
        Guard("move_booking", "find_booking", "found", ("reference",)),
    ),
    Rule("MOVE_SLOT_CHECK", "A test drive is moved only under an if on check_slot's free for its car.", _move_slot),
    Rule(
        "AVAILABILITY_CHECK",
        "A car is reserved only under an if on check_availability's available.",
        Guard("reserve_vehicle", "check_availability", "available", ("stock",)),
    ),
    Rule("DISCOUNT_LIMIT", "No discount is above the limit.", limits.discount_limit),
    Rule("NO_STACKING", "A discount and an incentive are not combined.", limits.no_stacking),
    Rule("INCENTIVE_LISTED", "An incentive comes from list_incentives for the same car.", limits.incentive_listed),
    Rule("FINANCE_RATE", "A financing quote takes its rate from finance_rate for the same term.", limits.finance_rate),
    Rule(
        "FINANCE_APPROVAL",
        "A financing quote is made only under an if on finance_rate's approved.",
        Guard("finance_quote", "finance_rate", "approved", ("term",)),
    ),
    Rule("FINANCE_TERM", "Cars are financed over 24, 36, 48, 60 or 72 months.", limits.finance_term),
    Rule("DOWN_PAYMENT", "A down payment is not below the least one.", limits.down_payment),
    Rule("TRADE_IN_AGE", "Cars above the age limit are not valued from afar.", limits.trade_in_age),
    Rule("TRADE_IN_MILEAGE", "Cars above the mileage limit are not valued from afar.", limits.trade_in_mileage),
    Rule("VIN_FORMAT", "A vehicle identification number has 17 signs without I, O and Q.", limits.vin_format),
    Rule("VIN_DECODED", "A car with a known number is valued as decode_vin describes it.", limits.vin_decoded),
    Rule("TWO_CARS", "A comparison is of two different cars.", limits.two_cars),
    Rule(
        "SERVICE_SLOT_CHECK",
        "A workshop appointment is booked only under an if on check_service_slot's free.",
        Guard("book_service", "check_service_slot", "free", ("service", "day", "time")),
    ),
    Rule("SERVICE_HOURS", "The workshop takes cars on weekdays until the last hour but one.", _service_hours),
    Rule(
        "SERVICE_LOOKUP",
        "A workshop appointment is cancelled only under an if on find_service's found.",
        Guard("cancel_service", "find_service", "found", ("reference",)),
    ),
    Rule(
        "ORDER_IDENTITY",
        "A delivery is looked at and moved only under an if on find_order's found, asked in the customer's name.",
        _order_identity,
    ),
    Rule(
        "DELIVERY_DAY",
        "A delivery is moved only under an if on check_delivery_day's possible.",
        Guard("move_delivery", "check_delivery_day", "possible", ("order", "day")),
    ),
    Rule(
        "LEAD_NEW",
        "A customer is noted only under an if on find_lead's new.",
        Guard("capture_lead", "find_lead", "new", ("phone",)),
    ),
    Rule("PHONE_FORMAT", "A telephone number looks like 555-0100.", limits.phone),
    Rule("BUDGET", "A highest price is more than 0 dollars.", limits.budget),
)
