"""Scenarios in which the library changes while a reader talks to it, drawn so that their end is known.

`draw_switches` plans one change for goals that were drawn before and, where it must, gives the reader a second choice
or one more thing to tell. Invariants: goal j opens in turn j at the earliest and is confirmed one turn later, so a
change that is planned by then always comes before what it bears on; no other goal depends on what changes.
"""

import random
from collections.abc import Iterator, Sequence

from agentmill.domains.base import Goal, Json, PlannedSwitch, Scenario
from agentmill.domains.kit.switching import Draws, Planned, plan_switches, scenarios_with_switches
from agentmill.domains.library_desk.intents import INTENTS
from agentmill.domains.library_desk.scenarios import generate
from agentmill.domains.library_desk.seed import MAX_HOLDS, MAX_OWED, Reader, WorldData, world_data
from agentmill.domains.library_desk.switches import BOOK_NAMED, CLEAR_FIRST, LIMIT_FIRST, RENAMES

# A change that a goal expects -> the intent whose reader confirms it.
_CHANGES = {"holds": "place_hold", "cancelled": "cancel_hold", "renewed": "renew_loan", "payments": "pay_fine"}


def draw_switches(
    rng: random.Random, world_seed: int, goals: Sequence[Goal], kind: str | None
) -> tuple[list[Goal], tuple[PlannedSwitch, ...]]:
    """Plan one switch of a kind (`switching.KINDS`), of any for None.

    Where none fits the goals they come back as they were, with no switch.
    """
    return plan_switches(_DRAWS, rng, _Ground(rng, world_data(world_seed), list(goals)), kind)


def generate_switches(count: int, seed: int, split: str) -> Sequence[Scenario]:
    """`count` scenarios over all intents, each with a switch and some with two, every kind as often as the others.

    Raises:
        ValueError: for a split that has no worlds.
    """
    return scenarios_with_switches(count, seed, split, source=generate, draw=draw_switches, kinds=tuple(_DRAWS))


class _Ground:
    """The goals of one scenario and the rows of its world; each method yields what fits of one kind."""

    def __init__(self, rng: random.Random, data: WorldData, goals: list[Goal]) -> None:
        self.rng, self.data, self.goals = rng, data, goals

    def hours(self) -> Iterator[Planned]:
        """A day is closed before the reader asks for its hours."""
        for place, goal in enumerate(self.goals):
            if goal.intent == "opening_hours":
                yield Planned(f"closed_day:{goal.slots['day']}", place, goal, place)

    def stock(self) -> Iterator[Planned]:
        """The book is withdrawn before the hold on it is confirmed; another one is taken."""
        for place, goal in self._changing("holds"):
            book = goal.slots["book"]
            others = [other for other in self.goals if other is not goal and book in _books(other)]
            plain = not any(name.startswith(("else_", "mind_")) for name in goal.slots)
            if plain and all((other.intent, *other.also) == ("book_details",) for other in others):
                slots = {**goal.slots, "else_book": self._another_book(goal)}
                expect = {**goal.expect, "holds": {**goal.expect["holds"], "book": slots["else_book"]}}
                yield Planned(f"book_withdrawn:{book}", place, _with(goal, slots, expect), place + 1)

    def argument(self) -> Iterator[Planned]:
        """A cancellation needs the number of the book too; the reader knows it."""
        for place, goal in self._changing("cancelled"):
            hold = next(row for row in self.data.holds_of(goal.slots["card"]) if row.hold == goal.slots["hold"])
            if not any(_books(other) or other.also for other in self.goals[:place]):  # no other book is at hand then
                given = {"hold": hold.hold, "card": hold.card, "book": hold.book}
                activities = [*goal.expect.get("activities", []), {"tool": "cancel_hold", "arguments": given}]
                changed = _with(goal, {**goal.slots, "book": hold.book}, {**goal.expect, "activities": activities})
                yield Planned(BOOK_NAMED, place, changed, place + 1)

    def rule(self) -> Iterator[Planned]:
        """A change may be made only after one more check, which it passes."""
        for place, goal in self._changing("cancelled"):
            if self._reader(goal).owed < MAX_OWED:
                yield Planned(CLEAR_FIRST, place, goal, place + 1)
        placed = sum("holds" in goal.expect for goal in self.goals)
        for place, goal in self._changing("renewed"):
            if len(self.data.holds_of(goal.slots["card"])) + placed < MAX_HOLDS:
                yield Planned(LIMIT_FIRST, place, goal, place + 1)

    def rename(self) -> Iterator[Planned]:
        """A tool that the plan needs is called otherwise by the time that it is made."""
        changing = {place for place, _ in self._changing(*_CHANGES)}
        for place, goal in enumerate(self.goals):
            looked_up = [call["tool"] for call in goal.expect.get("activities", ())]
            tools = INTENTS[goal.intent].tools if place in changing else looked_up
            for tool in dict.fromkeys(tools):
                if tool in RENAMES:
                    yield Planned(f"{tool}_renamed", place, goal, place + (place in changing))

    def _changing(self, *changes: str) -> Iterator[tuple[int, Goal]]:
        """The goals that are a single request for one of the changes, with their place."""
        for place, goal in enumerate(self.goals):
            if not goal.also and any(_CHANGES[change] == goal.intent and change in goal.expect for change in changes):
                yield place, goal

    def _another_book(self, goal: Goal) -> str:
        """A book that can be set aside for the reader and that no goal is about."""
        card = goal.slots["card"]
        taken = {loan.book for loan in self.data.loans_of(card)} | {hold.book for hold in self.data.holds_of(card)}
        taken |= {book for other in self.goals for book in _books(other)}
        free = [b.book for b in self.data.books if b.lendable and self.data.free(b) and b.book not in taken]
        return self.rng.choice(free)

    def _reader(self, goal: Goal) -> Reader:
        return next(reader for reader in self.data.readers if reader.card == goal.slots["card"])


def _books(goal: Goal) -> set[str]:
    """The books that a goal is about, whether the reader names them or one of its requests finds them."""
    named = {goal.slots[name] for name in ("book", "else_book", "mind_book") if name in goal.slots}
    return named | {goal.expect[key]["book"] for key in ("holds", "renewed") if key in goal.expect}


def _with(goal: Goal, slots: Json, expect: Json) -> Goal:
    return goal.model_copy(update={"slots": slots, "expect": expect})


_DRAWS: Draws[_Ground] = {
    "hours": _Ground.hours,
    "stock": _Ground.stock,
    "argument": _Ground.argument,
    "rule": _Ground.rule,
    "rename": _Ground.rename,
}
