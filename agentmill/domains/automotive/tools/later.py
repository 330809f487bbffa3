"""Tools as they are once the business asks for more: the same deeds, with a telephone number to call before."""

from sqlalchemy import update

from agentmill.domains.automotive.schema import BOOKINGS, ORDERS
from agentmill.domains.automotive.tools import drives, orders
from agentmill.domains.automotive.world import AutomotiveWorld
from agentmill.domains.base import Json, tool


@tool(changes=True)
def book_test_drive(
    world: AutomotiveWorld, *, stock: str, day: str, time: str, name: str, licence: str, phone: str
) -> Json:
    """Book a test drive for a verified driver in a free slot, with a number to call before; returns its reference."""
    made: Json = drives.book_test_drive.function(world, stock=stock, day=day, time=time, name=name, licence=licence)
    of_it = BOOKINGS.c.reference == made["reference"]
    world.connection.execute(update(BOOKINGS).where(of_it).values(phone=phone))
    return made


@tool(changes=True)
def move_delivery(world: AutomotiveWorld, *, order: str, day: str, phone: str) -> Json:
    """Move the delivery of an order to a possible day, with a number that the driver calls before."""
    moved: Json = orders.move_delivery.function(world, order=order, day=day)
    world.connection.execute(update(ORDERS).where(ORDERS.c.number == order).values(phone=phone))
    return moved
