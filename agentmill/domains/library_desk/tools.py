"""What a plan can call: typed keyword-only functions over the world, each returning compact JSON.

An answer that is no error ("out", "not found") is a value; what a plan's checks should have prevented raises
ValueError, which undoes the whole plan. Only what is named `book` or `amount` in a result can be referred to.
"""

from datetime import date, timedelta
from typing import Any

from sqlalchemy import func, insert, select, update

from agentmill.domains.base import Json, Tool, tool
from agentmill.domains.library_desk.schema import BOOKS, HOLDS, HOURS, LOANS, PAYMENTS, READERS
from agentmill.domains.library_desk.seed import MAX_HOLDS, MAX_OWED, MAX_RENEWALS
from agentmill.domains.library_desk.world import LibraryWorld

MAX_FOUND = 3
RENEWAL = timedelta(days=21)


@tool()
def search_catalogue(world: LibraryWorld, *, author: str | None = None, subject: str | None = None) -> list[Json]:
    """Find books by author, subject or both; at most three, the newest first."""
    query = select(BOOKS.c.book, BOOKS.c.title, BOOKS.c.author)
    for column, value in ((BOOKS.c.author, author), (BOOKS.c.subject, subject)):
        if value is not None:
            query = query.where(func.lower(column) == value.lower())
    return world.rows(query.order_by(BOOKS.c.year.desc(), BOOKS.c.book).limit(MAX_FOUND))


@tool()
def get_book(world: LibraryWorld, *, book: str) -> Json:
    """Everything about one book by its number, and how many copies are in; {"found": false} where there is none."""
    row = _book(world, book)
    if row is None:
        return {"found": False}
    told = {name: row[name] for name in ("title", "author", "subject", "year", "copies")}
    return {"found": True, **told, "in": len(_free(world, row)), "lendable": bool(row["lendable"])}


@tool()
def check_reader(world: LibraryWorld, *, card: str, pin: str) -> Json:
    """Whether the PIN belongs to the library card."""
    row = _reader(world, card)
    return {"valid": row is not None and row["pin"] == pin}


@tool()
def check_account(world: LibraryWorld, *, card: str) -> Json:
    """Whether a reader may have another hold, and is clear of fines that stop borrowing."""
    holds, owed = world.holds_of(card), _owed(world, card)
    return {"within_limit": holds < MAX_HOLDS, "holds": holds, "clear": owed < MAX_OWED, "owed": owed}


@tool()
def check_copy(world: LibraryWorld, *, book: str) -> Json:
    """Whether a copy of a book is in and can be set aside; otherwise why not: unknown, reading room or out."""
    row = _book(world, book)
    if row is None:
        return {"holdable": False, "reason": "unknown"}
    reason = "reading room" if not row["lendable"] else "out" if not _free(world, row) else None
    return {"holdable": reason is None, "title": row["title"], **({"reason": reason} if reason else {})}


@tool(changes=True)
def place_hold(world: LibraryWorld, *, book: str, card: str) -> Json:
    """Set a copy of a book aside for a reader; returns the number of the hold."""
    account, row = check_account.function(world, card=card), _book(world, book)
    free = _free(world, row) if row is not None and row["lendable"] else []
    if not free:
        raise ValueError(f"no copy of {book} can be set aside; call check_copy first")
    if not (account["within_limit"] and account["clear"]):
        raise ValueError(f"card {card} may not have another hold; call check_account first")
    hold = world.unused("H", HOLDS.c.hold, book, card)
    made = {"hold": hold, "book": book, "card": card, "copy": free[0], "status": "live", "origin": "session"}
    world.connection.execute(insert(HOLDS), [made])
    return {"hold": hold}


@tool()
def find_hold(world: LibraryWorld, *, hold: str, card: str) -> Json:
    """A reader's live hold by its number; {"found": false} where the reader has none."""
    query = select(BOOKS.c.title).join(HOLDS, HOLDS.c.book == BOOKS.c.book)
    title = world.connection.scalar(query.where(HOLDS.c.hold == hold, HOLDS.c.card == card, HOLDS.c.status == "live"))
    return {"found": False} if title is None else {"found": True, "title": title}


@tool(changes=True)
def cancel_hold(world: LibraryWorld, *, hold: str, card: str) -> Json:
    """Cancel a reader's live hold by its number."""
    query = update(HOLDS).where(HOLDS.c.hold == hold, HOLDS.c.card == card, HOLDS.c.status == "live")
    if world.connection.execute(query.values(status="cancelled")).rowcount != 1:
        raise ValueError(f"card {card} has no live hold {hold}; call find_hold first")
    return {"cancelled": True}


@tool()
def list_loans(world: LibraryWorld, *, card: str) -> list[Json]:
    """What a reader has on loan and when it is due, by number of the book."""
    query = select(LOANS.c.book, BOOKS.c.title, LOANS.c.due).join(BOOKS, BOOKS.c.book == LOANS.c.book)
    return world.rows(query.where(LOANS.c.card == card).order_by(LOANS.c.book))


@tool()
def check_renewal(world: LibraryWorld, *, book: str, card: str) -> Json:
    """Whether a reader's loan can be renewed; otherwise why not: unknown, wanted by another reader or too often."""
    loan = _loan(world, book, card)
    if loan is None:
        return {"allowed": False, "reason": "unknown"}
    others = select(HOLDS).where(HOLDS.c.book == book, HOLDS.c.card != card, HOLDS.c.status == "live")
    wanted = world.connection.execute(others).first() is not None
    reason = "wanted" if wanted else "too often" if loan["renewals"] >= MAX_RENEWALS else None
    told = {"title": loan["title"], "due": loan["due"]}
    return {"allowed": reason is None, **told, **({"reason": reason} if reason else {})}


@tool(changes=True)
def renew_loan(world: LibraryWorld, *, book: str, card: str) -> Json:
    """Renew a reader's loan by three weeks; returns when it is due then."""
    loan = _loan(world, book, card)
    if loan is None or not check_renewal.function(world, book=book, card=card)["allowed"]:
        raise ValueError(f"{book} cannot be renewed for card {card}; call check_renewal first")
    due = (date.fromisoformat(loan["due"]) + RENEWAL).isoformat()
    query = update(LOANS).where(LOANS.c.book == book, LOANS.c.card == card)
    world.connection.execute(query.values(due=due, renewals=loan["renewals"] + 1))
    return {"due": due}


@tool()
def fines_owed(world: LibraryWorld, *, card: str) -> Json:
    """What a reader owes, in dollars."""
    return {"amount": _owed(world, card)}


@tool()
def check_payment(world: LibraryWorld, *, card: str, amount: int) -> Json:
    """Whether an amount in dollars can be paid: at least one, and not above what is owed."""
    owed = _owed(world, card)
    return {"allowed": 1 <= amount <= owed, "owed": owed}


@tool(changes=True)
def pay_fine(world: LibraryWorld, *, card: str, amount: int) -> Json:
    """Pay an amount in dollars of what a reader owes; returns the receipt and what is left."""
    query = update(READERS).where(READERS.c.card == card, READERS.c.owed >= amount)
    if amount < 1 or world.connection.execute(query.values(owed=READERS.c.owed - amount)).rowcount != 1:
        raise ValueError(f"card {card} does not owe {amount}; call check_payment first")
    left = _owed(world, card)
    receipt = world.unused("P", PAYMENTS.c.receipt, card, amount, left)
    world.connection.execute(insert(PAYMENTS), [{"receipt": receipt, "card": card, "amount": amount}])
    return {"receipt": receipt, "left": left}


@tool()
def opening_hours(world: LibraryWorld, *, day: str) -> Json:
    """When the library opens and closes on a day of the week."""
    row = world.connection.execute(select(HOURS).where(HOURS.c.day == day)).first()
    if row is None:
        raise ValueError(f"day={day!r} is no day of the week; use monday to sunday")
    return {"open": False} if row.opens is None else {"open": True, "from": row.opens, "to": row.closes}


def _first(world: LibraryWorld, statement: Any) -> Json | None:
    rows = world.rows(statement)
    return rows[0] if rows else None


def _book(world: LibraryWorld, book: str) -> Json | None:
    return _first(world, select(BOOKS).where(BOOKS.c.book == book))


def _reader(world: LibraryWorld, card: str) -> Json | None:
    return _first(world, select(READERS).where(READERS.c.card == card))


def _loan(world: LibraryWorld, book: str, card: str) -> Json | None:
    query = select(LOANS, BOOKS.c.title).join(BOOKS, BOOKS.c.book == LOANS.c.book)
    return _first(world, query.where(LOANS.c.book == book, LOANS.c.card == card))


def _owed(world: LibraryWorld, card: str) -> int:
    row = _reader(world, card)
    return row["owed"] if row else 0


def _free(world: LibraryWorld, book: Json) -> list[int]:
    """The numbers of a book's copies that are neither on loan nor set aside."""
    loans = select(LOANS.c.copy).where(LOANS.c.book == book["book"])
    holds = select(HOLDS.c.copy).where(HOLDS.c.book == book["book"], HOLDS.c.status == "live")
    taken = {*world.connection.scalars(loans), *world.connection.scalars(holds)}
    return [copy for copy in range(1, book["copies"] + 1) if copy not in taken]


TOOLS: dict[str, Tool] = {
    item.name: item
    for item in (
        search_catalogue, get_book, check_reader, check_account, check_copy, place_hold, find_hold, cancel_hold,
        list_loans, check_renewal, renew_loan, fines_owed, check_payment, pay_fine, opening_hours,
    )
}  # fmt: skip
