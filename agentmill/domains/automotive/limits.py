"""What the dealership allows: discounts, incentives, financing, trade-ins, and values that make sense.

Each is the check of one rule: the sentence tells the Planner what to plan instead, because most of these are wishes of
the customer that only another plan can answer.
"""

import ast
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from agentmill.agents.state import DialogueState
from agentmill.domains.automotive.catalogue import TERMS
from agentmill.domains.automotive.seed import REFERENCE_YEAR
from agentmill.domains.automotive.tools import TOOLS
from agentmill.domains.base import Json
from agentmill.domains.kit.rules import source
from agentmill.plans.parse import NOT_LITERAL

if TYPE_CHECKING:
    from agentmill.plans.parse import Plan, ToolCall

_PHONE = re.compile(r"\d{3}-\d{4}")
_VIN = re.compile(r"[A-HJ-NPR-Z0-9]{17}")


def discount_limit(plan: "Plan", state: DialogueState, facts: Json) -> str | None:
    limit = facts.get("limits", {}).get("max_discount", 100)
    if all(discount <= limit for _, discount in _numbers(plan, "quote_price", "discount")):
        return None
    return f"A discount is at most {limit} percent: quote that."


def no_stacking(plan: "Plan", state: DialogueState, facts: Json) -> str | None:
    for call in plan.calls:
        if call.tool == "quote_price" and {"discount", "incentive"} <= set(call.arguments):
            return "A discount and an incentive are not combined: leave out one of them."
    return None


def incentive_listed(plan: "Plan", state: DialogueState, facts: Json) -> str | None:
    listed = {(call.variable, source(call, "stock")) for call in plan.calls if call.tool == "list_incentives"}
    for call in plan.calls:
        taken = call.arguments.get("incentive")
        if call.tool == "quote_price" and taken is not None:
            variable = taken.value.id if isinstance(taken, ast.Subscript) and isinstance(taken.value, ast.Name) else ""
            if (variable, source(call, "stock")) not in listed:
                return 'Take the incentive from list_incentives for the same car: incentive=deal["best"].'
    return None


def finance_rate(plan: "Plan", state: DialogueState, facts: Json) -> str | None:
    rates = {(call.variable, source(call, "term")) for call in plan.calls if call.tool == "finance_rate"}
    for call in plan.calls:
        apr = call.arguments.get("apr")
        if call.tool == "finance_quote":
            variable = apr.value.id if isinstance(apr, ast.Subscript) and isinstance(apr.value, ast.Name) else ""
            if (variable, source(call, "term")) not in rates:
                return 'Take the rate from finance_rate for the same term: apr=rate["apr"].'
    return None


def finance_term(plan: "Plan", state: DialogueState, facts: Json) -> str | None:
    months = ", ".join(map(str, TERMS))
    for tool in ("finance_rate", "finance_quote"):
        if any(term not in TERMS for _, term in _numbers(plan, tool, "term")):
            return f"Cars are financed over {months} months: call finance_terms alone, so that the customer can choose."
    return None


def down_payment(plan: "Plan", state: DialogueState, facts: Json) -> str | None:
    least = facts.get("limits", {}).get("min_down_payment", 0)
    if all(amount >= least for _, amount in _numbers(plan, "finance_quote", "down_payment")):
        return None
    return f"At least ${least} is paid down: call finance_terms alone, so that the customer can choose."


def trade_in_age(plan: "Plan", state: DialogueState, facts: Json) -> str | None:
    limit = facts.get("limits", {}).get("max_trade_in_age", 100)
    if all(REFERENCE_YEAR - year <= limit for _, year in _numbers(plan, "estimate_trade_in", "year")):
        return None
    return f"A car of more than {limit} years is not valued from afar: call appraisal_terms alone."


def trade_in_mileage(plan: "Plan", state: DialogueState, facts: Json) -> str | None:
    limit = facts.get("limits", {}).get("max_trade_in_mileage", 10**9)
    if all(mileage <= limit for _, mileage in _numbers(plan, "estimate_trade_in", "mileage")):
        return None
    return f"A car with more than {limit} miles is not valued from afar: call appraisal_terms alone."


def _numbers(plan: "Plan", tool: str, name: str) -> "Iterator[tuple[ToolCall, int]]":
    for call in plan.calls:
        value = call.value(name)
        if call.tool == tool and isinstance(value, int):
            yield call, value


def vin_format(plan: "Plan", state: DialogueState, facts: Json) -> str | None:
    for call in plan.calls:
        vin = call.value("vin")
        if call.tool == "decode_vin" and isinstance(vin, str) and not _VIN.fullmatch(vin):
            return "A vehicle identification number has 17 signs without I, O and Q: call appraisal_terms alone."
    return None


def vin_decoded(plan: "Plan", state: DialogueState, facts: Json) -> str | None:
    if "vin" not in state.entities:
        return None
    for call in plan.calls:
        if call.tool == "estimate_trade_in" and any(
            not isinstance(call.arguments.get(name), ast.Subscript) for name in ("make", "model", "year")
        ):
            return "The number is known: take make, model and year from decode_vin, under an if on its found."
    return None


def two_cars(plan: "Plan", state: DialogueState, facts: Json) -> str | None:
    for call in plan.calls:
        if call.tool == "compare_vehicles" and source(call, "stock") == source(call, "other_stock"):
            return "Compare two different cars."
    return None


def phone(plan: "Plan", state: DialogueState, facts: Json) -> str | None:
    for call in plan.calls:
        phone = call.value("phone")
        if phone is not NOT_LITERAL and call.tool in TOOLS and not _PHONE.fullmatch(str(phone)):
            return f"phone={phone!r} is no number to call; numbers look like 555-0100."
    return None


def budget(plan: "Plan", state: DialogueState, facts: Json) -> str | None:
    if all(price > 0 for _, price in _numbers(plan, "search_inventory", "max_price")):
        return None
    return "A highest price is more than 0 dollars: leave it out."
