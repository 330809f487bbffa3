"""The data of one seeded world as plain Python values: `world_data(seed)` is a pure function of its seed.

The world loads these rows into SQL; the scenario generator reads them directly, which keeps it fast. Worlds with a
seed from HELDOUT_FROM on are held out: their names come from a pool of their own.
"""

import random
from functools import lru_cache
from typing import NamedTuple

from agentmill.domains.automotive.catalogue import CATALOGUE, COLOURS, DAYS, PLACES, SERVICES, compose_name, find_model

TRAIN_SEEDS = tuple(range(1, 25))
HELDOUT_FROM = 1001
HELDOUT_SEEDS = tuple(range(HELDOUT_FROM, HELDOUT_FROM + 8))
REFERENCE_YEAR = 2026
VEHICLE_COUNT, CUSTOMER_COUNT, BOOKING_COUNT = 300, 400, 90
VISIT_COUNT, ORDER_COUNT, LEAD_COUNT = 24, 80, 20
ORDER_STATUS = ("in production", "on its way", "ready", "delivered")
_VIN_SIGNS = "ABCDEFGHJKLMNPRSTUVWXYZ0123456789"


class Vehicle(NamedTuple):
    """One row of `vehicles`; mileage in miles, price in dollars, `status` available, reserved or sold."""

    stock: str
    make: str
    model: str
    year: int
    body: str
    fuel: str
    mileage: int
    colour: str
    price: int
    vin: str
    status: str


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


class Visit(NamedTuple):
    """One seeded, live row of `visits`: a car that comes to the workshop."""

    reference: str
    plate: str
    service: str
    day: str
    time: str
    name: str


class Order(NamedTuple):
    """One row of `orders`: a car that is on order for a customer, and the day of its delivery."""

    number: str
    name: str
    vehicle: str
    status: str
    day: str


class Incentive(NamedTuple):
    """One row of `incentives`: an amount in dollars off every car, or those of one make."""

    code: str
    make: str | None
    amount: int


class Route(NamedTuple):
    """One row of `routes`: how long it takes from a place, and the bus that goes."""

    place: str
    minutes: int
    bus: str


class Business(NamedTuple):
    """What the dealership offers beside its cars. `rates` are (lowest credit score, yearly rate in percent) pairs."""

    visits: tuple[Visit, ...]
    orders: tuple[Order, ...]
    incentives: tuple[Incentive, ...]
    service_prices: dict[str, int]
    rates: tuple[tuple[int, int], ...]
    limits: dict[str, int]
    routes: tuple[Route, ...]
    leads: tuple[tuple[str, str], ...]


class WorldData(NamedTuple):
    """All rows of a seeded world."""

    vehicles: tuple[Vehicle, ...]
    customers: tuple[Customer, ...]
    hours: tuple[Hours, ...]
    bookings: tuple[Booking, ...]
    business: Business

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


_CONDITION_FACTOR = {"excellent": 0.9, "good": 0.82, "fair": 0.7, "poor": 0.5}
_UNKNOWN_PRICE = 24_000


def trade_in_value(make: str, model: str, year: int, mileage: int, condition: str) -> tuple[int, int]:
    """What the dealership would pay for a used car, from low to high, in dollars."""
    line = find_model(make, model)
    price = line.price if line else _UNKNOWN_PRICE
    worth = depreciated(price, max(0, REFERENCE_YEAR - year), mileage) * _CONDITION_FACTOR[condition]
    return round(worth * 0.95 / 50) * 50, round(worth * 1.05 / 50) * 50


def _stock_number(rng: random.Random) -> str:
    return f"{rng.choice('ABCDEFGHJKLMNPRSUVWXYZ')}{rng.randint(1000, 9999)}"


def workshop_times(hours: Hours) -> list[str]:
    """The times at which a car can be brought on a weekday: every full hour but the last before closing."""
    return slot_times(hours)[:-1] if hours.day not in ("saturday", "sunday") else []


def vin_number(rng: random.Random) -> str:
    """A vehicle identification number: 17 signs without I, O and Q, the last six digits."""
    return "".join(rng.choices(_VIN_SIGNS, k=11)) + f"{rng.randrange(10**6):06d}"


def phone_number(rng: random.Random) -> str:
    """A telephone number of the kind that is kept for examples."""
    return f"555-{rng.randrange(10_000):04d}"


def plate_number(rng: random.Random) -> str:
    """A number plate: three letters and four digits."""
    return "".join(rng.choices("ABCDEFGHJKLMNPRSTUVWXYZ", k=3)) + f"{rng.randrange(10_000):04d}"


def _vehicles(rng: random.Random, more: random.Random) -> tuple[Vehicle, ...]:
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
            stock, make, line.name, year, line.body, rng.choice(line.fuels), mileage, rng.choice(COLOURS), price,
            vin_number(more), more.choices(("available", "reserved", "sold"), weights=(92, 4, 4))[0],
        )  # fmt: skip
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


def _visits(rng: random.Random, customers: tuple[Customer, ...], hours: tuple[Hours, ...]) -> tuple[Visit, ...]:
    slots = [(row.day, time) for row in hours for time in workshop_times(row)]
    references = rng.sample(range(10_000, 99_999), VISIT_COUNT)
    return tuple(
        Visit(f"W{number}", plate_number(rng), rng.choice(SERVICES), day, time, rng.choice(customers).name)
        for number, (day, time) in zip(references, rng.sample(slots, VISIT_COUNT), strict=True)
    )


def _orders(rng: random.Random, customers: tuple[Customer, ...]) -> tuple[Order, ...]:
    rows = []
    for number in rng.sample(range(10_000, 99_999), ORDER_COUNT):
        make = rng.choice(list(CATALOGUE))
        vehicle = f"{make} {rng.choice(CATALOGUE[make]).name}"
        day = rng.choice(DAYS[:5])
        rows.append(Order(f"P{number}", rng.choice(customers).name, vehicle, rng.choice(ORDER_STATUS), day))
    return tuple(rows)


def _business(rng: random.Random, customers: tuple[Customer, ...], hours: tuple[Hours, ...]) -> Business:
    makes = rng.sample(list(CATALOGUE), 4)
    incentives = [
        Incentive(f"{make[:3].upper()}{rng.randint(10, 99)}", make, rng.randint(4, 30) * 50) for make in makes
    ]
    incentives.append(Incentive(f"NOW{rng.randint(10, 99)}", None, rng.randint(2, 10) * 50))
    base = rng.randint(3, 6)
    phones = rng.sample(range(10_000), LEAD_COUNT)
    return Business(
        visits=_visits(rng, customers, hours),
        orders=_orders(rng, customers),
        incentives=tuple(incentives),
        service_prices={service: rng.randint(8, 60) * 10 for service in SERVICES},
        rates=((740, base), (670, base + 2), (600, base + 5)),
        limits={
            "max_discount": rng.choice((3, 4, 5, 6, 8)),
            "min_down_payment": rng.choice((500, 1000, 1500, 2000)),
            "max_trade_in_age": rng.choice((12, 15, 18)),
            "max_trade_in_mileage": rng.choice((120_000, 150_000, 180_000)),
        },
        routes=tuple(Route(place, rng.randint(5, 50), f"{rng.randint(1, 99)}") for place in PLACES),
        leads=tuple((f"555-{number:04d}", rng.choice(customers).name) for number in phones),
    )


@lru_cache(maxsize=64)
def world_data(world_seed: int) -> WorldData:
    """The rows of the world of `world_seed`."""
    rng = random.Random(f"automotive world {world_seed}")
    more = random.Random(f"automotive business {world_seed}")
    vehicles = _vehicles(rng, more)
    customers = _customers(rng, heldout=world_seed >= HELDOUT_FROM)
    hours = _hours(rng)
    bookings = _bookings(rng, vehicles, customers, hours)
    return WorldData(vehicles, customers, hours, bookings, _business(more, customers, hours))
