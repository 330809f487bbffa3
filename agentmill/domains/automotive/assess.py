"""Whether a conversation did what the customer wanted: decided from the final world, never from the text.

Every goal's end state must hold, and what nobody asked for must not have happened: no other booking, no other
cancellation, no booking outside the opening hours or without a verified licence.
"""

from agentmill.domains.base import Assessment, Json, Scenario


def assess(scenario: Scenario, snapshot: Json) -> Assessment:
    """Compare a snapshot of the world with the goals of a scenario; `reasons` names every difference."""
    reasons = [reason for goal in scenario.goals for reason in _unmet(goal.expect, snapshot)]
    reasons += _unwanted(scenario, snapshot)
    reasons += [reason for booking in snapshot["bookings"] for reason in _broken_rules(booking, snapshot["hours"])]
    return Assessment(success=not reasons, reasons=tuple(reasons))


def _same(left: Json, right: Json) -> bool:
    return left.keys() == right.keys() and all(_plain(left[key]) == _plain(right[key]) for key in left)


def _plain(value: object) -> object:
    return value.casefold() if isinstance(value, str) else value


def _details(booking: Json) -> Json:
    return {name: booking[name] for name in ("stock", "day", "time", "name", "licence")}


def _given(arguments: Json) -> Json:
    return {name: value for name, value in arguments.items() if value is not None}


def _unmet(expect: Json, snapshot: Json) -> list[str]:
    reasons = []
    if "activity" in expect:
        tool, arguments = expect["activity"]["tool"], expect["activity"]["arguments"]
        calls = [call["arguments"] for call in snapshot["activity"] if call["tool"] == tool]
        if not any(_same(_given(call), arguments) for call in calls):
            reasons.append(f"{tool} was never called with {arguments}")
    if "booking" in expect and not any(_same(_details(b), expect["booking"]) for b in snapshot["bookings"]):
        reasons.append(f"there is no booking {expect['booking']}")
    if "cancelled" in expect and expect["cancelled"] not in snapshot["cancelled"]:
        reasons.append(f"booking {expect['cancelled']} is not cancelled")
    return reasons


def _unwanted(scenario: Scenario, snapshot: Json) -> list[str]:
    wanted = [goal.expect["booking"] for goal in scenario.goals if "booking" in goal.expect]
    reasons = []
    for booking in snapshot["bookings"]:
        match = next((w for w in wanted if _same(_details(booking), w)), None)
        if match is None:
            reasons.append(f"booking {booking['reference']} was not asked for: {_details(booking)}")
        else:
            wanted.remove(match)
    to_cancel = {goal.expect["cancelled"] for goal in scenario.goals if "cancelled" in goal.expect}
    others = sorted(set(snapshot["cancelled"]) - to_cancel)
    return reasons + [f"booking {reference} was cancelled without being asked for" for reference in others]


def _broken_rules(booking: Json, hours: Json) -> list[str]:
    reasons = []
    opening = hours.get(booking["day"])
    if opening is None or not opening[0] <= booking["time"] < opening[1]:
        reasons.append(f"OPENING_HOURS: booking {booking['reference']} is on {booking['day']} at {booking['time']}")
    if not booking["verified"]:
        reasons.append(f"LICENCE_CHECK: booking {booking['reference']} has no verified licence")
    return reasons
