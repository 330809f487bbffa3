"""Test drives: free times, the driver's licence, booking, moving, cancelling."""

from sqlalchemy import insert, select, update

from agentmill.domains.automotive.schema import BOOKINGS, CUSTOMERS
from agentmill.domains.automotive.seed import hour_of, slot_times
from agentmill.domains.automotive.tools.hours import hours_of
from agentmill.domains.automotive.tools.inventory import named, vehicle_of
from agentmill.domains.automotive.world import AutomotiveWorld
from agentmill.domains.base import Json, ToolError, tool


@tool()
def check_slot(world: AutomotiveWorld, *, stock: str, day: str, time: str) -> Json:
    """Whether a car can be test driven on a day at a full hour ("15:00"); otherwise why not, and near free times."""
    row = vehicle_of(world, stock)
    if row is None:
        return {"free": False, "reason": "unknown"}
    if row.status == "sold":
        return {"free": False, "reason": "sold", "instead": []}
    offered = slot_times(hours_of(world, day))
    live = (BOOKINGS.c.stock == stock, BOOKINGS.c.day == day, BOOKINGS.c.status == "booked")
    taken = set(world.connection.scalars(select(BOOKINGS.c.time).where(*live)))
    if time in offered and time not in taken:
        return {"free": True, "vehicle": named(row)}
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
        raise ToolError(f"{stock} is not free on {day} at {time}; call check_slot first")
    if not verify_licence.function(world, name=name, licence=licence)["verified"]:
        raise ToolError(f"licence {licence} is not verified for {name}; call verify_licence first")
    reference = world.unused("T", BOOKINGS.c.reference, stock, day, time, name)
    row = {"reference": reference, "stock": stock, "day": day, "time": time, "name": name, "licence": licence}
    world.connection.execute(insert(BOOKINGS).values(**row, status="booked", origin="session"))
    return {"reference": reference}


@tool()
def find_booking(world: AutomotiveWorld, *, reference: str) -> Json:
    """A live test drive by its reference, without its driver; {"found": false} where there is none."""
    query = select(BOOKINGS).where(BOOKINGS.c.reference == reference, BOOKINGS.c.status == "booked")
    row = world.connection.execute(query).first()
    if row is None:
        return {"found": False}
    return {"found": True, "stock": row.stock, "day": row.day, "time": row.time}


@tool(changes=True)
def move_booking(world: AutomotiveWorld, *, reference: str, day: str, time: str) -> Json:
    """Move a live test drive to another free slot of its car."""
    booking = find_booking.function(world, reference=reference)
    if not booking["found"]:
        raise ToolError(f"there is no live booking {reference}; call find_booking first")
    if not check_slot.function(world, stock=booking["stock"], day=day, time=time)["free"]:
        raise ToolError(f"{booking['stock']} is not free on {day} at {time}; call check_slot first")
    query = update(BOOKINGS).where(BOOKINGS.c.reference == reference, BOOKINGS.c.status == "booked")
    if world.connection.execute(query.values(day=day, time=time, origin="moved")).rowcount != 1:
        raise ToolError(f"there is no live booking {reference}; call find_booking first")
    return {"moved": True}


@tool(changes=True)
def cancel_booking(world: AutomotiveWorld, *, reference: str) -> Json:
    """Cancel a live test drive by its reference."""
    query = update(BOOKINGS).where(BOOKINGS.c.reference == reference, BOOKINGS.c.status == "booked")
    if world.connection.execute(query.values(status="cancelled")).rowcount != 1:
        raise ToolError(f"there is no live booking {reference}; call find_booking first")
    return {"cancelled": True}


TOOLS = (check_slot, verify_licence, book_test_drive, find_booking, move_booking, cancel_booking)
