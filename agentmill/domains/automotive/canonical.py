"""What the error-free Planner writes for a dialogue state: one canonical plan per intent, as text.

Several requests make one plan: their lines one after the other, a later one taking what an earlier one supplies. A
violation that no better check can mend (a limit, closed hours) has a plan of its own, which finds out what is possible
instead.
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from agentmill.domains.automotive.intents import INTENTS, OWN_CAR, SEARCH_ENTITIES
from agentmill.domains.base import Intent

Entities = dict[str, Any]
STOPPED = ("OPENING_HOURS", "SERVICE_HOURS", "EXECUTION")


class Supplied(NamedTuple):
    """A value that an earlier call of the plan gives, as an expression."""

    expression: str


SUPPLIES = {
    "find_vehicles": {"stock": Supplied('cars[0]["stock"]')},
    "value_trade_in": {"down_payment": Supplied('value["low"]')},
    "check_booking": {"day": Supplied('booking["day"]')},
    "order_status": {"day": Supplied('order["day"]')},
}


def call(tool: str, entities: Entities, *names: str) -> str:
    """One tool call as plan text, with those of `names` that are known."""
    return f"{tool}({', '.join(f'{name}={_text(entities[name])}' for name in names if name in entities)})"


def _text(value: Any) -> str:
    return value.expression if isinstance(value, Supplied) else json.dumps(value, ensure_ascii=False)


def canonical_plan(
    requests: tuple[str, ...], known: Entities, *, confirmed: bool, violations: str = "",
    intents: Mapping[str, Intent] = INTENTS,
) -> str:  # fmt: skip
    """The plan for the requests of a state; `violations` is what was wrong with the plan before, if one was refused.

    `intents` are those that hold now: what they need in addition is passed on, what serves them in addition is asked.

    Raises:
        ValueError: for an intent that has no plan.
    """
    if "EXECUTION" in violations:
        requests, confirmed = requests[:1], False
    lines: list[str] = []
    supplied: Entities = {}
    for intent in requests:
        if intent not in _PLANS:
            raise ValueError(f"intent={intent!r} has no plan: only intents with tools are planned")
        slots = intents[intent].required + intents[intent].optional
        values = {**supplied, **{name: known[name] for name in slots if name in known}}
        planned = _STRICTER[intent] if len(intents[intent].tools) > len(INTENTS[intent].tools) else _PLANS[intent]
        lines += planned(values, confirmed and not any(code in violations for code in STOPPED), violations)
        supplied |= SUPPLIES.get(intent, {})
    return "\n".join(lines)


def _one(variable: str, tool: str, *names: str) -> Callable[[Entities, bool, str], list[str]]:
    """A plan of a single call."""
    return lambda known, confirmed, violations: [f"{variable} = {call(tool, known, *names)}"]


def _checked(first: str, key: str, deed: str) -> Callable[[Entities, bool, str], list[str]]:
    """A check, and once it is confirmed the deed where the check said `key`; both as "variable = tool: names"."""
    check, change = _parts(first), _parts(deed)

    def lines(known: Entities, confirmed: bool, violations: str) -> list[str]:
        variable, tool, names = check
        written = [f"{variable} = {call(tool, known, *names)}"]
        if confirmed:
            done, deed_tool, deed_names = change
            written.append(f'if {variable}["{key}"]:')
            written.append(f"    {done} = {call(deed_tool, known, *deed_names)}")
        return written

    return lines


def _parts(text: str) -> tuple[str, str, list[str]]:
    variable, _, rest = text.partition(" = ")
    tool, _, names = rest.partition(": ")
    return variable, tool, names.split()


def _test_drive(known: Entities, confirmed: bool, violations: str, *, available: bool = False) -> list[str]:
    lines = [f"slot = {call('check_slot', known, 'stock', 'day', 'time')}"]
    if confirmed:
        lines += [f"status = {call('check_availability', known, 'stock')}"] if available else []
        lines.append(f"check = {call('verify_licence', known, 'name', 'licence')}")
        asked = 'status["available"] and ' if available else ""
        lines.append(f'if slot["free"] and {asked}check["verified"]:')
        names = ("stock", "day", "time", "name", "licence", "phone")
        lines.append(f"    booking = {call('book_test_drive', known, *names)}")
    return lines


def _moved_drive(known: Entities, confirmed: bool, violations: str, *, licensed: bool = False) -> list[str]:
    slot = {**known, "stock": Supplied('booking["stock"]')}
    lines = [
        f"booking = {call('find_booking', known, 'reference')}",
        'if booking["found"]:',
        f"    slot = {call('check_slot', slot, 'stock', 'day', 'time')}",
    ]
    if confirmed:
        lines += [f"    check = {call('verify_licence', known, 'name', 'licence')}"] if licensed else []
        lines.append('    if slot["free"] and check["verified"]:' if licensed else '    if slot["free"]:')
        lines.append(f"        moved = {call('move_booking', known, 'reference', 'day', 'time')}")
    return lines


def _moved_delivery(known: Entities, confirmed: bool, violations: str) -> list[str]:
    lines = [
        f"order = {call('find_order', known, 'order', 'name')}",
        'if order["found"]:',
        f"    delivery = {call('check_delivery_day', known, 'order', 'day')}",
    ]
    if confirmed:
        lines.append('    if delivery["possible"]:')
        lines.append(f"        moved = {call('move_delivery', known, 'order', 'day', 'phone')}")
    return lines


def _offer(known: Entities, confirmed: bool, violations: str) -> list[str]:
    if "discount" in known:
        limit = re.search(r"at most (\d+) percent", violations)
        asked = {**known, "discount": int(limit[1])} if limit else known
        return [f"offer = {call('quote_price', asked, 'stock', 'discount')}"]
    best = {**known, "incentive": Supplied('deal["best"]')}
    return [
        f"deal = {call('list_incentives', known, 'stock')}",
        f"offer = {call('quote_price', best, 'stock', 'incentive')}",
    ]


def _financing(known: Entities, confirmed: bool, violations: str) -> list[str]:
    if "FINANCE_TERM" in violations or "DOWN_PAYMENT" in violations:
        return ["terms = finance_terms()"]
    priced = {**known, "apr": Supplied('rate["apr"]')}
    return [
        f"rate = {call('finance_rate', known, 'score', 'term')}",
        'if rate["approved"]:',
        f"    quote = {call('finance_quote', priced, 'stock', 'apr', 'term', 'down_payment')}",
    ]


def _trade_in(known: Entities, confirmed: bool, violations: str) -> list[str]:
    if "TRADE_IN" in violations or "VIN_FORMAT" in violations:
        return ["limits = appraisal_terms()"]
    if "vin" not in known:
        return [f"value = {call('estimate_trade_in', known, *OWN_CAR)}"]
    decoded = {**known, **{name: Supplied(f'car["{name}"]') for name in ("make", "model", "year")}}
    return [
        f"car = {call('decode_vin', known, 'vin')}",
        'if car["found"]:',
        f"    value = {call('estimate_trade_in', decoded, *OWN_CAR)}",
    ]


_PLANS: dict[str, Callable[[Entities, bool, str], list[str]]] = {
    "find_vehicles": _one("cars", "search_inventory", *SEARCH_ENTITIES),
    "vehicle_details": _one("car", "get_vehicle", "stock"),
    "compare_vehicles": _one("both", "compare_vehicles", "stock", "other_stock"),
    "check_availability": _one("status", "check_availability", "stock"),
    "reserve_vehicle": _checked(
        "status = check_availability: stock", "available", "kept = reserve_vehicle: stock name phone"
    ),
    "price_offer": _offer,
    "finance_quote": _financing,
    "value_trade_in": _trade_in,
    "book_test_drive": _test_drive,
    "check_booking": _one("booking", "find_booking", "reference"),
    "move_test_drive": _moved_drive,
    "cancel_test_drive": _checked("booking = find_booking: reference", "found", "done = cancel_booking: reference"),
    "book_service": _checked(
        "visit = check_service_slot: service day time", "free", "booked = book_service: service plate day time name"
    ),
    "cancel_service": _checked("visit = find_service: reference", "found", "done = cancel_service: reference"),
    "order_status": _one("order", "find_order", "order", "name"),
    "move_delivery": _moved_delivery,
    "opening_hours": _one("hours", "opening_hours", "day"),
    "directions": _one("way", "directions", "place"),
    "leave_contact": _checked("lead = find_lead: phone", "new", "noted = capture_lead: name phone"),
    "talk_to_person": _one("desk", "hand_off"),
}
_STRICTER: dict[str, Callable[[Entities, bool, str], list[str]]] = {
    "book_test_drive": partial(_test_drive, available=True),
    "move_test_drive": partial(_moved_drive, licensed=True),
}  # where a rule came that asks for one more check
