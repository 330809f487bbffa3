"""Texts of the library for continued pretraining: what it would have on its pages and in its handbook."""

from agentmill.domains.base import Json
from agentmill.domains.kit.documents import document, handbook
from agentmill.domains.library_desk.intents import INTENTS, TITLE
from agentmill.domains.library_desk.rules import RULES
from agentmill.domains.library_desk.seed import TRAIN_SEEDS, Book, Hours, world_data
from agentmill.domains.library_desk.tools import TOOLS

_PACK = "library_desk"
_BOOKS_PER_WORLD = 40


def documents() -> list[Json]:
    """Every document with its context; none says anything of a held-out world or of a reader."""
    rows = handbook(_PACK, TITLE, INTENTS.values(), TOOLS.values(), RULES)
    for seed in TRAIN_SEEDS:
        data = world_data(seed)
        hours = {"hours": [list(row) for row in data.hours]}
        rows.append(document(_PACK, _opening(data.hours), hours, "opening hours"))
        rows += [document(_PACK, _entry(book), book._asdict(), "catalogue") for book in data.books[:_BOOKS_PER_WORLD]]
    return rows


def _opening(hours: tuple[Hours, ...]) -> str:
    days = [f"{row.day} {row.opens} to {row.closes}" if row.opens else f"{row.day} closed" for row in hours]
    return f"{TITLE} is open as follows: {', '.join(days)}."


def _entry(book: Book) -> str:
    where = "can be borrowed" if book.lendable else "is read in the reading room"
    return (
        f"{book.book}: {book.title} by {book.author}, {book.year}, on {book.subject}; {book.copies} copies. It {where}."
    )
