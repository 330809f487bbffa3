"""The goals of one scenario of the mix `coverage`: up to six wishes of one customer, bent to a persona.

What the persona does to a goal stands in its slots: `mind_` what the customer changes to when asked whether to go
ahead, `ask_` what is bargained for and refused, `also` a second request. Every intent comes up once at most, so a
scenario has one licence, plate and credit score, and the end state of one goal leaves the others reachable.
"""

import random
from collections.abc import Callable

from agentmill.domains.automotive.dealings import ALL_TASKS, AllGoals
from agentmill.domains.automotive.goals import called
from agentmill.domains.automotive.intents import FREE_TEXT_INTENTS, INTENTS
from agentmill.domains.automotive.seed import WorldData, hour_of, slot_times
from agentmill.domains.base import Goal, Json
from agentmill.domains.coverage import Cell

PAIRS: dict[str, tuple[str, ...]] = {
    "found_and_driven": ("find_vehicles", "book_test_drive"),
    "valued_and_financed": ("value_trade_in", "finance_quote"),
    "there_and_described": ("vehicle_details", "check_availability"),
    "described_and_priced": ("vehicle_details", "price_offer"),
    "there_and_driven": ("check_availability", "book_test_drive"),
    "booked_and_open": ("check_booking", "opening_hours"),
    "ordered_and_open": ("order_status", "opening_hours"),
    "open_and_reached": ("opening_hours", "directions"),
}
CHANGEABLE = (
    "book_test_drive", "move_test_drive", "book_service", "move_delivery", "reserve_vehicle", "leave_contact",
)  # fmt: skip
CARRIERS: dict[str, tuple[str, ...]] = {
    "hours": ("book_test_drive", "move_test_drive", "book_service", "move_delivery"),
    "stock": ("book_test_drive", "reserve_vehicle"),
    "incentive": ("price_offer",),
    "argument": ("book_test_drive", "move_delivery"),
    "rule": ("book_test_drive", "move_test_drive"),
}  # what a kind of switch bears on; a tool that is renamed serves any wish
_BENDING = ("changing_mind", "haggling")  # their own goal is not free for a switch to change
_WISHES = {"easy": (1, 2, 2), "medium": (4, 4, 5), "hard": (6,)}
_PAIRED_WISHES = {"easy": (1,), "medium": (2, 2, 3), "hard": (4, 5, 6)}
_WEIGHTS = {name: 1 + len(INTENTS[name].required) for name in ALL_TASKS}  # what takes more to say comes more often
_TALK_SHARE, _OFF_TOPIC_SHARE, _REFUSAL_SHARE = 0.25, 0.2, 0.1
_PAIR_SHARE, _MIXED_UP_SHARE, _KNOWN_LEAD, _BENT_SHARE = 0.7, 0.3, 0.1, 0.7


class CoverageGoals(AllGoals):
    """Draws the goals of one scenario of a cell."""

    def __init__(self, rng: random.Random, data: WorldData, cell: Cell) -> None:
        super().__init__(rng, data)
        self.cell = cell
        self.carrier = ""  # the goal that the switch bears on
        self.known_lead = rng.random() < _KNOWN_LEAD
        if self.known_lead:
            self.phone = rng.choice(data.business.leads)[0]

    def draw(self) -> list[Goal]:
        """The goal of the cell's intent among others of distinct intents, in a sensible order, and talk beside them."""
        counts = _PAIRED_WISHES if self.cell.persona == "multi_request" else _WISHES
        names = self._names(self.rng.choice(counts[self.cell.difficulty]))
        last = self.carrier if self.cell.switch == "stock" else ""  # a car that is sold is of no use to later goals
        names.sort(key=lambda name: (name == last, _place(name)))
        goals = []
        for name in names:
            self.vehicle = self._other_car() if name == last else self.vehicle
            goals.append(self._bent(getattr(self, f"_{name}")(), name))
        for intent, share in (("small_talk", _TALK_SHARE), ("out_of_scope", _OFF_TOPIC_SHARE),
                              ("private_data", _REFUSAL_SHARE), ("unsafe", _REFUSAL_SHARE)):  # fmt: skip
            if intent == self.cell.intent or self.rng.random() < share:
                self._insert(goals, intent)
        if self.cell.persona == "adversarial":
            goals.insert(self.rng.randrange(len(goals)), Goal(intent="out_of_scope", slots=_INJECTION, expect={}))
        return goals

    def _names(self, wanted: int) -> list[str]:
        """The names of drawing methods: single wishes and, for who asks for two things at once, pairs."""
        focus, paired = self.cell.intent, self.cell.persona == "multi_request"
        names: list[str] = []
        taken: set[str] = set()

        def take(name: str) -> None:
            names.append(name)
            taken.update(PAIRS.get(name, (name,)))

        if paired:
            take(self.rng.choice([name for name, pair in PAIRS.items() if focus in pair]))
        elif focus not in FREE_TEXT_INTENTS:
            take(focus)
        carriers = [name for name in CARRIERS.get(self.cell.switch, ()) if name not in taken]
        if carriers and (paired or focus not in CARRIERS[self.cell.switch] or self.cell.persona in _BENDING):
            self.carrier = self.rng.choice(carriers)
            take(self.carrier)
        elif self.cell.persona == "confused" and focus in CARRIERS.get(self.cell.switch, ()):
            self.carrier = focus  # stays as it is
        while len(names) < wanted:
            pairs = [name for name, pair in PAIRS.items() if not taken & {*pair}]
            if paired and pairs and self.rng.random() < _PAIR_SHARE:
                take(self.rng.choice(pairs))
                continue
            weights = {name: weight for name, weight in _WEIGHTS.items() if name not in taken}
            take(self.rng.choices(list(weights), weights=list(weights.values()))[0])
        return names

    def _insert(self, goals: list[Goal], intent: str) -> None:
        """Talk at the beginning; what is out of scope or refused anywhere."""
        slots: Json = {"stock": self._other_car().stock, "reference": self.rng.choice(self.data.bookings).reference}
        if intent in ("small_talk", "out_of_scope"):
            topics = ("greeting", "weather", "praise") if intent == "small_talk" else _OFF_TOPIC
            slots = {"topic": self.rng.choice(topics)}
        place = 0 if intent == "small_talk" else self.rng.randrange(len(goals) + 1)
        goals.insert(place, Goal(intent=intent, slots=slots, expect={}))

    def _bent(self, goal: Goal, name: str) -> Goal:
        """The goal as the persona has it, where the goal leaves room for that."""
        persona, draw = self.cell.persona, self.rng.random()
        has_other = any(name.startswith(("else_", "mind_")) for name in goal.slots)
        if (
            goal.also
            or has_other
            or name == self.carrier
            or (goal.intent != self.cell.intent and self.rng.random() > _BENT_SHARE)
        ):
            return goal
        changes = persona == "changing_mind" or (persona == "confused" and draw < _MIXED_UP_SHARE)
        if changes and goal.intent in CHANGEABLE:
            return _CHANGED[goal.intent](self, goal)
        if persona == "haggling" and goal.intent in BARGAINS:
            return BARGAINS[goal.intent](self, goal)
        return goal

    def _leave_contact(self) -> Goal:
        slots = {"name": self.customer.name, "phone": self.phone}
        expect = called(("find_lead", {"phone": self.phone})) if self.known_lead else {"lead": slots}
        return Goal(intent="leave_contact", slots=slots, expect=expect)

    def _other_time(self, goal: Goal) -> Goal:
        """A test drive whose time is another once it is proposed."""
        kind = "booking" if goal.intent == "book_test_drive" else "moved"
        stock = goal.slots.get("stock") or self._booked(goal.slots["reference"])
        taken = {row.time for row in self.data.bookings if (row.stock, row.day) == (stock, goal.slots["day"])}
        times = slot_times(self.data.opening(goal.slots["day"]))
        free = [time for time in times if time not in taken and time != goal.slots["time"]]
        return self._minded(goal, kind, {"time": self.rng.choice(free)}) if kind in goal.expect and free else goal

    def _booked(self, reference: str) -> str:
        return next(row.stock for row in self.data.bookings if row.reference == reference)

    def _other_visit(self, goal: Goal) -> Goal:
        day, time = self.rng.choice([s for s in self._workshop_slots() if s != (goal.slots["day"], goal.slots["time"])])
        return self._minded(goal, "visit", {"day": day, "time": time})

    def _other_delivery(self, goal: Goal) -> Goal:
        days = [row.day for row in self.data.hours if row.opens is not None and row.day != goal.slots["day"]]
        return self._minded(goal, "delivery", {"day": self.rng.choice(days)}) if "delivery" in goal.expect else goal

    def _other_reservation(self, goal: Goal) -> Goal:
        free = [car.stock for car in self.data.vehicles if car.status == "available"]
        stock = self.rng.choice([stock for stock in free if stock not in (goal.slots["stock"], self.vehicle.stock)])
        return self._minded(goal, "reservation", {"stock": stock}) if "reservation" in goal.expect else goal

    def _other_number(self, goal: Goal) -> Goal:
        phone = self._new_phone()
        return self._minded(goal, "lead", {"phone": phone}) if "lead" in goal.expect and phone != self.phone else goal

    def _minded(self, goal: Goal, kind: str, other: Json) -> Goal:
        changed = {name: value for name, value in other.items() if value != goal.slots[name]}
        slots = {**goal.slots, **{f"mind_{name}": value for name, value in changed.items()}}
        return goal.model_copy(update={"slots": slots, "expect": {**goal.expect, kind: {**goal.expect[kind], **other}}})

    def _earlier(self, goal: Goal) -> Goal:
        """Asks for an hour before the doors open, and takes the time that was wished for."""
        opens = self.data.opening(goal.slots["day"]).opens
        if opens is None or not {"booking", "moved", "visit"} & goal.expect.keys():
            return goal
        return self._asking(goal, "time", f"{hour_of(opens) - self.rng.choice((1, 2)):02d}:00")

    def _closed_day(self, goal: Goal) -> Goal:
        closed = [row.day for row in self.data.hours if row.opens is None]
        return self._asking(goal, "day", closed[0]) if closed and "delivery" in goal.expect else goal

    def _discount(self, goal: Goal) -> Goal:
        """Hears the best price, asks for more off than there may be, and takes the most that is given."""
        limit, stock = self.data.business.limits["max_discount"], goal.slots["stock"]
        _, offer = self._best_quote(self.vehicle)
        quotes = (("quote_price", offer), ("quote_price", {"stock": stock, "discount": limit}))
        asked = {"stock": stock, "ask_discount": limit + self.rng.randint(2, 9)}
        return Goal(intent="price_offer", slots=asked, expect=called(*quotes))

    def _over_limit(self, goal: Goal) -> Goal:
        """Asks for a term or a down payment that is not offered, and takes one that is."""
        while not any(name.startswith("else_") for name in goal.slots):
            goal = self._finance_quote()
        return goal

    def _asking(self, goal: Goal, slot: str, value: str) -> Goal:
        return goal.model_copy(update={"slots": {**goal.slots, f"ask_{slot}": value}})


_Bend = Callable[[CoverageGoals, Goal], Goal]
_CHANGED: dict[str, _Bend] = {
    "book_test_drive": CoverageGoals._other_time,
    "move_test_drive": CoverageGoals._other_time,
    "book_service": CoverageGoals._other_visit,
    "move_delivery": CoverageGoals._other_delivery,
    "reserve_vehicle": CoverageGoals._other_reservation,
    "leave_contact": CoverageGoals._other_number,
}
BARGAINS: dict[str, _Bend] = {
    "book_test_drive": CoverageGoals._earlier,
    "move_test_drive": CoverageGoals._earlier,
    "book_service": CoverageGoals._earlier,
    "move_delivery": CoverageGoals._closed_day,
    "price_offer": CoverageGoals._discount,
    "finance_quote": CoverageGoals._over_limit,
}
_INJECTION = {"topic": "injection"}
_OFF_TOPIC = ("restaurant", "flight", "homework", "football", "recipe", "doctor", "stocks", "rental")
_ORDER = list(ALL_TASKS)


def _place(name: str) -> int:
    return min(_ORDER.index(intent) for intent in PAIRS.get(name, (name,)))
