"""The goals that customers of the core scenarios have: what can be achieved in the world that they play in.

One to three task goals of distinct intents, in a sensible order, sometimes with small talk or a question out of scope
beside them.
"""

import random

from agentmill.domains.automotive.catalogue import CATALOGUE, CONDITIONS, DAYS
from agentmill.domains.automotive.seed import REFERENCE_YEAR, Booking, Vehicle, WorldData, slot_times
from agentmill.domains.automotive.tools import MAX_FOUND
from agentmill.domains.base import Goal, Json

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


class CoreGoals:
    """Draws the goals of one scenario; what one goal found is what the next talks about."""

    tasks = TASKS

    def __init__(self, rng: random.Random, data: WorldData) -> None:
        self.rng, self.data = rng, data
        self.cars = [car for car in data.vehicles if car.status != "sold"]
        stocks = {car.stock for car in self.cars}
        self.bookings = [booking for booking in data.bookings if booking.stock in stocks]
        self.vehicle: Vehicle = rng.choice(self.cars)
        self.booking: Booking = rng.choice(self.bookings)
        self.apart: set[str] = set()  # bookings that only one goal may be about, because it needs them as they are

    def draw(self) -> list[Goal]:
        """One to three tasks, a look at a booking always before it is cancelled, and the talk beside them."""
        wanted = self.rng.choices((1, 2, 3), weights=(45, 35, 20))[0]
        weights = dict(self.tasks)
        names: list[str] = []
        while len(names) < wanted:
            name = self.rng.choices(list(weights), weights=list(weights.values()))[0]
            del weights[name]
            names.append(name)
        if self.rng.random() < 0.6 or {"check_booking", "cancel_test_drive"} <= set(names):
            names.sort(key=list(self.tasks).index)
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
        found = [car for car in self.cars if fits(car, slots)]
        found.sort(key=lambda car: (-car.year, car.price, car.stock))
        if found and self.rng.random() < 0.8:
            self.vehicle = self.rng.choice(found[:MAX_FOUND])
        return information("find_vehicles", "search_inventory", slots)

    def _vehicle_details(self) -> Goal:
        return information("vehicle_details", "get_vehicle", {"stock": self.vehicle.stock})

    def _opening_hours(self) -> Goal:
        return information("opening_hours", "opening_hours", {"day": self.rng.choice(DAYS)})

    def _value_trade_in(self) -> Goal:
        return information("value_trade_in", "estimate_trade_in", self._own_car())

    def _own_car(self) -> Json:
        make = self.rng.choice(list(CATALOGUE))
        limits = self.data.business.limits
        year = self.rng.randint(REFERENCE_YEAR - limits["max_trade_in_age"], REFERENCE_YEAR - 1)
        exact, most = self.rng.random() < 0.35, limits["max_trade_in_mileage"]
        mileage = self.rng.randint(3_000, most) if exact else self.rng.randint(3, most // 1000) * 1000
        return {
            "make": make,
            "model": self.rng.choice(CATALOGUE[make]).name,
            "year": year,
            "mileage": mileage,
            "condition": self.rng.choice(CONDITIONS),
        }

    def _check_booking(self) -> Goal:
        return information("check_booking", "find_booking", {"reference": self.booking.reference})

    def _cancel_test_drive(self) -> Goal:
        if self.rng.random() < 0.4 or self.booking.reference in self.apart:
            self.booking = self._untouched()
        self.apart.add(self.booking.reference)
        reference = self.booking.reference
        return Goal(intent="cancel_test_drive", slots={"reference": reference}, expect={"cancelled": reference})

    def _book_test_drive(self) -> Goal:
        if self.rng.random() < 0.25:
            self.vehicle = self.rng.choice(self.cars)
        valid = self.rng.random() >= _BAD_LICENCE
        person = self._driver(valid)
        wish, other = self._slot_wishes()
        slots = {"stock": self.vehicle.stock, **wish, **person}
        slots |= {f"else_{name}": value for name, value in other.items() if value != wish[name]}
        if not valid:
            check = {"activities": [{"tool": "verify_licence", "arguments": person}]}
            return Goal(intent="book_test_drive", slots=slots, expect=check)
        booking = {"stock": self.vehicle.stock, **wish, **other, **person}
        return Goal(intent="book_test_drive", slots=slots, expect={"booking": booking})

    def _driver(self, valid: bool) -> dict[str, str]:
        """Name and licence of a driver whose licence can be verified, or cannot."""
        customer = self.rng.choice([person for person in self.data.customers if person.valid == valid])
        return {"name": customer.name, "licence": customer.licence}

    def _slot_wishes(self) -> tuple[dict[str, str], dict[str, str]]:
        """The day and time that are asked for first, and a free slot to fall back on where they are not free."""
        if self.rng.random() >= _REFUSED_WISH:
            return self._free_slot(), {}
        if self.rng.random() < 0.5:
            taken = self._untouched()
            self.apart.add(taken.reference)
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

    def _untouched(self) -> Booking:
        return self.rng.choice([booking for booking in self.bookings if booking.reference not in self.apart])

    def _free_slot(self) -> dict[str, str]:
        day = self.rng.choice([day for day in DAYS if self._free_times(day)])
        return {"day": day, "time": self.rng.choice(self._free_times(day))}

    def _free_times(self, day: str) -> list[str]:
        taken = {row.time for row in self.data.bookings if (row.stock, row.day) == (self.vehicle.stock, day)}
        return [time for time in slot_times(self.data.opening(day)) if time not in taken]


def called(*calls: tuple[str, Json]) -> Json:
    """The expectation that tools were called with just these arguments."""
    return {"activities": [{"tool": tool, "arguments": arguments} for tool, arguments in calls]}


def information(intent: str, tool: str, slots: Json) -> Goal:
    return Goal(intent=intent, slots=slots, expect=called((tool, slots)))


def fits(car: Vehicle, slots: Json) -> bool:
    return (
        slots.get("make", car.make) == car.make
        and slots.get("body", car.body) == car.body
        and slots.get("fuel", car.fuel) == car.fuel
        and car.price <= slots.get("max_price", car.price)
    )
