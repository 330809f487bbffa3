"""The library's world: its rows from the seed, and what a conversation did to it."""

from sqlalchemy import Connection, func, insert, select

from agentmill.domains.base import Json
from agentmill.domains.library_desk import schema
from agentmill.domains.library_desk.seed import world_data
from agentmill.domains.sql import SqlWorld, SqlWorlds


def load(connection: Connection, world_seed: int) -> None:
    """Insert the seeded rows into empty tables."""
    data = world_data(world_seed)
    connection.execute(insert(schema.BOOKS), [row._asdict() for row in data.books])
    connection.execute(insert(schema.READERS), [row._asdict() for row in data.readers])
    connection.execute(insert(schema.HOURS), [row._asdict() for row in data.hours])
    connection.execute(insert(schema.LOANS), [row._asdict() | {"seeded": row.renewals} for row in data.loans])
    seeded = {"status": "live", "origin": "seed"}
    connection.execute(insert(schema.HOLDS), [row._asdict() | seeded for row in data.holds])


class LibraryWorld(SqlWorld):
    """One conversation's view of the library."""

    worlds = SqlWorlds(schema.METADATA, load)

    def read_facts(self) -> Json:
        """Nothing: every rule of the library looks at the plan and the state alone."""
        return {}

    def snapshot(self) -> Json:
        """What a conversation did: holds, cancellations, renewals, payments, tool calls, and whose PIN was right.

        Each hold shows how many its reader has, each payment how much is still owed, and the rest as it stands.
        """
        holds, loans, readers = schema.HOLDS.c, schema.LOANS.c, schema.READERS.c
        made = schema.HOLDS.select().where(holds.origin == "session", holds.status == "live").order_by(holds.hold)
        paid = select(schema.PAYMENTS.c.receipt, schema.PAYMENTS.c.card, schema.PAYMENTS.c.amount, readers.owed)
        paid = paid.join(schema.READERS, readers.card == schema.PAYMENTS.c.card).order_by(schema.PAYMENTS.c.receipt)
        renewed = select(loans.book, loans.card).where(loans.renewals > loans.seeded).order_by(loans.book)
        cancelled = select(holds.hold).where(holds.status == "cancelled").order_by(holds.hold)
        activity = self.activity()
        return {
            "world_seed": self.world_seed,
            "holds": [
                {"hold": row["hold"], "book": row["book"], "card": row["card"], "of_reader": self.holds_of(row["card"])}
                for row in self.rows(made)
            ],
            "cancelled": list(self.connection.scalars(cancelled)),
            "renewed": self.rows(renewed),
            "payments": self.rows(paid),
            "identified": self._identified(activity),
            "activity": activity,
        }

    def holds_of(self, card: str) -> int:
        """How many live holds a reader has."""
        holds = schema.HOLDS.c
        query = select(func.count()).select_from(schema.HOLDS).where(holds.card == card, holds.status == "live")
        return int(self.connection.scalar(query) or 0)

    def _identified(self, activity: list[Json]) -> list[str]:
        """The cards that were shown with the right PIN, in order."""
        shown = [call["arguments"] for call in activity if call["tool"] == "check_reader"]
        pins = {row["card"]: row["pin"] for row in self.rows(select(schema.READERS))}
        return list(dict.fromkeys(given["card"] for given in shown if pins.get(given["card"]) == given["pin"]))
