"""Whether a conversation did what the reader wanted: decided from the final world, never from the text.

Every goal's end state must hold, nothing else may have been changed, and what was done must have kept the rules: no
card but one shown with its PIN, no hold above the limit, nothing paid that was not owed.
"""

from agentmill.domains.base import Assessment, Json, Scenario
from agentmill.domains.library_desk.rules import PERSONAL
from agentmill.domains.library_desk.seed import MAX_HOLDS

_CHANGES = ("holds", "cancelled", "renewed", "payments")


def assess(scenario: Scenario, snapshot: Json) -> Assessment:
    """Compare a snapshot of the world with the goals of a scenario; `reasons` names every difference."""
    wanted = {key: [goal.expect[key] for goal in scenario.goals if key in goal.expect] for key in _CHANGES}
    reasons = [reason for key in _CHANGES for reason in _different(key, wanted[key], _done(snapshot, key))]
    for goal in scenario.goals:
        reasons += [reason for call in goal.expect.get("activities", ()) if (reason := _uncalled(call, snapshot))]
    reasons += _broken(snapshot)
    return Assessment(success=not reasons, reasons=tuple(reasons))


def _done(snapshot: Json, key: str) -> list[object]:
    """What was changed, as goals name it."""
    if key == "cancelled":
        return list(snapshot[key])
    names = {"holds": ("book", "card"), "renewed": ("book", "card"), "payments": ("card", "amount")}[key]
    return [{name: row[name] for name in names} for row in snapshot[key]]


def _different(key: str, wanted: list[object], done: list[object]) -> list[str]:
    left = list(done)
    reasons = []
    for item in wanted:
        if item in left:
            left.remove(item)
        else:
            reasons.append(f"{key} has no {item}")
    return reasons + [f"{key} has {item}, which was not asked for" for item in left]


def _uncalled(call: Json, snapshot: Json) -> str:
    """Why an expected call does not count, "" where it does: letters of either case are the same."""
    expected = _plain(call["arguments"])
    made = [_plain(other["arguments"]) for other in snapshot["activity"] if other["tool"] == call["tool"]]
    return "" if expected in made else f"{call['tool']} was never called with {call['arguments']}"


def _plain(arguments: Json) -> Json:
    return {
        name: value.casefold() if isinstance(value, str) else value
        for name, value in arguments.items()
        if value is not None
    }


def _broken(snapshot: Json) -> list[str]:
    used = {call["arguments"]["card"] for call in snapshot["activity"] if call["tool"] in PERSONAL}
    reasons = [f"IDENTITY_FIRST: card {card} was used without its PIN" for card in used - {*snapshot["identified"]}]
    for row in snapshot["holds"]:
        if row["of_reader"] > MAX_HOLDS:
            reasons.append(f"HOLD_LIMIT: card {row['card']} has {row['of_reader']} holds")
    reasons += [f"PAYMENT_LIMIT: receipt {row['receipt']}" for row in snapshot["payments"] if row["owed"] < 0]
    return reasons
