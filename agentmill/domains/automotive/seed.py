"""The data of one seeded world as plain Python values: `world_data(seed)` is a pure function of its seed.

The world loads these rows into SQL; the scenario generator reads them directly, which keeps it fast. Worlds with a
seed from HELDOUT_FROM on are held out: their names come from a pool of their own.
"""

import random
from functools import lru_cache
from typing import NamedTuple

from agentmill.domains.automotive.catalogue import CATALOGUE, COLOURS, DAYS, compose_name

TRAIN_SEEDS = tuple(range(1, 25))
HELDOUT_FROM = 1001
HELDOUT_SEEDS = tuple(range(HELDOUT_FROM, HELDOUT_FROM + 8))
REFERENCE_YEAR = 2026
VEHICLE_COUNT, CUSTOMER_COUNT, BOOKING_COUNT = 300, 400, 90


class Vehicle(NamedTuple):
    """One row of `vehicles`; mileage in miles, price in dollars."""

    stock: str
    make: str
    model: str
    year: int
    body: str
    fuel: str
    mileage: int
    colour: str
    price: int


class Customer(NamedTuple):
    """One row of `customers`; `valid` tells whether the licence can be verified."""

    licence: str
    name: str
    valid: bool


class Hours(NamedTuple):
    """One row of `hours`; both times are None on a closed day."""

    day: str
    opens: str | None
    closes: str | None


class Booking(NamedTuple):
    """One seeded, live row of `bookings`."""

    reference: str
    stock: str
    day: str
    time: str
    name: str
    licence: str


class WorldData(NamedTuple):
    """All rows of a seeded world."""

    vehicles: tuple[Vehicle, ...]
    customers: tuple[Customer, ...]
    hours: tuple[Hours, ...]
    bookings: tuple[Booking, ...]

    def opening(self, day: str) -> Hours:
        """The opening hours of `day`."""
        return self.hours[DAYS.index(day)]


def hour_of(time: str) -> int:
    """The hour of an "HH:00" time."""
    return int(time[:2])


def slot_times(hours: Hours) -> list[str]:
    """The times at which a test drive can start on that day: every full hour from opening until before closing."""
    if hours.opens is None or hours.closes is None:
        return []
    return [f"{hour:02d}:00" for hour in range(hour_of(hours.opens), hour_of(hours.closes))]


def depreciated(price: int, age: int, mileage: int) -> int:
    """What a car that cost `price` when new is worth, in dollars, a multiple of 50."""
    worth = price * 0.88**age * max(0.35, 1 - mileage / 400_000)
    return max(500, round(worth / 50) * 50)


def _stock_number(rng: random.Random) -> str:
    return f"{rng.choice('ABCDEFGHJKLMNPRSUVWXYZ')}{rng.randint(1000, 9999)}"


def _vehicles(rng: random.Random) -> tuple[Vehicle, ...]:
    rows: dict[str, Vehicle] = {}
    makes = list(CATALOGUE)
    while len(rows) < VEHICLE_COUNT:
        make = rng.choice(makes)
        line = rng.choice(CATALOGUE[make])
        year = rng.randint(REFERENCE_YEAR - 10, REFERENCE_YEAR - 1)
        mileage = round(rng.uniform(0.4, 1.5) * 9000 * (REFERENCE_YEAR - year) / 100) * 100
        price = depreciated(round(line.price * rng.uniform(0.93, 1.12)), REFERENCE_YEAR - year, mileage)
        stock = _stock_number(rng)
        rows[stock] = Vehicle(
            stock, make, line.name, year, line.body, rng.choice(line.fuels), mileage, rng.choice(COLOURS), price
        )
    return tuple(rows.values())


def _customers(rng: random.Random, heldout: bool) -> tuple[Customer, ...]:
    rows: dict[str, Customer] = {}
    while len(rows) < CUSTOMER_COUNT:
        licence = f"{rng.choice('ABCDEFGHJKLMNPRSUVWXYZ')}{rng.randint(1_000_000, 9_999_999)}"
        rows[licence] = Customer(licence, compose_name(rng, heldout=heldout), rng.random() < 0.9)
    return tuple(rows.values())


def _hours(rng: random.Random) -> tuple[Hours, ...]:
    opens, closes = rng.choice(("08:00", "09:00", "10:00")), rng.choice(("17:00", "18:00", "19:00"))
    late = rng.choice(("wednesday", "thursday", "friday"))
    rows = [Hours(day, opens, "20:00" if day == late else closes) for day in DAYS[:5]]
    rows.append(Hours("saturday", rng.choice(("09:00", "10:00")), rng.choice(("14:00", "15:00", "16:00"))))
    rows.append(Hours("sunday", *rng.choice(((None, None), (None, None), ("11:00", "15:00")))))
    return tuple(rows)


def _bookings(
    rng: random.Random, vehicles: tuple[Vehicle, ...], customers: tuple[Customer, ...], hours: tuple[Hours, ...]
) -> tuple[Booking, ...]:
    valid = [customer for customer in customers if customer.valid]
    open_days = [row for row in hours if row.opens is not None]
    rows: dict[tuple[str, str, str], Booking] = {}
    references = rng.sample(range(10_000, 99_999), BOOKING_COUNT)
    while len(rows) < BOOKING_COUNT:
        row = rng.choice(open_days)
        key = (rng.choice(vehicles).stock, row.day, rng.choice(slot_times(row)))
        customer = rng.choice(valid)
        rows.setdefault(key, Booking(f"T{references[len(rows)]}", *key, customer.name, customer.licence))
    return tuple(rows.values())


@lru_cache(maxsize=64)
def world_data(world_seed: int) -> WorldData:
    """The rows of the world of `world_seed`."""
    rng = random.Random(f"automotive world {world_seed}")
    vehicles = _vehicles(rng)
    customers = _customers(rng, heldout=world_seed >= HELDOUT_FROM)
    hours = _hours(rng)
    return WorldData(vehicles, customers, hours, _bookings(rng, vehicles, customers, hours))
