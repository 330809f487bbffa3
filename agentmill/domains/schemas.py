"""Schemas and tables of worlds in PostgreSQL: made by one process at a time, tidied up, and alike to SQLite's.

Each function works inside the transaction of the connection that it is given. Invariant: what differs between the two
databases is levelled here, not in the packs: how text is sorted, where numbering goes on, when a table is too old.
"""

import hashlib
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress

from sqlalchemy import Connection, Integer, MetaData, String, Table, inspect
from sqlalchemy.exc import ArgumentError
from sqlalchemy.schema import DropSchema

from agentmill.config import ConfigError

ABANDONED_S = 24 * 3600  # a private schema this old was left behind by a process that was killed
BUILD_LOCK_S = 120
_PRIVATE = "world"


def private_name() -> str:
    """A new name for a private schema, which says when it was made."""
    return f"{_PRIVATE}_{int(time.time())}_{uuid.uuid4().hex}"


def drop_abandoned(connection: Connection) -> None:
    """Drop the private schemas that nobody can be using any more."""
    for name in inspect(connection).get_schema_names():
        kind, _, rest = name.partition("_")
        born = rest.partition("_")[0]
        if kind == _PRIVATE and born.isdigit() and time.time() - int(born) > ABANDONED_S:
            connection.execute(DropSchema(name, cascade=True, if_exists=True))


def build_alone(connection: Connection, purpose: str) -> None:
    """Wait until no other process builds; the lock ends with the transaction. SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        number = int.from_bytes(hashlib.sha256(f"agentmill {purpose}".encode()).digest()[:8], signed=True)
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{BUILD_LOCK_S}s'")
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{BUILD_LOCK_S}s'")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({number})")


def count_on(connection: Connection, tables: Iterable[Table], schema: str | None) -> None:
    """Let numbers that PostgreSQL gives out go on after those of the rows that are there, as SQLite's do."""
    if connection.dialect.name != "postgresql":
        return
    for table in tables:
        column = table.autoincrement_column
        if column is not None and isinstance(column.type, Integer) and not column.foreign_keys:
            place = f'"{schema}"."{table.name}"' if schema else f'"{table.name}"'
            last = f'(SELECT max("{column.name}") FROM {place})'
            sequence = f"pg_get_serial_sequence('{place}', '{column.name}')"
            connection.exec_driver_sql(f"SELECT setval({sequence}, coalesce({last}, 0) + 1, false)")


def check_columns(connection: Connection, metadata: MetaData) -> None:
    """Look that the tables of a shared world are those of this version.

    Raises:
        ConfigError: when one lacks a column.
    """
    present = inspect(connection)
    for table in metadata.sorted_tables:
        there = {column["name"] for column in present.get_columns(table.name)}
        missing = [column.name for column in table.columns if column.name not in there]
        if missing:
            raise ConfigError(
                f"the shared world's table {table.name} has no column {', '.join(missing)}, which this version of the "
                "domain pack needs; add it to the table, or set system.world.url to an empty database"
            )


def sort_by_bytes(metadata: MetaData) -> None:
    """Let PostgreSQL sort and compare text as SQLite does, whatever the locale of the server."""
    for table in metadata.tables.values():
        for column in table.columns:
            if type(column.type) is String and column.type.collation is None:
                with suppress(ArgumentError):  # a pack's own type for PostgreSQL stays
                    column.type = column.type.with_variant(String(column.type.length, collation="C"), "postgresql")
