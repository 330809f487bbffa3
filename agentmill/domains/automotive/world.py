"""The dealership's world: an SQL database of its own for every conversation.

A seeded world is built once per seed and kept as SQLite's serialised bytes; opening a world deserialises them into a
fresh in-memory database, well under a millisecond. One engine per seed shares the compiled statements. A plan is one
transaction on the world's only connection: `commit` keeps all of it, `rollback` nothing, the activity log included.
"""

import hashlib
import sqlite3
from functools import lru_cache

from sqlalchemy import Connection, Engine, create_engine, insert, select
from sqlalchemy.pool import NullPool, StaticPool

from agentmill.domains.automotive import schema
from agentmill.domains.automotive.seed import world_data
from agentmill.domains.base import Json


def _connect() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", check_same_thread=False)


def load(connection: Connection, world_seed: int) -> None:
    """Create the tables and insert the seeded rows into an empty database."""
    data = world_data(world_seed)
    schema.METADATA.create_all(connection)
    connection.execute(insert(schema.VEHICLES), [row._asdict() for row in data.vehicles])
    connection.execute(insert(schema.CUSTOMERS), [row._asdict() for row in data.customers])
    connection.execute(insert(schema.HOURS), [row._asdict() for row in data.hours])
    seeded = {"status": "booked", "origin": "seed"}
    connection.execute(insert(schema.BOOKINGS), [row._asdict() | seeded for row in data.bookings])
    connection.commit()


@lru_cache(maxsize=64)
def _template(world_seed: int) -> bytes:
    raw = _connect()
    engine = create_engine("sqlite://", creator=lambda: raw, poolclass=StaticPool)
    with engine.connect() as connection:
        load(connection, world_seed)
    image = raw.serialize()
    raw.close()
    return image


@lru_cache(maxsize=64)
def _engine(world_seed: int) -> Engine:
    """An engine whose every connection is a new copy of the seeded world."""
    image = _template(world_seed)

    def copy() -> sqlite3.Connection:
        raw = _connect()
        raw.deserialize(image)
        return raw

    return create_engine("sqlite://", creator=copy, poolclass=NullPool)


class AutomotiveWorld:
    """One conversation's copy of the world of `world_seed`. The tools use `connection`."""

    def __init__(self, world_seed: int) -> None:
        self.world_seed = world_seed
        self.connection = _engine(world_seed).connect()
        self._facts: Json | None = None

    def facts(self) -> Json:
        """The opening hours by day: ["09:00", "18:00"], or None on a closed day."""
        if self._facts is None:
            rows = self.connection.execute(select(schema.HOURS)).all()
            self._facts = {"hours": {row.day: [row.opens, row.closes] if row.opens else None for row in rows}}
        return self._facts

    def record(self, tool: str, arguments: Json) -> None:
        """Log one tool call inside the running transaction."""
        self.connection.execute(insert(schema.ACTIVITY).values(tool=tool, arguments=arguments))

    def next_reference(self, *parts: str) -> str:
        """A reference that no booking has, drawn from what is booked: the same booking gets the same reference."""
        taken = set(self.connection.scalars(select(schema.BOOKINGS.c.reference)))
        attempt = 0
        while True:
            digest = hashlib.sha256(f"{self.world_seed} {parts} {attempt}".encode()).digest()
            reference = f"T{10_000 + int.from_bytes(digest[:4]) % 90_000}"
            if reference not in taken:
                return reference
            attempt += 1

    def snapshot(self) -> Json:
        """What a conversation did: its bookings, the references cancelled and the tool calls, with the hours beside."""
        table, customers = schema.BOOKINGS.c, schema.CUSTOMERS.c
        verified = select(customers.licence).where(
            customers.licence == table.licence, customers.name == table.name, customers.valid
        )
        columns = (table.reference, table.stock, table.day, table.time, table.name, table.licence)
        made = select(*columns, verified.exists().label("verified"))
        made = made.where(table.origin == "session", table.status == "booked").order_by(table.reference)
        cancelled = select(table.reference).where(table.status == "cancelled").order_by(table.reference)
        activity = select(schema.ACTIVITY).order_by(schema.ACTIVITY.c.id)
        return {
            "world_seed": self.world_seed,
            "hours": self.facts()["hours"],
            "bookings": [
                {**row, "verified": bool(row["verified"])} for row in self.connection.execute(made).mappings()
            ],
            "cancelled": list(self.connection.scalars(cancelled)),
            "activity": [
                {"tool": row.tool, "arguments": row.arguments} for row in self.connection.execute(activity).all()
            ],
        }

    def commit(self) -> None:
        """Keep everything since the last commit."""
        self.connection.commit()

    def rollback(self) -> None:
        """Undo everything since the last commit, the log included."""
        self.connection.rollback()

    def close(self) -> None:
        """Drop this copy."""
        self.connection.close()
