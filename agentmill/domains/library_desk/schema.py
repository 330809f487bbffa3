"""The tables of the library's world, in SQLAlchemy Core, so that any SQL database can hold it.

`holds.origin` tells what the world was seeded with from what a conversation added; a cancelled hold keeps its row. A
loan and a live hold each take one numbered copy of a book. No two live holds take the same copy, whoever asks first.
"""

from sqlalchemy import Boolean, Column, ForeignKey, Index, Integer, MetaData, String, Table, text

METADATA = MetaData()

BOOKS = Table(
    "books",
    METADATA,
    Column("book", String(8), primary_key=True),
    Column("title", String(120), nullable=False),
    Column("author", String(120), nullable=False, index=True),
    Column("subject", String(20), nullable=False, index=True),
    Column("year", Integer, nullable=False),
    Column("copies", Integer, nullable=False),
    Column("lendable", Boolean, nullable=False),
)

READERS = Table(
    "readers",
    METADATA,
    Column("card", String(8), primary_key=True),
    Column("name", String(120), nullable=False),
    Column("pin", String(4), nullable=False),
    Column("owed", Integer, nullable=False),
)

LOANS = Table(
    "loans",
    METADATA,
    Column("book", String(8), ForeignKey("books.book"), primary_key=True),
    Column("card", String(8), ForeignKey("readers.card"), primary_key=True),
    Column("copy", Integer, nullable=False),
    Column("due", String(10), nullable=False),
    Column("renewals", Integer, nullable=False),
    Column("seeded", Integer, nullable=False),
)

HOLDS = Table(
    "holds",
    METADATA,
    Column("hold", String(8), primary_key=True),
    Column("book", String(8), ForeignKey("books.book"), nullable=False),
    Column("card", String(8), ForeignKey("readers.card"), nullable=False),
    Column("copy", Integer, nullable=False),
    Column("status", String(10), nullable=False),
    Column("origin", String(8), nullable=False),
)

PAYMENTS = Table(
    "payments",
    METADATA,
    Column("receipt", String(8), primary_key=True),
    Column("card", String(8), ForeignKey("readers.card"), nullable=False),
    Column("amount", Integer, nullable=False),
)

HOURS = Table(
    "hours",
    METADATA,
    Column("day", String(10), primary_key=True),
    Column("opens", String(5)),
    Column("closes", String(5)),
)

LIVE_COPY = Index(
    "live_copy",
    HOLDS.c.book,
    HOLDS.c.copy,
    unique=True,
    sqlite_where=text("status = 'live'"),
    postgresql_where=text("status = 'live'"),
)
