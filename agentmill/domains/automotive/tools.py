"""What a plan can call: typed keyword-only functions over the world, each returning compact JSON.

An answer that is no error ("taken", "not found") is a value; what a plan's checks should have prevented raises
ValueError, which undoes the whole plan.
"""

from typing import Literal

from sqlalchemy import func, insert, select, update

from agentmill.domains.automotive.catalogue import find_model
from agentmill.domains.automotive.schema import BOOKINGS, CUSTOMERS, VEHICLES
from agentmill.domains.automotive.seed import REFERENCE_YEAR, Hours, depreciated, hour_of, slot_times
from agentmill.domains.automotive.world import AutomotiveWorld
from agentmill.domains.base import Json, Tool, tool

Condition = Literal["excellent", "good", "fair", "poor"]
MAX_FOUND = 3
_CONDITION_FACTOR = {"excellent": 0.9, "good": 0.82, "fair": 0.7, "poor": 0.5}
_UNKNOWN_PRICE = 24_000


@tool()
def search_inventory(
    world: AutomotiveWorld,
    *,
    make: str | None = None,
    body: str | None = None,
    fuel: str | None = None,
    max_price: int | None = None,
) -> list[Json]:
    """Find cars by any of make, body, fuel and highest price in dollars; at most three, the newest first."""
    columns = VEHICLES.c
    query = select(columns.stock, columns.year, columns.make, columns.model, columns.price)
    for column, value in ((columns.make, make), (columns.body, body), (columns.fuel, fuel)):
        if value is not None:
            query = query.where(func.lower(column) == value.lower())
    if max_price is not None:
        query = query.where(columns.price <= max_price)
    query = query.order_by(columns.year.desc(), columns.price, columns.stock).limit(MAX_FOUND)
    return [dict(row) for row in world.connection.execute(query).mappings()]


@tool()
def get_vehicle(world: AutomotiveWorld, *, stock: str) -> Json:
    """Everything about one car by its stock number; {"found": false} where there is none."""
    row = world.connection.execute(select(VEHICLES).where(VEHICLES.c.stock == stock)).first()
    if row is None:
        return {"found": False}
    return {
        "year": row.year, "make": row.make, "model": row.model, "body": row.body, "fuel": row.fuel,
        "colour": row.colour, "mileage": row.mileage, "price": row.price,
    }  # fmt: skip


@tool()
def check_slot(world: AutomotiveWorld, *, stock: str, day: str, time: str) -> Json:
    """Whether a car can be test driven on a day at a full hour ("15:00"); otherwise why not, and near free times."""
    row = world.connection.execute(select(VEHICLES).where(VEHICLES.c.stock == stock)).first()
    if row is None:
        return {"free": False, "reason": "unknown"}
    offered = slot_times(_hours(world, day))
    live = (BOOKINGS.c.stock == stock, BOOKINGS.c.day == day, BOOKINGS.c.status == "booked")
    taken = set(world.connection.scalars(select(BOOKINGS.c.time).where(*live)))
    if time in offered and time not in taken:
        return {"free": True, "vehicle": f"{row.year} {row.make} {row.model}"}
    free = sorted((t for t in offered if t not in taken), key=lambda t: (abs(hour_of(t) - hour_of(time)), t))
    return {"free": False, "reason": "taken" if time in offered else "closed", "instead": sorted(free[:2])}


@tool()
def verify_licence(world: AutomotiveWorld, *, name: str, licence: str) -> Json:
    """Whether the driving licence is valid and in this name."""
    row = world.connection.execute(select(CUSTOMERS).where(CUSTOMERS.c.licence == licence)).first()
    return {"verified": row is not None and bool(row.valid) and row.name.lower() == name.lower()}


@tool(changes=True)
def book_test_drive(world: AutomotiveWorld, *, stock: str, day: str, time: str, name: str, licence: str) -> Json:
    """Book a test drive for a verified driver in a free slot; returns its reference."""
    if not check_slot.function(world, stock=stock, day=day, time=time)["free"]:
        raise ValueError(f"{stock} is not free on {day} at {time}; call check_slot first")
    if not verify_licence.function(world, name=name, licence=licence)["verified"]:
        raise ValueError(f"licence {licence} is not verified for {name}; call verify_licence first")
    reference = world.next_reference(stock, day, time, name)
    row = {"reference": reference, "stock": stock, "day": day, "time": time, "name": name, "licence": licence}
    world.connection.execute(insert(BOOKINGS).values(**row, status="booked", origin="session"))
    return {"reference": reference}


@tool()
def find_booking(world: AutomotiveWorld, *, reference: str) -> Json:
    """A live test drive by its reference; {"found": false} where there is none."""
    query = select(BOOKINGS).where(BOOKINGS.c.reference == reference, BOOKINGS.c.status == "booked")
    row = world.connection.execute(query).first()
    if row is None:
        return {"found": False}
    return {"found": True, "stock": row.stock, "day": row.day, "time": row.time, "name": row.name}


@tool(changes=True)
def cancel_booking(world: AutomotiveWorld, *, reference: str) -> Json:
    """Cancel a live test drive by its reference."""
    query = update(BOOKINGS).where(BOOKINGS.c.reference == reference, BOOKINGS.c.status == "booked")
    if world.connection.execute(query.values(status="cancelled")).rowcount != 1:
        raise ValueError(f"there is no live booking {reference}; call find_booking first")
    return {"cancelled": True}


@tool()
def opening_hours(world: AutomotiveWorld, *, day: str) -> Json:
    """When the dealership opens and closes on a day of the week."""
    hours = _hours(world, day)
    return {"open": False} if hours.opens is None else {"open": True, "from": hours.opens, "to": hours.closes}


@tool()
def estimate_trade_in(
    world: AutomotiveWorld, *, make: str, model: str, year: int, mileage: int, condition: Condition
) -> Json:
    """What the dealership would pay for a used car, from low to high, in dollars. `mileage` is in miles."""
    line = find_model(make, model)
    price = line.price if line else _UNKNOWN_PRICE
    worth = depreciated(price, max(0, REFERENCE_YEAR - year), mileage) * _CONDITION_FACTOR[condition]
    return {"low": round(worth * 0.95 / 50) * 50, "high": round(worth * 1.05 / 50) * 50}


def _hours(world: AutomotiveWorld, day: str) -> Hours:
    hours: Json = world.facts()["hours"]
    if day not in hours:
        raise ValueError(f"day={day!r} is no day of the week; use one of {', '.join(hours)}")
    opens, closes = hours[day] or (None, None)
    return Hours(day, opens, closes)


TOOLS: dict[str, Tool] = {
    item.name: item
    for item in (
        search_inventory, get_vehicle, check_slot, verify_licence, book_test_drive,
        find_booking, cancel_booking, opening_hours, estimate_trade_in,
    )
}  # fmt: skip
