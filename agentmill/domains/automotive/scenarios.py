"""Scenarios that can be achieved: each is drawn from the rows of the world that it will be played in.

`generate(count, seed, split)` is a pure function; scenario i depends on (split, seed, i) only, so a longer list starts
with the shorter one. Held-out scenarios play in worlds of their own (other vehicles, names and numbers). One to three
task goals of distinct intents, in a sensible order, sometimes with small talk or a question out of scope beside them.
"""

import hashlib
import json
import random
from typing import Literal

from agentmill.domains.automotive.catalogue import CATALOGUE, CONDITIONS, DAYS
from agentmill.domains.automotive.seed import (
    HELDOUT_SEEDS,
    REFERENCE_YEAR,
    TRAIN_SEEDS,
    Booking,
    Vehicle,
    WorldData,
    slot_times,
    world_data,
)
from agentmill.domains.automotive.tools import MAX_FOUND
from agentmill.domains.base import Goal, Json, Scenario

PERSONAS = ("plain", "terse", "chatty", "polite", "hesitant")
TASKS = {
    "find_vehicles": 4,
    "vehicle_details": 3,
    "book_test_drive": 6,
    "check_booking": 2,
    "cancel_test_drive": 3,
    "opening_hours": 3,
    "value_trade_in": 4,
}
_TALK = ("greeting", "weather", "praise")
_OFF_TOPIC = ("restaurant", "flight", "homework", "football", "recipe", "doctor", "stocks", "rental")
_EMPTY_SEARCH, _REFUSED_WISH, _BAD_LICENCE, _TALK_SHARE, _OFF_TOPIC_SHARE = 0.08, 0.15, 0.06, 0.15, 0.12


def generate(count: int, seed: int, split: str) -> list[Scenario]:
    """`count` scenarios of a split ("train" or "heldout").

    Raises:
        ValueError: for another split.
    """
    if split == "train":
        return [_scenario(seed, index, "train", TRAIN_SEEDS) for index in range(count)]
    if split == "heldout":
        return [_scenario(seed, index, "heldout", HELDOUT_SEEDS) for index in range(count)]
    raise ValueError(f'split={split!r} is unknown: scenarios are made for "train" or "heldout"')


def _scenario(seed: int, index: int, split: Literal["train", "heldout"], worlds: tuple[int, ...]) -> Scenario:
    rng = random.Random(f"automotive scenario {split} {seed} {index}")
    world_seed = rng.choice(worlds)
    persona = rng.choice(PERSONAS)
    goals = tuple(_Goals(rng, world_data(world_seed)).draw())
    content: Json = {
        "seed": rng.randrange(2**31),
        "world_seed": world_seed,
        "persona": persona,
        "goals": goals,
        "split": split,
        "max_turns": 12 + 5 * len(goals),
    }
    text = json.dumps({**content, "goals": [goal.model_dump() for goal in goals]}, sort_keys=True)
    return Scenario(sid=hashlib.sha256(text.encode()).hexdigest()[:16], **content)


class _Goals:
    """Draws the goals of one scenario; what one goal found is what the next talks about."""

    def __init__(self, rng: random.Random, data: WorldData) -> None:
        self.rng, self.data = rng, data
        self.vehicle: Vehicle = rng.choice(data.vehicles)
        self.booking: Booking = rng.choice(data.bookings)

    def draw(self) -> list[Goal]:
        """One to three tasks, a look at a booking always before it is cancelled, and the talk beside them."""
        wanted = self.rng.choices((1, 2, 3), weights=(45, 35, 20))[0]
        weights = dict(TASKS)
        names: list[str] = []
        while len(names) < wanted:
            name = self.rng.choices(list(weights), weights=list(weights.values()))[0]
            del weights[name]
            names.append(name)
        if self.rng.random() < 0.6 or {"check_booking", "cancel_test_drive"} <= set(names):
            names.sort(key=list(TASKS).index)
        goals: list[Goal] = [getattr(self, f"_{name}")() for name in names]
        if self.rng.random() < _TALK_SHARE:
            goals.insert(0, Goal(intent="small_talk", slots={"topic": self.rng.choice(_TALK)}, expect={}))
        if self.rng.random() < _OFF_TOPIC_SHARE:
            place = self.rng.randrange(len(goals) + 1)
            slots = {"topic": self.rng.choice(_OFF_TOPIC)}
            goals.insert(place, Goal(intent="out_of_scope", slots=slots, expect={}))
        return goals

    def _find_vehicles(self) -> Goal:
        slots: Json = {"make": self.vehicle.make, "body": self.vehicle.body, "fuel": self.vehicle.fuel}
        slots["max_price"] = -(-self.vehicle.price // 1000) * 1000 + self.rng.choice((0, 0, 1000, 2000, 5000))
        kept = set(self.rng.sample(list(slots), self.rng.choices((1, 2, 3, 4), weights=(30, 40, 25, 5))[0]))
        slots = {name: value for name, value in slots.items() if name in kept}
        if self.rng.random() < _EMPTY_SEARCH:
            slots = {"make": self.vehicle.make, "max_price": self.rng.choice((500, 800, 900, 1000))}
        found = [car for car in self.data.vehicles if _fits(car, slots)]
        found.sort(key=lambda car: (-car.year, car.price, car.stock))
        if found and self.rng.random() < 0.8:
            self.vehicle = self.rng.choice(found[:MAX_FOUND])
        return _information("find_vehicles", "search_inventory", slots)

    def _vehicle_details(self) -> Goal:
        return _information("vehicle_details", "get_vehicle", {"stock": self.vehicle.stock})

    def _opening_hours(self) -> Goal:
        return _information("opening_hours", "opening_hours", {"day": self.rng.choice(DAYS)})

    def _value_trade_in(self) -> Goal:
        make = self.rng.choice(list(CATALOGUE))
        year = self.rng.randint(REFERENCE_YEAR - 20, REFERENCE_YEAR - 1)
        exact = self.rng.random() < 0.35
        mileage = self.rng.randint(3_000, 190_000) if exact else self.rng.randint(3, 190) * 1000
        slots = {
            "make": make,
            "model": self.rng.choice(CATALOGUE[make]).name,
            "year": year,
            "mileage": mileage,
            "condition": self.rng.choice(CONDITIONS),
        }
        return _information("value_trade_in", "estimate_trade_in", slots)

    def _check_booking(self) -> Goal:
        return _information("check_booking", "find_booking", {"reference": self.booking.reference})

    def _cancel_test_drive(self) -> Goal:
        if self.rng.random() < 0.4:
            self.booking = self.rng.choice(self.data.bookings)
        reference = self.booking.reference
        return Goal(intent="cancel_test_drive", slots={"reference": reference}, expect={"cancelled": reference})

    def _book_test_drive(self) -> Goal:
        if self.rng.random() < 0.25:
            self.vehicle = self.rng.choice(self.data.vehicles)
        valid = self.rng.random() >= _BAD_LICENCE
        customer = self.rng.choice([person for person in self.data.customers if person.valid == valid])
        person = {"name": customer.name, "licence": customer.licence}
        wish, other = self._slot_wishes()
        slots = {"stock": self.vehicle.stock, **wish, **person}
        slots |= {f"else_{name}": value for name, value in other.items() if value != wish[name]}
        if not valid:
            check = {"tool": "verify_licence", "arguments": person}
            return Goal(intent="book_test_drive", slots=slots, expect={"activity": check})
        booking = {"stock": self.vehicle.stock, **wish, **other, **person}
        return Goal(intent="book_test_drive", slots=slots, expect={"booking": booking})

    def _slot_wishes(self) -> tuple[dict[str, str], dict[str, str]]:
        """The day and time that are asked for first, and a free slot to fall back on where they are not free."""
        if self.rng.random() >= _REFUSED_WISH:
            return self._free_slot(), {}
        if self.rng.random() < 0.5:
            taken = self.rng.choice(self.data.bookings)
            self.vehicle = next(car for car in self.data.vehicles if car.stock == taken.stock)
            wish = {"day": taken.day, "time": taken.time}
        else:
            row = self.rng.choice(self.data.hours)
            times = sorted({f"{hour:02d}:00" for hour in (6, 7, 20, 21, 22)} - set(slot_times(row)))
            wish = {"day": row.day, "time": self.rng.choice(times)}
        same_day = self._free_times(wish["day"])
        if same_day and self.rng.random() < 0.7:
            return wish, {"day": wish["day"], "time": self.rng.choice(same_day)}
        return wish, self._free_slot()

    def _free_slot(self) -> dict[str, str]:
        day = self.rng.choice([day for day in DAYS if self._free_times(day)])
        return {"day": day, "time": self.rng.choice(self._free_times(day))}

    def _free_times(self, day: str) -> list[str]:
        taken = {row.time for row in self.data.bookings if (row.stock, row.day) == (self.vehicle.stock, day)}
        return [time for time in slot_times(self.data.opening(day)) if time not in taken]


def _information(intent: str, tool: str, slots: Json) -> Goal:
    return Goal(intent=intent, slots=slots, expect={"activity": {"tool": tool, "arguments": slots}})


def _fits(car: Vehicle, slots: Json) -> bool:
    return (
        slots.get("make", car.make) == car.make
        and slots.get("body", car.body) == car.body
        and slots.get("fuel", car.fuel) == car.fuel
        and car.price <= slots.get("max_price", car.price)
    )
