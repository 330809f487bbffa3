"""What the error-free Planner writes for a dialogue state: one canonical plan per intent, as text."""

import json
from typing import Any

from agentmill.domains.automotive.intents import SEARCH_ENTITIES

Entities = dict[str, Any]


def call(tool: str, entities: Entities, *names: str) -> str:
    """One tool call as plan text, with those of `names` that are known."""
    arguments = [f"{name}={json.dumps(entities[name], ensure_ascii=False)}" for name in names if name in entities]
    return f"{tool}({', '.join(arguments)})"


def _booking(known: Entities, confirmed: bool) -> list[str]:
    lines = [f"slot = {call('check_slot', known, 'stock', 'day', 'time')}"]
    if confirmed:
        lines.append(f"check = {call('verify_licence', known, 'name', 'licence')}")
        lines.append('if slot["free"] and check["verified"]:')
        lines.append(f"    booking = {call('book_test_drive', known, 'stock', 'day', 'time', 'name', 'licence')}")
    return lines


def _cancellation(known: Entities, confirmed: bool) -> list[str]:
    lines = [f"booking = {call('find_booking', known, 'reference')}"]
    if confirmed:
        lines += ['if booking["found"]:', f"    done = {call('cancel_booking', known, 'reference')}"]
    return lines


def canonical_plan(intent: str, known: Entities, *, confirmed: bool) -> str:
    """The plan for a state.

    Raises:
        ValueError: for an intent that has no plan.
    """
    match intent:
        case "find_vehicles":
            lines = [f"cars = {call('search_inventory', known, *SEARCH_ENTITIES)}"]
        case "vehicle_details":
            lines = [f"car = {call('get_vehicle', known, 'stock')}"]
        case "opening_hours":
            lines = [f"hours = {call('opening_hours', known, 'day')}"]
        case "value_trade_in":
            trade_in = ("make", "model", "year", "mileage", "condition")
            lines = [f"value = {call('estimate_trade_in', known, *trade_in)}"]
        case "check_booking":
            lines = [f"booking = {call('find_booking', known, 'reference')}"]
        case "book_test_drive":
            lines = _booking(known, confirmed)
        case "cancel_test_drive":
            lines = _cancellation(known, confirmed)
        case _:
            raise ValueError(f"intent={intent!r} has no plan: only intents with tools are planned")
    return "\n".join(lines)
