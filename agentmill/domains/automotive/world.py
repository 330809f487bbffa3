"""The dealership's world: its rows from the seed, what rules may know of it, and what a conversation did to it."""

from sqlalchemy import Column, ColumnElement, Connection, Table, insert, select

from agentmill.domains.automotive import schema
from agentmill.domains.automotive.seed import Business, world_data
from agentmill.domains.base import Json
from agentmill.domains.sql import SqlWorld, SqlWorlds


def load(connection: Connection, world_seed: int) -> None:
    """Insert the seeded rows into empty tables."""
    data = world_data(world_seed)
    connection.execute(insert(schema.VEHICLES), [row._asdict() for row in data.vehicles])
    connection.execute(insert(schema.CUSTOMERS), [row._asdict() for row in data.customers])
    connection.execute(insert(schema.HOURS), [row._asdict() for row in data.hours])
    seeded = {"status": "booked", "origin": "seed"}
    connection.execute(insert(schema.BOOKINGS), [row._asdict() | seeded for row in data.bookings])
    _load_business(connection, data.business)


def _load_business(connection: Connection, business: Business) -> None:
    rows = {
        schema.VISITS: [row._asdict() | {"status": "booked", "origin": "seed"} for row in business.visits],
        schema.ORDERS: [row._asdict() | {"moved": False} for row in business.orders],
        schema.INCENTIVES: [row._asdict() for row in business.incentives],
        schema.SERVICE_PRICES: [{"service": name, "price": price} for name, price in business.service_prices.items()],
        schema.RATES: [{"min_score": score, "apr": apr} for score, apr in business.rates],
        schema.LIMITS: [{"name": name, "value": value} for name, value in business.limits.items()],
        schema.ROUTES: [row._asdict() for row in business.routes],
        schema.LEADS: [{"phone": phone, "name": name, "origin": "seed"} for phone, name in business.leads],
    }
    for table, values in rows.items():
        connection.execute(insert(table), values)


class AutomotiveWorld(SqlWorld):
    """One conversation's view of the dealership."""

    worlds = SqlWorlds(schema.METADATA, load)

    def read_facts(self) -> Json:
        """The opening hours by day (["09:00", "18:00"], or None on a closed day) and the limits of the business."""
        hours = self.connection.execute(select(schema.HOURS)).all()
        limits = self.connection.execute(select(schema.LIMITS)).all()
        return {
            "hours": {row.day: [row.opens, row.closes] if row.opens else None for row in hours},
            "limits": {row.name: row.value for row in limits},
        }

    def snapshot(self) -> Json:
        """What a conversation did: what it made, moved and cancelled, and its tool calls, with the hours beside."""
        table, visits, orders = schema.BOOKINGS.c, schema.VISITS.c, schema.ORDERS.c
        return {
            "world_seed": self.world_seed,
            "hours": self.facts()["hours"],
            "bookings": self._bookings(),
            "cancelled": self._values(table.reference, table.status == "cancelled"),
            "visits": self._made(schema.VISITS, visits.status == "booked"),
            "visits_cancelled": self._values(visits.reference, visits.status == "cancelled"),
            "reservations": self.rows(select(schema.RESERVATIONS).order_by(schema.RESERVATIONS.c.reference)),
            "deliveries": self.rows(select(orders.number, orders.day).where(orders.moved).order_by(orders.number)),
            "leads": self._made(schema.LEADS),
            "activity": self.activity(),
        }

    def _bookings(self) -> list[Json]:
        """The live test drives that were made or moved, each with whether its driver's licence is verified."""
        table, customers = schema.BOOKINGS.c, schema.CUSTOMERS.c
        verified = select(customers.licence).where(
            customers.licence == table.licence, customers.name == table.name, customers.valid
        )
        columns = (table.reference, table.stock, table.day, table.time, table.name, table.licence)
        made = select(*columns, verified.exists().label("verified"))
        made = made.where(table.origin != "seed", table.status == "booked").order_by(table.reference)
        return [{**row, "verified": bool(row["verified"])} for row in self.rows(made)]

    def _made(self, table: Table, *where: ColumnElement[bool]) -> list[Json]:
        columns = [column for column in table.columns if column.name not in ("status", "origin")]
        return self.rows(select(*columns).where(table.c.origin == "session", *where).order_by(columns[0]))

    def _values(self, column: "Column[str]", where: ColumnElement[bool]) -> list[str]:
        return list(self.connection.scalars(select(column).where(where).order_by(column)))
