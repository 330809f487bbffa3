"""Scenarios in which the dealership changes while the customer talks to it, drawn so that their end is known.

`draw_switches` plans one change for goals that were drawn before and, where it must, gives the customer a second
choice or one more thing to tell. Invariants: goal j opens in turn j at the earliest and is confirmed one turn later, so
a change that is planned by then always comes before what it bears on; no other goal depends on what changes. Hours,
cars and incentives change what can be had; names, arguments and rules only how it is planned, and the end stays.
"""

import random
from collections.abc import Iterator, Sequence

from agentmill.domains.automotive.intents import INTENTS
from agentmill.domains.automotive.scenarios import generate
from agentmill.domains.automotive.seed import (
    Customer,
    Hours,
    Vehicle,
    WorldData,
    phone_number,
    slot_times,
    workshop_times,
    world_data,
)
from agentmill.domains.automotive.switches import NOON, RENAMES
from agentmill.domains.base import Goal, Json, PlannedSwitch, Scenario
from agentmill.domains.kit.switching import Draws, Planned, plan_switches, scenarios_with_switches

# A change that a goal expects -> the intent whose customer confirms it.
_CHANGES = {
    "booking": "book_test_drive", "moved": "move_test_drive", "visit": "book_service", "delivery": "move_delivery",
    "reservation": "reserve_vehicle", "lead": "leave_contact", "cancelled": "cancel_test_drive",
    "visit_cancelled": "cancel_service",
}  # fmt: skip
_TIMED = ("booking", "moved", "visit", "delivery")
_ABOUT_ANY_CAR = {"vehicle_details", "compare_vehicles", "check_availability", "price_offer", "finance_quote"}
Slot = tuple[str, str]


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
        """A day is closed, or ends at noon, before the customer confirms a time on it; another one is taken."""
        for place, goal, change in self._changing(*_TIMED):
            day = goal.slots["day"]
            if self._plain(goal) and self._alone(place, day):
                for name, before, after in self._other_hours(change, goal, day):
                    yield Planned(f"{name}:{day}", place, self._retimed(goal, change, before, after), place + 1)

    def stock(self) -> Iterator[Planned]:
        """The car is sold before the customer confirms; another one is taken."""
        for place, goal, change in self._changing("booking", "reservation"):
            stock = goal.slots["stock"]
            before = [
                name for other in self.goals[:place] if stock in _cars(other) for name in (other.intent, *other.also)
            ]
            after = [other for other in self.goals[place + 1 :] if stock in _cars(other)]
            if self._plain(goal) and not after and set(before) <= _ABOUT_ANY_CAR:
                other = self._another_car(goal, change)
                slots = {**goal.slots, "else_stock": other.stock}
                expect = {**goal.expect, change: {**goal.expect[change], "stock": other.stock}}
                yield Planned(f"vehicle_sold:{stock}", place, _with(goal, slots, expect), place + 1)

    def incentive(self) -> Iterator[Planned]:
        """The best incentive on a car ends before the customer asks for its price."""
        for place, goal in enumerate(self.goals):
            if "price_offer" in (goal.intent, *goal.also) and not {"discount", "ask_discount"} & goal.slots.keys():
                car = self._vehicle(goal.slots["stock"])
                offers = [row for row in self.data.business.incentives if row.make in (None, car.make)]
                best, *rest = [*sorted(offers, key=lambda row: (-row.amount, row.code)), None]
                if best is not None:
                    quote = {"stock": car.stock} | ({"incentive": rest[0].code} if rest[0] else {})
                    yield Planned(f"incentive_ended:{best.code}", place, _quoted(goal, quote), place)

    def argument(self) -> Iterator[Planned]:
        """The tool that makes the change wants a telephone number too; the customer has one to tell."""
        for change, name in (("booking", "phone_for_drives"), ("delivery", "phone_for_deliveries")):
            for place, goal, _ in self._changing(change):
                phone = {"phone": self._phone()}
                tool, made = _CHANGES[change], goal.expect[change]
                given = {"order": made["number"], "day": made["day"]} if change == "delivery" else made
                activities = [*goal.expect.get("activities", []), {"tool": tool, "arguments": {**given, **phone}}]
                expect = {**goal.expect, "activities": activities}
                yield Planned(name, place, _with(goal, {**goal.slots, **phone}, expect), place + 1)

    def rule(self) -> Iterator[Planned]:
        """A change may be made only after one more check, which it passes."""
        for place, goal, _ in self._changing("booking"):
            stock = goal.expect["booking"]["stock"]
            reserved = any("reservation" in g.expect and stock in _cars(g) for g in self.goals)
            if self._vehicle(stock).status == "available" and not reserved:
                yield Planned("drives_of_available_cars", place, goal, place + 1)
        driver = self._driver()
        for place, goal, _ in self._changing("moved"):
            if driver is None:
                break
            person = {"name": driver.name, "licence": driver.licence}
            shown = {"activities": [{"tool": "verify_licence", "arguments": person}]}
            changed = _with(goal, {**goal.slots, **person}, {**goal.expect, **shown})
            yield Planned("licence_for_moves", place, changed, place + 1)

    def rename(self) -> Iterator[Planned]:
        """A tool that the plan needs is called otherwise by the time that it is made."""
        for place, goal in enumerate(self.goals):
            looked_up = [call["tool"] for call in goal.expect.get("activities", ())]
            change = next((key for key in _CHANGES if key in goal.expect), None)
            changing = change is not None and not goal.also
            tools = INTENTS[goal.intent].tools if changing else looked_up
            for tool in dict.fromkeys(tools):
                if tool in RENAMES:
                    yield Planned(f"{tool}_renamed", place, goal, place + 1 if changing else place)

    def _changing(self, *changes: str) -> Iterator[tuple[int, Goal, str]]:
        """The goals that are a single request for one of the changes, with their place."""
        for place, goal in enumerate(self.goals):
            found = [change for change in changes if change in goal.expect and _CHANGES[change] == goal.intent]
            if found and not goal.also:
                yield place, goal, found[0]

    def _plain(self, goal: Goal) -> bool:
        """Whether the customer has no second choice yet and stays with the first."""
        return not any(name.startswith(("else_", "mind_", "ask_")) for name in goal.slots)

    def _alone(self, place: int, day: str) -> bool:
        """Whether no other goal needs the day as it was."""
        others = [goal for at, goal in enumerate(self.goals) if at != place and goal.intent != "opening_hours"]
        return not any(
            day == goal.slots.get(name) for goal in others for name in ("day", "else_day", "mind_day", "ask_day")
        )

    def _other_hours(self, change: str, goal: Goal, day: str) -> Iterator[tuple[str, list[Slot], list[Slot]]]:
        """The switches of a day's hours, with the times that they take away and those that are left or elsewhere."""
        hours = self.data.opening(day)
        if change == "delivery":
            yield "closed_day", [(day, "")], [(row.day, "") for row in self.data.hours if row.opens and row.day != day]
            return
        elsewhere = [slot for row in self.data.hours if row.day != day for slot in self._free(change, goal, row)]
        before = self._free(change, goal, hours)
        if before and elsewhere:
            yield "closed_day", before, elsewhere
        if hours.opens and hours.closes and hours.opens < NOON < hours.closes:
            kept = self._free(change, goal, Hours(day, hours.opens, NOON))
            lost = [slot for slot in before if slot not in self._free(change, goal, Hours(day, hours.opens, NOON))]
            if kept and lost:
                yield "early_closing", lost, kept

    def _free(self, change: str, goal: Goal, hours: Hours) -> list[Slot]:
        """The free times of a day for what the goal is about."""
        if change == "visit":
            taken = {visit.time for visit in self.data.business.visits if visit.day == hours.day}
            return [(hours.day, time) for time in workshop_times(hours) if time not in taken]
        stock = goal.slots.get("stock") or self._booked_car(goal.slots["reference"])
        taken = {row.time for row in self.data.bookings if (row.stock, row.day) == (stock, hours.day)}
        return [(hours.day, time) for time in slot_times(hours) if time not in taken]

    def _retimed(self, goal: Goal, change: str, before: list[Slot], after: list[Slot]) -> Goal:
        """The goal with a first wish that the switch takes away and a second choice that it leaves."""
        (day, time), (other_day, other_time) = self.rng.choice(before), self.rng.choice(after)
        if change == "delivery":
            first, second = {"day": day}, {"day": other_day}
        else:
            first, second = {"day": day, "time": time}, {"day": other_day, "time": other_time}
        choice = {f"else_{name}": value for name, value in second.items() if value != first[name]}
        expect = {**goal.expect, change: {**goal.expect[change], **second}}
        return _with(goal, {**goal.slots, **first, **choice}, expect)

    def _another_car(self, goal: Goal, change: str) -> Vehicle:
        """A car that no goal is about, which can be had as the goal wants it."""
        named = {car for other in self.goals for car in _cars(other)}
        named |= {self._booked_car(g.slots["reference"]) for g in self.goals if "reference" in g.slots}
        when = (goal.slots.get("day"), goal.slots.get("time"))
        taken = {row.stock for row in self.data.bookings if (row.day, row.time) == when}
        free = [car for car in self.data.vehicles if car.status == "available" and car.stock not in named | taken]
        return self.rng.choice(free)

    def _vehicle(self, stock: str) -> Vehicle:
        return next(car for car in self.data.vehicles if car.stock == stock)

    def _booked_car(self, reference: str) -> str:
        return next((row.stock for row in self.data.bookings if row.reference == reference), "")

    def _phone(self) -> str:
        """The customer's number: the one that another goal has already, or a new one."""
        told = [goal.slots["phone"] for goal in self.goals if "phone" in goal.slots]
        return str(told[0]) if told else phone_number(self.rng)

    def _driver(self) -> Customer | None:
        """The one person of all goals with their valid licence, anybody where none is named; else None."""
        valid = [person for person in self.data.customers if person.valid]
        for slot in ("name", "licence"):
            for goal in self.goals:
                valid = [
                    person for person in valid if goal.slots.get(slot, getattr(person, slot)) == getattr(person, slot)
                ]
        return self.rng.choice(valid) if valid else None


def _cars(goal: Goal) -> set[str]:
    """The stock numbers that a goal names."""
    return {goal.slots[name] for name in ("stock", "other_stock", "else_stock", "mind_stock") if name in goal.slots}


def _with(goal: Goal, slots: Json, expect: Json) -> Goal:
    return goal.model_copy(update={"slots": slots, "expect": expect})


def _quoted(goal: Goal, quote: Json) -> Goal:
    """The goal with another price quoted at its end."""
    activities = [
        {"tool": "quote_price", "arguments": quote} if call["tool"] == "quote_price" else call
        for call in goal.expect["activities"]
    ]
    return _with(goal, goal.slots, {**goal.expect, "activities": activities})


_DRAWS: Draws[_Ground] = {
    "hours": _Ground.hours,
    "stock": _Ground.stock,
    "incentive": _Ground.incentive,
    "argument": _Ground.argument,
    "rule": _Ground.rule,
    "rename": _Ground.rename,
}
