"""The house itself: opening hours, the way there, people to talk to."""

from sqlalchemy import insert, select

from agentmill.domains.automotive.schema import LEADS, ROUTES
from agentmill.domains.automotive.tools.hours import hours_of
from agentmill.domains.automotive.world import AutomotiveWorld
from agentmill.domains.base import Json, ToolError, tool

DESK_PHONE = "555-0100"


@tool()
def opening_hours(world: AutomotiveWorld, *, day: str) -> Json:
    """When the dealership opens and closes on a day of the week."""
    hours = hours_of(world, day)
    return {"open": False} if hours.opens is None else {"open": True, "from": hours.opens, "to": hours.closes}


@tool()
def directions(world: AutomotiveWorld, *, place: str) -> Json:
    """How long it takes to the dealership from a place in town, in minutes by car, and the bus that goes."""
    row = world.connection.execute(select(ROUTES).where(ROUTES.c.place == place)).first()
    if row is None:
        raise ToolError(f"place={place!r} is none that directions are known from; hand off to a person")
    return {"minutes": row.minutes, "bus": row.bus}


@tool()
def find_lead(world: AutomotiveWorld, *, phone: str) -> Json:
    """Whether a telephone number is new to the list of customers to call back."""
    return {"new": world.connection.execute(select(LEADS).where(LEADS.c.phone == phone)).first() is None}


@tool(changes=True)
def capture_lead(world: AutomotiveWorld, *, name: str, phone: str) -> Json:
    """Put a customer on the list of those to call back."""
    if not find_lead.function(world, phone=phone)["new"]:
        raise ToolError(f"{phone} is on the list already; call find_lead first")
    world.connection.execute(insert(LEADS).values(phone=phone, name=name, origin="session"))
    return {"noted": True}


@tool()
def hand_off(world: AutomotiveWorld) -> Json:
    """Ask a colleague to take over the conversation; gives the telephone number of the desk."""
    return {"phone": DESK_PHONE}


TOOLS = (opening_hours, directions, find_lead, capture_lead, hand_off)
