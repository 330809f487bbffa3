"""The context vectors of a scenario in words and values: the seed topic, and the environment's customer profile.

What a profile says of the customer is what the goals say: a slot's value stands in both, so that a reply or a customer
who says otherwise is decidably wrong. What the customer may change to or give up for is theirs as well.
"""

from collections.abc import Iterable, Mapping, Sequence

from agentmill.domains.base import Goal, Json

_OTHER = ("else_", "mind_")


def topic(situation: str, goals: Sequence[Goal], wishes: Mapping[str, str]) -> str:
    """One sentence: who comes, and what for. `wishes` says of each intent what the customer wants to do."""
    parts = [wishes[name] for goal in goals for name in (goal.intent, *goal.also)]
    distinct = list(dict.fromkeys(parts))
    listed = distinct[0] if len(distinct) == 1 else f"{', '.join(distinct[:-1])} and {distinct[-1]}"
    return f"{situation} wants to {listed}."


def profile(goals: Sequence[Goal], personal: Mapping[str, str], own: Json) -> Json:
    """The synthetic customer: `own` facts, and the values that the goals have for the `personal` slots.

    `personal` maps a slot to its name in the profile; a second value of a slot is listed under `other_` and that name.
    """
    found: Json = {}
    for slot, name in personal.items():
        values = list(dict.fromkeys(_values(goals, slot)))
        if values:
            found[name] = values[0]
        if values[1:]:
            found[f"other_{name}"] = values[1]
    return {**own, **found}


def _values(goals: Iterable[Goal], slot: str) -> Iterable[str | int]:
    for goal in goals:
        yield from (goal.slots[key] for key in (slot, *(f"{prefix}{slot}" for prefix in _OTHER)) if key in goal.slots)
