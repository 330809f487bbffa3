"""Whether a conversation did what the customer wanted: decided from the final world, never from the text.

Every goal's end state must hold, and what nobody asked for must not have happened: no other booking, reservation or
move, no other cancellation, no booking outside the opening hours or without a verified licence.
"""

from agentmill.domains.base import Assessment, Json, Scenario

# A goal's expectation -> the part of a snapshot that shows it, and the fields that are compared.
_MADE: dict[str, tuple[str, tuple[str, ...]]] = {
    "booking": ("bookings", ("stock", "day", "time", "name", "licence")),
    "moved": ("moved", ("reference", "day", "time")),
    "visit": ("visits", ("service", "plate", "day", "time", "name")),
    "reservation": ("reservations", ("stock", "name", "phone")),
    "delivery": ("deliveries", ("number", "day")),
    "lead": ("leads", ("name", "phone")),
    "cancelled": ("cancelled", ("reference",)),
    "visit_cancelled": ("visits_cancelled", ("reference",)),
}


def assess(scenario: Scenario, snapshot: Json) -> Assessment:
    """Compare a snapshot of the world with the goals of a scenario; `reasons` names every difference."""
    wanted = [goal.expect for goal in scenario.goals]
    shown = _shown(wanted, snapshot)
    reasons = [reason for expect in wanted for reason in _never_called(expect, snapshot)]
    for kind, (part, fields) in _MADE.items():
        reasons += _differences(kind, [expect[kind] for expect in wanted if kind in expect], shown[part], fields)
    reasons += [reason for booking in shown["bookings"] for reason in _broken_rules(booking, snapshot["hours"])]
    return Assessment(success=not reasons, reasons=tuple(reasons))


def _shown(wanted: list[Json], snapshot: Json) -> dict[str, list[Json]]:
    """The snapshot's lists of rows; a booking with the reference of one that was to be moved counts as moved."""
    to_move = {expect["moved"]["reference"] for expect in wanted if "moved" in expect}
    rows = {part: [_row(item) for item in snapshot.get(part, [])] for part, _ in _MADE.values() if part != "moved"}
    rows["moved"] = [row for row in rows["bookings"] if row["reference"] in to_move]
    rows["bookings"] = [row for row in rows["bookings"] if row["reference"] not in to_move]
    return rows


def _row(item: Json | str) -> Json:
    return {"reference": item} if isinstance(item, str) else item


def _differences(kind: str, wanted: list[Json], made: list[Json], fields: tuple[str, ...]) -> list[str]:
    """What was wanted and is not there, and what is there and was not wanted, each thing once."""
    left = [{name: row[name] for name in fields} for row in made]
    reasons = []
    for expected in wanted:
        match = next((row for row in left if _same(row, _row(expected))), None)
        if match is None:
            reasons.append(f"there is no {kind} {_row(expected)}")
        else:
            left.remove(match)
    return reasons + [f"{kind} was not asked for: {row}" for row in left]


def _same(left: Json, right: Json) -> bool:
    return left.keys() == right.keys() and all(_plain(left[key]) == _plain(right[key]) for key in left)


def _plain(value: object) -> object:
    return value.casefold() if isinstance(value, str) else value


def _never_called(expect: Json, snapshot: Json) -> list[str]:
    reasons = []
    for wanted in expect.get("activities", []):
        calls = [call["arguments"] for call in snapshot["activity"] if call["tool"] == wanted["tool"]]
        if not any(_same(_given(call), wanted["arguments"]) for call in calls):
            reasons.append(f"{wanted['tool']} was never called with {wanted['arguments']}")
    return reasons


def _given(arguments: Json) -> Json:
    return {name: value for name, value in arguments.items() if value is not None}


def _broken_rules(booking: Json, hours: Json) -> list[str]:
    reasons = []
    opening = hours.get(booking["day"])
    if opening is None or not opening[0] <= booking["time"] < opening[1]:
        reasons.append(f"OPENING_HOURS: booking {booking['reference']} is on {booking['day']} at {booking['time']}")
    if not booking["verified"]:
        reasons.append(f"LICENCE_CHECK: booking {booking['reference']} has no verified licence")
    return reasons
