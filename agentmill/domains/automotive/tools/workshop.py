"""The workshop: free hours, appointments and their cancellation. One car is taken in at an hour."""

from sqlalchemy import insert, select, update

from agentmill.domains.automotive.schema import SERVICE_PRICES, VISITS
from agentmill.domains.automotive.seed import hour_of, workshop_times
from agentmill.domains.automotive.tools.hours import hours_of
from agentmill.domains.automotive.world import AutomotiveWorld
from agentmill.domains.base import Json, ToolError, tool


@tool()
def check_service_slot(world: AutomotiveWorld, *, service: str, day: str, time: str) -> Json:
    """Whether the workshop is free on a day at a full hour, and what the service costs; otherwise near free times."""
    price = world.connection.scalar(select(SERVICE_PRICES.c.price).where(SERVICE_PRICES.c.service == service))
    if price is None:
        raise ToolError(f"service={service!r} is none that the workshop does")
    offered = workshop_times(hours_of(world, day))
    taken = set(world.connection.scalars(select(VISITS.c.time).where(VISITS.c.day == day, VISITS.c.status == "booked")))
    if time in offered and time not in taken:
        return {"free": True, "price": price}
    free = sorted((t for t in offered if t not in taken), key=lambda t: (abs(hour_of(t) - hour_of(time)), t))
    return {"free": False, "reason": "taken" if time in offered else "closed", "instead": sorted(free[:2])}


@tool(changes=True)
def book_service(world: AutomotiveWorld, *, service: str, plate: str, day: str, time: str, name: str) -> Json:
    """Book a workshop appointment in a free hour; returns its reference."""
    if not check_service_slot.function(world, service=service, day=day, time=time)["free"]:
        raise ToolError(f"the workshop is not free on {day} at {time}; call check_service_slot first")
    reference = world.unused("W", VISITS.c.reference, plate, day, time)
    row = {"reference": reference, "plate": plate, "service": service, "day": day, "time": time, "name": name}
    world.connection.execute(insert(VISITS).values(**row, status="booked", origin="session"))
    return {"reference": reference}


@tool()
def find_service(world: AutomotiveWorld, *, reference: str) -> Json:
    """A live workshop appointment by its reference, without its car; {"found": false} where there is none."""
    query = select(VISITS).where(VISITS.c.reference == reference, VISITS.c.status == "booked")
    row = world.connection.execute(query).first()
    if row is None:
        return {"found": False}
    return {"found": True, "service": row.service, "day": row.day, "time": row.time}


@tool(changes=True)
def cancel_service(world: AutomotiveWorld, *, reference: str) -> Json:
    """Cancel a live workshop appointment by its reference."""
    query = update(VISITS).where(VISITS.c.reference == reference, VISITS.c.status == "booked")
    if world.connection.execute(query.values(status="cancelled")).rowcount != 1:
        raise ToolError(f"there is no live appointment {reference}; call find_service first")
    return {"cancelled": True}


TOOLS = (check_service_slot, book_service, find_service, cancel_service)
