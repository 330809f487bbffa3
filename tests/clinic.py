"""A small domain on SqlWorlds, made to be hard for a database: a doctor's free places, appointments and notes.

`places` is looked at first and then written, with nothing in the tables that would stop two who do so at once; an
appointment's hour is unique; notes are numbered by the database and their names sort differently in a language than
by their bytes.
"""

from typing import Any

from sqlalchemy import Column, Connection, ForeignKey, Integer, MetaData, String, Table, insert, select, update

from agentmill.domains.base import Assessment, Domain, Entity, Intent, Json, ToolError, tool
from agentmill.domains.sql import SqlWorld, SqlWorlds

METADATA = MetaData()
DOCTORS = Table("doctors", METADATA, Column("name", String(20), primary_key=True), Column("places", Integer))
APPOINTMENTS = Table(
    "appointments",
    METADATA,
    Column("hour", Integer, primary_key=True, autoincrement=False),
    Column("doctor", String(20), ForeignKey("doctors.name"), nullable=False),
    Column("patient", String(20), nullable=False),
)
NOTES = Table(
    "notes",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("text", String(20), nullable=False),
)
NAMES = ("abel", "Baker", "Zoe", "Ámbar")


def load(connection: Connection, world_seed: int) -> None:
    """Four doctors with one place each, and two notes."""
    connection.execute(insert(DOCTORS), [{"name": name, "places": 1} for name in NAMES])
    connection.execute(insert(NOTES), [{"id": 1, "text": "first"}, {"id": 2, "text": f"seed {world_seed}"}])


class Clinic(SqlWorld):
    """One patient's view of the clinic."""

    worlds = SqlWorlds(METADATA, load)

    def read_facts(self) -> Json:
        return {"places": sum(self.connection.scalars(select(DOCTORS.c.places)))}

    def snapshot(self) -> Json:
        return {
            "doctors": self.rows(select(DOCTORS).order_by(DOCTORS.c.name)),
            "appointments": self.rows(select(APPOINTMENTS).order_by(APPOINTMENTS.c.hour)),
            "notes": self.rows(select(NOTES).order_by(NOTES.c.id)),
            "activity": self.activity(),
        }


@tool()
def free_places(world: Clinic, *, doctor: str) -> Json:
    """How many places a doctor has."""
    return {"places": world.connection.scalar(select(DOCTORS.c.places).where(DOCTORS.c.name == doctor)) or 0}


@tool(changes=True)
def take_place(world: Clinic, *, doctor: str, patient: str) -> Json:
    """Take a place: looks first, writes then, and keeps nobody from doing so at the same time."""
    places = free_places.function(world, doctor=doctor)["places"]
    if places < 1:
        raise ToolError(f"{doctor} has no place left")
    world.connection.execute(update(DOCTORS).where(DOCTORS.c.name == doctor).values(places=places - 1))
    world.connection.execute(insert(NOTES), [{"text": patient}])
    return {"taken": True}


@tool(changes=True)
def book_hour(world: Clinic, *, hour: int, doctor: str, patient: str) -> Json:
    """Book an hour without looking: the table's key refuses the second."""
    world.connection.execute(insert(APPOINTMENTS), [{"hour": hour, "doctor": doctor, "patient": patient}])
    return {"hour": hour}


TOOLS = (free_places, take_place, book_hour)
TAKE_PLAN = """free = free_places(doctor="Zoe")
if free["places"] > 0:
    done = take_place(doctor="Zoe", patient="{patient}")"""


def clinic() -> Domain:
    """The domain, without prompts, rules or scenarios: the Executor needs none."""
    nothing: Any = {}
    return Domain(
        name="clinic",
        title="The Clinic",
        entities={"doctor": Entity("doctor", str, "Which doctor?")},
        intents={"visit": Intent("visit", "see a doctor", tuple(t.name for t in TOOLS), needs_confirmation=True)},
        tools={item.name: item for item in TOOLS},
        rules=(),
        safe_reply="Please call us.",
        prompts=nothing,
        open_world=Clinic,
        scenarios=lambda count, seed, split: [],
        assess=lambda scenario, snapshot: Assessment(success=True),
        grounded=lambda reply, known: [],
        documents=lambda: [],
    )
