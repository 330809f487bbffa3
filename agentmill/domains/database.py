"""The databases that worlds live in: which URLs are usable, the engine of one, and what its errors mean.

SQLite and PostgreSQL (psycopg) are known. Every wait is bounded: for a connection, for another plan's lock, for a
statement. Invariant: neither SQL nor the values of a statement leave this module in a sentence: a driver's error
becomes a `Fault`, whose sentence the Planner and, in the end, a customer may read.
"""

import importlib.util
import logging
import random
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from agentmill.config import ConfigError
from agentmill.domains.base import WorldSettings

_log = logging.getLogger(__name__)
MEMORY = "sqlite://"
DRIVERS = ("sqlite", "sqlite+pysqlite", "postgresql+psycopg")
CONNECTIONS = 8  # of one process; PostgreSQL grants 100 in all by default
CONNECT_S, LOCK_S, STATEMENT_S, IDLE_S = 5, 5, 20, 60
_POSTGRES_LIMITS = (
    f"-c lock_timeout={LOCK_S}s -c statement_timeout={STATEMENT_S}s -c idle_in_transaction_session_timeout={IDLE_S}s"
)
# SQLSTATE of what only the moment is to blame for: serialisation, deadlock, unique value, lock not had in time.
_CONFLICTS = frozenset({"40001", "40P01", "23505", "55P03"})
_LOST = ("08", "57P", "53")  # connection lost, server stopped, server has no room

FaultKind = Literal["conflict", "unavailable", "refused"]
SENTENCES: dict[FaultKind, str] = {
    "conflict": "Another request changed the same data at the same moment, and nothing was done; "
    "look up again what is possible now and plan on that.",
    "unavailable": "The database does not answer at the moment; this has to wait.",
    "refused": "The database does not accept these values, and nothing was done; check them against the tools.",
}


@dataclass(frozen=True)
class Fault:
    """What a database error means. After a conflict the same plan may well succeed."""

    kind: FaultKind

    @property
    def sentence(self) -> str:
        return SENTENCES[self.kind]


def fault_of(error: SQLAlchemyError) -> Fault:
    """What an error means; what it says goes to the log only."""
    kind = _kind(error)
    if kind != "conflict":
        _log.warning("the database: %s: %s", type(error).__name__, first_line(error))
    return Fault(kind)


def first_line(error: SQLAlchemyError) -> str:
    """What the database itself says, without the statement: for who runs it, not for a customer."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return " ".join(str(cause).split("\n")[0].split())[:300]


def checked_url(settings: WorldSettings) -> URL:
    """The URL of the worlds, if worlds can live there; nothing is connected.

    Raises:
        ConfigError: for no URL, another database or driver, a driver that is not installed, a password in it, or
            a private world in an SQLite file.
    """
    try:
        url = make_url(settings.url)
    except (ArgumentError, ValueError) as error:
        raise ConfigError(
            "system.world.url is no database URL (its value is not shown, it may hold a password); write "
            "sqlite:// or postgresql+psycopg://USER@HOST:PORT/DATABASE"
        ) from error
    field = f"system.world.url={url.set(query={}).render_as_string(hide_password=True)}"
    if url.drivername not in DRIVERS:
        raise ConfigError(
            f"{field}: worlds live in sqlite or postgresql+psycopg, and {url.drivername!r} is neither; write "
            "postgresql+psycopg://USER@HOST:PORT/DATABASE, or leave it out for SQLite in memory"
        )
    if url.password is not None or "password" in url.query:
        raise ConfigError(
            f"{field} holds a password, which would be written into the run's files; take it out and export "
            "PGPASSWORD or keep it in ~/.pgpass"
        )
    if url.get_backend_name() == "sqlite":
        _check_sqlite(url, field, shared=settings.shared)
    elif importlib.util.find_spec("psycopg") is None:
        raise ConfigError(f"{field} needs the driver psycopg, which is not installed; install agentmill[postgres]")
    return url


def check_database(settings: WorldSettings) -> None:
    """Look that the worlds' database is usable and answers, before anything is started. It changes nothing.

    Raises:
        ConfigError: see checked_url; also when the database does not answer.
    """
    url = checked_url(settings)
    if url.get_backend_name() == "sqlite":
        return
    try:
        ping_worlds(settings)
    except SQLAlchemyError as error:
        raise ConfigError(
            f"system.world.url={url.set(query={})}: the database does not answer ({first_line(error)}); start the "
            "server, or mend the URL, or leave it out for SQLite in memory"
        ) from error


def ping_worlds(settings: WorldSettings) -> None:
    """Raise SQLAlchemyError where the database of `settings`, no SQLite in memory, does not answer."""
    engine = new_engine(settings)
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("SELECT 1")
    finally:
        engine.dispose()


def new_engine(settings: WorldSettings) -> Engine:
    """An engine on the database of `settings`, which is not SQLite in memory; errors do not name values.

    Raises:
        ConfigError: see checked_url.
    """
    url = checked_url(settings)
    pool: dict[str, Any] = {"pool_size": CONNECTIONS, "max_overflow": 0, "hide_parameters": True}
    if url.get_backend_name() == "postgresql":
        theirs = url.query.get("options", "")
        given = theirs if isinstance(theirs, str) else " ".join(theirs)
        limits = {"connect_timeout": CONNECT_S, "tcp_user_timeout": 1000 * STATEMENT_S, "keepalives_idle": STATEMENT_S}
        arguments = {**limits, "options": f"{_POSTGRES_LIMITS} {given}".strip()}
        return create_engine(url, pool_pre_ping=True, connect_args=arguments, **pool)
    engine = create_engine(url, connect_args={} if "timeout" in url.query else {"timeout": LOCK_S}, **pool)
    event.listen(engine, "connect", _own_transactions)
    event.listen(engine, "begin", _begin_alone)
    return engine


def _check_sqlite(url: URL, field: str, *, shared: bool) -> None:
    in_memory = url.database in (None, "", ":memory:")
    if in_memory and url.render_as_string() != MEMORY:
        raise ConfigError(f"{field}: an SQLite world in memory has the URL {MEMORY}; write that, or a file's URL")
    if not in_memory and not shared:
        raise ConfigError(
            f"{field} is a file, and private worlds of SQLite live in memory; leave the URL out, or set "
            "system.world.shared=true to share the file"
        )
    if not in_memory and not Path(str(url.database)).is_absolute():
        raise ConfigError(
            f"{field}: the path of a shared SQLite file is absolute, because each serving process has a folder of its "
            "own; write sqlite:////FOLDER/FILE with four slashes"
        )


def _own_transactions(raw: sqlite3.Connection, record: object) -> None:
    raw.isolation_level = None  # else the driver begins transactions where it likes
    raw.execute("PRAGMA foreign_keys=ON")
    _write_ahead(raw)


def _write_ahead(raw: sqlite3.Connection) -> None:
    """Keep a write-ahead log. SQLite does not wait for the lock that a new file's change of journal needs; we do.

    Raises:
        sqlite3.OperationalError: when others have held the lock for `LOCK_S`.
    """
    until = time.monotonic() + LOCK_S
    while True:
        try:
            raw.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(random.uniform(0.001, 0.02))


def _begin_alone(connection: Connection) -> None:
    """One plan after the other: a transaction that reads first and then writes would fail without waiting."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _kind(error: SQLAlchemyError) -> FaultKind:
    if isinstance(error, PoolTimeout):
        return "unavailable"
    if not isinstance(error, DBAPIError):
        return "refused"
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        return _sqlite_kind(cause)
    state = getattr(cause, "sqlstate", None)
    if state in _CONFLICTS:
        return "conflict"
    if state is not None and state.startswith(_LOST):
        return "unavailable"
    lost = error.connection_invalidated or (state is None and isinstance(error, OperationalError | InterfaceError))
    return "unavailable" if lost else "refused"


def _sqlite_kind(cause: sqlite3.Error) -> FaultKind:
    code = getattr(cause, "sqlite_errorcode", 0)
    if code in (sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY):
        return "conflict"
    primary = code & 0xFF
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return "conflict"
    if primary in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY):
        return "unavailable"
    return "refused"
