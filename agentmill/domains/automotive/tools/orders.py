"""Orders and deliveries. An order is shown only to the customer in whose name it is."""

from sqlalchemy import func, select, update

from agentmill.domains.automotive.schema import ORDERS
from agentmill.domains.automotive.tools.hours import hours_of
from agentmill.domains.automotive.world import AutomotiveWorld
from agentmill.domains.base import Json, ToolError, tool


@tool()
def find_order(world: AutomotiveWorld, *, order: str, name: str) -> Json:
    """How an order stands, for the name that it is in; {"found": false} for any other name."""
    query = select(ORDERS).where(ORDERS.c.number == order, func.lower(ORDERS.c.name) == name.lower())
    row = world.connection.execute(query).first()
    if row is None:
        return {"found": False}
    return {"found": True, "vehicle": row.vehicle, "status": row.status, "day": row.day}


@tool()
def check_delivery_day(world: AutomotiveWorld, *, order: str, day: str) -> Json:
    """Whether an order can still be delivered on a day; otherwise why not."""
    status = world.connection.scalar(select(ORDERS.c.status).where(ORDERS.c.number == order))
    if status is None or status == "delivered":
        return {"possible": False, "reason": status or "unknown"}
    if hours_of(world, day).opens is None:
        return {"possible": False, "reason": "closed"}
    return {"possible": True}


@tool(changes=True)
def move_delivery(world: AutomotiveWorld, *, order: str, day: str) -> Json:
    """Move the delivery of an order to a possible day."""
    if not check_delivery_day.function(world, order=order, day=day)["possible"]:
        raise ToolError(f"{order} cannot be delivered on {day}; call check_delivery_day first")
    world.connection.execute(update(ORDERS).where(ORDERS.c.number == order).values(day=day, moved=True))
    return {"moved": True}


TOOLS = (find_order, check_delivery_day, move_delivery)
