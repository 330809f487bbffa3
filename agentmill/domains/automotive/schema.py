"""The tables of the dealership's world, in SQLAlchemy Core, so that any SQL database can hold it.

`origin` tells what the world was seeded with from what a conversation added; what was cancelled keeps its row with
`status` "cancelled". The database itself keeps apart what must not happen twice, whoever asks at the same moment: one
live test drive for a vehicle and an hour, one car in the workshop at an hour, one reservation of a vehicle.
"""

from sqlalchemy import Boolean, Column, ForeignKey, Index, Integer, MetaData, String, Table, text

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
    Column("vin", String(17), nullable=False, index=True),
    Column("status", String(10), nullable=False),
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
    Column("phone", String(20)),
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

VISITS = Table(
    "visits",
    METADATA,
    Column("reference", String(8), primary_key=True),
    Column("plate", String(10), nullable=False),
    Column("service", String(20), nullable=False),
    Column("day", String(10), nullable=False),
    Column("time", String(5), nullable=False),
    Column("name", String(120), nullable=False),
    Column("status", String(10), nullable=False),
    Column("origin", String(8), nullable=False),
)

WORKSHOP_HOUR = Index(
    "workshop_hour",
    VISITS.c.day,
    VISITS.c.time,
    unique=True,
    sqlite_where=text("status = 'booked'"),
    postgresql_where=text("status = 'booked'"),
)

SERVICE_PRICES = Table(
    "service_prices",
    METADATA,
    Column("service", String(20), primary_key=True),
    Column("price", Integer, nullable=False),
)

RESERVATIONS = Table(
    "reservations",
    METADATA,
    Column("reference", String(8), primary_key=True),
    Column("stock", String(8), ForeignKey("vehicles.stock"), nullable=False, unique=True),
    Column("name", String(120), nullable=False),
    Column("phone", String(20), nullable=False),
)

ORDERS = Table(
    "orders",
    METADATA,
    Column("number", String(8), primary_key=True),
    Column("name", String(120), nullable=False),
    Column("vehicle", String(80), nullable=False),
    Column("status", String(20), nullable=False),
    Column("day", String(10), nullable=False),
    Column("moved", Boolean, nullable=False),
    Column("phone", String(20)),
)

INCENTIVES = Table(
    "incentives",
    METADATA,
    Column("code", String(12), primary_key=True),
    Column("make", String(40)),
    Column("amount", Integer, nullable=False),
)

RATES = Table(
    "rates",
    METADATA,
    Column("min_score", Integer, primary_key=True),
    Column("apr", Integer, nullable=False),
)

LIMITS = Table(
    "limits",
    METADATA,
    Column("name", String(30), primary_key=True),
    Column("value", Integer, nullable=False),
)

ROUTES = Table(
    "routes",
    METADATA,
    Column("place", String(20), primary_key=True),
    Column("minutes", Integer, nullable=False),
    Column("bus", String(8), nullable=False),
)

LEADS = Table(
    "leads",
    METADATA,
    Column("phone", String(20), primary_key=True),
    Column("name", String(120), nullable=False),
    Column("origin", String(8), nullable=False),
)
