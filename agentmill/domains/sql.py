"""Worlds in an SQL database, for any pack: seeded copies for simulation, or the one shared world of a company.

A pack names its tables and how a seed fills them (`SqlWorlds`) and derives its world from `SqlWorld`, whose
`connection` the tools use. In SQLite a seeded world is built once and kept as serialised bytes; a private world
deserialises them into a fresh in-memory database, well under a millisecond. In PostgreSQL a private world is a
schema of its own, copied from a schema that is built once for each seed. A shared world is the database of the URL as
it is; an empty one is filled from the seed.

Invariants: a plan is one transaction, the log of calls and the noted results included; plans of a shared world have
the effect of some order of one after the other (SERIALIZABLE), so that a pack may look first and write then; a pooled
connection is held only while a transaction runs, so that idle conversations hold none. Both databases compare and
sort text by its bytes and hold foreign keys; a pack says itself where NULLs go when it sorts. Numbers that a database
gives out have gaps where a plan was undone in PostgreSQL: references that customers see are drawn with `unused`.
"""

import hashlib
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache
from threading import Lock
from typing import Any

from sqlalchemy import JSON, Column, Connection, Engine, Integer, MetaData, String, Table, create_engine, insert, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool, StaticPool
from sqlalchemy.schema import CreateSchema, DropSchema

from agentmill.domains.base import Json, WorldSettings
from agentmill.domains.database import MEMORY, fault_of, new_engine
from agentmill.domains.schemas import (
    build_alone,
    check_columns,
    count_on,
    drop_abandoned,
    private_name,
    sort_by_bytes,
)

Load = Callable[[Connection, int], None]


def log_tables(metadata: MetaData) -> tuple[Table, Table]:
    """The tables that every world has: `activity`, the tool calls in order, and `executions`, results by plan key."""
    activity = Table(
        "activity",
        metadata,
        Column("id", Integer, primary_key=True, autoincrement=True),
        Column("session", String(200), nullable=False, index=True),
        Column("tool", String(60), nullable=False),
        Column("arguments", JSON, nullable=False),
    )
    executions = Table(
        "executions",
        metadata,
        Column("key", String(250), primary_key=True),
        Column("results", JSON, nullable=False),
    )
    return activity, executions


class SqlWorlds:
    """The worlds of one pack: its tables, and how the rows of a seed get into them."""

    def __init__(self, metadata: MetaData, load: Load) -> None:
        self.metadata = metadata
        self.load = load
        self.activity, self.executions = log_tables(metadata)
        self.seeded = [table for table in metadata.sorted_tables if table not in (self.activity, self.executions)]
        sort_by_bytes(metadata)
        self._copies = create_engine(MEMORY, creator=self._copied, poolclass=NullPool, hide_parameters=True)
        self.server = lru_cache(maxsize=8)(new_engine)
        self._image = lru_cache(maxsize=64)(self._built_image)
        self._building, self._copying = Lock(), Lock()
        self._next = b""
        self._built: set[tuple[str, str]] = set()

    def private_schema(self, settings: WorldSettings, world_seed: int) -> str:
        """Make a new schema on the server of `settings`, a copy of the seeded one; returns its name."""
        template = f"seed_{world_seed}_{self._fingerprint(world_seed)}"
        engine = self.server(settings)
        with self._building:
            if (settings.url, template) not in self._built:
                self._build(engine, template, world_seed)
                self._built.add((settings.url, template))
        name = private_name()
        with engine.begin() as connection:
            connection.execute(CreateSchema(name))
            inside = connection.execution_options(schema_translate_map={None: name})
            self.metadata.create_all(inside, checkfirst=False)
            for table in self.seeded:
                columns = ", ".join(f'"{column.name}"' for column in table.columns)
                rows = f'SELECT {columns} FROM "{template}"."{table.name}"'
                connection.exec_driver_sql(f'INSERT INTO "{name}"."{table.name}" ({columns}) {rows}')
            count_on(connection, self.seeded, name)
        return name

    def fill_shared(self, settings: WorldSettings, world_seed: int) -> None:
        """Make the tables of the shared world where they are missing, and fill an empty one from the seed.

        Raises:
            ConfigError: when a table is there and lacks columns.
        """
        with self._building:
            if (settings.url, "") in self._built:
                return
            with self.server(settings).begin() as connection:
                build_alone(connection, "shared")
                self.metadata.create_all(connection)
                check_columns(connection, self.metadata)
                if all(connection.execute(select(table).limit(1)).first() is None for table in self.seeded):
                    self.load(connection, world_seed)
                    count_on(connection, self.seeded, None)
            self._built.add((settings.url, ""))

    def copy(self, world_seed: int) -> Connection:
        """A connection to a new SQLite copy of the seeded world.

        All copies belong to one engine: one of each seed would translate every statement to SQL again.
        """
        image = self._image(world_seed)
        with self._copying:
            self._next = image
            return self._copies.connect()

    def _copied(self) -> sqlite3.Connection:
        raw = _in_memory()
        raw.deserialize(self._next)
        return raw

    def _built_image(self, world_seed: int) -> bytes:
        raw = _in_memory()
        engine = create_engine(MEMORY, creator=lambda: raw, poolclass=StaticPool)
        with engine.begin() as connection:
            self.metadata.create_all(connection)
            self.load(connection, world_seed)
        image = raw.serialize()
        raw.close()
        return image

    def _build(self, engine: Engine, template: str, world_seed: int) -> None:
        """Make the seeded schema, once on a server however many processes ask for it."""
        with engine.begin() as connection:
            build_alone(connection, "seeds")
            drop_abandoned(connection)
            if connection.dialect.has_schema(connection, template):
                return
            connection.execute(CreateSchema(template))
            inside = connection.execution_options(schema_translate_map={None: template})
            self.metadata.create_all(inside, checkfirst=False)
            self.load(inside, world_seed)

    def _fingerprint(self, world_seed: int) -> str:
        """Digest of the tables and rows of a seed: a schema of another version is never copied from."""
        return hashlib.sha256(self._image(world_seed)).hexdigest()[:12]


class SqlWorld(ABC):
    """One conversation's view of a world. A pack sets `worlds` and gives `read_facts` and `snapshot`."""

    worlds: SqlWorlds

    def __init__(self, world_seed: int, session: str = "", settings: WorldSettings | None = None) -> None:
        self.world_seed = world_seed
        self.session = session
        self._settings = settings or WorldSettings()
        self._in_memory = self._settings.url == MEMORY
        self._facts: Json | None = None
        self._connection: Connection | None = None
        self._schema: str | None = None
        if self._in_memory:
            self._connection = self.worlds.copy(world_seed)
        elif self._settings.shared:
            self.worlds.fill_shared(self._settings, world_seed)
        else:
            self._schema = self.worlds.private_schema(self._settings, world_seed)

    @property
    def connection(self) -> Connection:
        """The connection of the running transaction, which begins with its first statement."""
        if self._connection is None:
            connection = self.worlds.server(self._settings).connect()
            if self._schema is not None:
                connection = connection.execution_options(schema_translate_map={None: self._schema})
            elif connection.dialect.name == "postgresql":
                connection = connection.execution_options(isolation_level="SERIALIZABLE")
            self._connection = connection
        return self._connection

    def facts(self) -> Json:
        """See World; read once in a transaction."""
        if self._facts is None:
            self._facts = self.read_facts()
        return self._facts

    @abstractmethod
    def read_facts(self) -> Json:
        """What rules may know of the world."""

    @abstractmethod
    def snapshot(self) -> Json:
        """See World."""

    def record(self, tool: str, arguments: Json) -> None:
        """Log one tool call inside the running transaction."""
        row = {"session": self.session, "tool": tool, "arguments": arguments}
        self.connection.execute(insert(self.worlds.activity), [row])

    def activity(self) -> list[Json]:
        """The session's tool calls in order, as {"tool", "arguments"}."""
        table = self.worlds.activity
        query = select(table.c.tool, table.c.arguments).where(table.c.session == self.session).order_by(table.c.id)
        return [dict(row) for row in self.connection.execute(query).mappings()]

    def recall(self, key: str) -> Json | None:
        """See World."""
        table = self.worlds.executions
        return self.connection.scalar(select(table.c.results).where(table.c.key == key))

    def keep(self, key: str, results: Json) -> None:
        """See World. A second plan under the same key violates its uniqueness and is undone."""
        self.connection.execute(insert(self.worlds.executions), [{"key": key, "results": results}])

    def unused(self, prefix: str, column: "Column[str]", *parts: object) -> str:
        """A number after `prefix` that `column` does not hold, drawn from `parts`: the same deed gets the same one."""
        for attempt in range(1000):
            digest = hashlib.sha256(f"{self.world_seed} {parts} {attempt}".encode()).digest()
            number = f"{prefix}{10_000 + int.from_bytes(digest[:4]) % 90_000}"
            if self.connection.execute(select(column).where(column == number)).first() is None:
                return number
        raise RuntimeError(f"no free number after {prefix}: the table of {column} is full")

    def commit(self) -> None:
        """Keep everything since the last commit."""
        self.connection.commit()
        self._done()

    def rollback(self) -> None:
        """Undo everything since the last commit, the log included. A lost connection has undone it already."""
        if self._connection is not None:
            try:
                self._connection.rollback()
            except SQLAlchemyError as error:
                fault_of(error)
                self._connection.invalidate()
        self._done()

    def close(self) -> None:
        """Give the connection back; a private world is dropped.

        Raises:
            SQLAlchemyError: when its database does not answer; the schema is dropped a day later by another process.
        """
        self.rollback()
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        schema, self._schema = self._schema, None
        if schema is not None:
            with self.worlds.server(self._settings).begin() as connection:
                connection.execute(DropSchema(schema, cascade=True, if_exists=True))

    def rows(self, statement: Any) -> list[Json]:
        """The rows of a query as plain dictionaries."""
        return [dict(row) for row in self.connection.execute(statement).mappings()]

    def _done(self) -> None:
        self._facts = None
        if not self._in_memory and self._connection is not None:
            self._connection.close()
            self._connection = None


def _in_memory() -> sqlite3.Connection:
    raw = sqlite3.connect(":memory:", check_same_thread=False)
    raw.execute("PRAGMA foreign_keys=ON")
    return raw
