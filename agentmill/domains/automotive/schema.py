"""The tables of the dealership's world, in SQLAlchemy Core, so that any SQL database can hold it.

`bookings.origin` tells what the world was seeded with from what a conversation added; a cancelled booking keeps its
row with `status` "cancelled". One vehicle has at most one live booking for a day and an hour.
"""

from sqlalchemy import JSON, Boolean, Column, ForeignKey, Index, Integer, MetaData, String, Table, text

METADATA = MetaData()

VEHICLES = Table(
    "vehicles",
    METADATA,
    Column("stock", String(8), primary_key=True),
    Column("make", String(40), nullable=False, index=True),
    Column("model", String(40), nullable=False),
    Column("year", Integer, nullable=False),
    Column("body", String(20), nullable=False, index=True),
    Column("fuel", String(20), nullable=False),
    Column("mileage", Integer, nullable=False),
    Column("colour", String(20), nullable=False),
    Column("price", Integer, nullable=False),
)

CUSTOMERS = Table(
    "customers",
    METADATA,
    Column("licence", String(16), primary_key=True),
    Column("name", String(120), nullable=False),
    Column("valid", Boolean, nullable=False),
)

HOURS = Table(
    "hours",
    METADATA,
    Column("day", String(10), primary_key=True),
    Column("opens", String(5)),
    Column("closes", String(5)),
)

BOOKINGS = Table(
    "bookings",
    METADATA,
    Column("reference", String(8), primary_key=True),
    Column("stock", String(8), ForeignKey("vehicles.stock"), nullable=False),
    Column("day", String(10), nullable=False),
    Column("time", String(5), nullable=False),
    Column("name", String(120), nullable=False),
    Column("licence", String(16), nullable=False),
    Column("status", String(10), nullable=False),
    Column("origin", String(8), nullable=False),
)

LIVE_SLOT = Index(
    "live_slot",
    BOOKINGS.c.stock,
    BOOKINGS.c.day,
    BOOKINGS.c.time,
    unique=True,
    sqlite_where=text("status = 'booked'"),
    postgresql_where=text("status = 'booked'"),
)

ACTIVITY = Table(
    "activity",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("tool", String(40), nullable=False),
    Column("arguments", JSON, nullable=False),
)
