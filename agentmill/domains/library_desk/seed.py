"""The data of one seeded world as plain Python values: `world_data(seed)` is a pure function of its seed.

The world loads these rows into SQL; the scenario generator reads them directly. Worlds with a seed from HELDOUT_FROM on
are held out: their authors, readers and titles come from pools of their own.
"""

import random
from collections import Counter
from functools import lru_cache
from typing import NamedTuple

from agentmill.domains.kit.names import person, pool
from agentmill.domains.library_desk.intents import DAYS, SUBJECTS

TRAIN_SEEDS = tuple(range(1, 25))
HELDOUT_FROM = 1001
HELDOUT_SEEDS = tuple(range(HELDOUT_FROM, HELDOUT_FROM + 8))
BOOK_COUNT, AUTHOR_COUNT, READER_COUNT = 240, 90, 160
MAX_HOLDS, MAX_OWED, MAX_RENEWALS = 4, 10, 2
_ADJECTIVES = (
    "Silent Golden Hidden Distant Broken Early Salted Patient Crooked Northern Paper Borrowed Quiet Burning Second "
    "Winter Blue Forgotten Narrow Little Open Wandering Copper Last"
).split()
_NOUNS = (
    "Harbour Orchard Letter Voyage Mirror Kitchen Island Garden Shadow River Compass Sparrow Winter Tower Lantern Road "
    "Meadow Window Journey Portrait Comet Stranger Bridge Table"
).split()


class Book(NamedTuple):
    """One row of `books`."""

    book: str
    title: str
    author: str
    subject: str
    year: int
    copies: int
    lendable: bool


class Reader(NamedTuple):
    """One row of `readers`; `owed` in dollars."""

    card: str
    name: str
    pin: str
    owed: int


class Loan(NamedTuple):
    """One seeded row of `loans`."""

    book: str
    card: str
    copy: int
    due: str
    renewals: int


class Hold(NamedTuple):
    """One seeded, live row of `holds`."""

    hold: str
    book: str
    card: str
    copy: int


class Hours(NamedTuple):
    """One row of `hours`; both times are None on a closed day."""

    day: str
    opens: str | None
    closes: str | None


class WorldData:
    """All rows of a seeded world, and what follows from them."""

    def __init__(
        self,
        books: tuple[Book, ...],
        readers: tuple[Reader, ...],
        loans: tuple[Loan, ...],
        holds: tuple[Hold, ...],
        hours: tuple[Hours, ...],
    ) -> None:
        self.books, self.readers, self.loans, self.holds, self.hours = books, readers, loans, holds, hours
        self._taken = Counter([*(loan.book for loan in loans), *(hold.book for hold in holds)])
        self._loans: dict[str, list[Loan]] = {reader.card: [] for reader in readers}
        self._holds: dict[str, list[Hold]] = {reader.card: [] for reader in readers}
        for loan in sorted(loans):
            self._loans[loan.card].append(loan)
        for hold in holds:
            self._holds[hold.card].append(hold)

    def free(self, book: Book) -> int:
        """How many copies of a book are neither on loan nor set aside."""
        return book.copies - self._taken[book.book]

    def loans_of(self, card: str) -> list[Loan]:
        """What a reader has on loan, by number of the book."""
        return self._loans[card]

    def holds_of(self, card: str) -> list[Hold]:
        """A reader's live holds."""
        return self._holds[card]

    def renewable(self, loan: Loan) -> bool:
        """Whether a loan can be renewed: not too often, and no other reader has a hold on the book."""
        wanted = any(row.book == loan.book and row.card != loan.card for row in self.holds)
        return loan.renewals < MAX_RENEWALS and not wanted


def _numbers(rng: random.Random, letter: str, digits: int, count: int) -> list[str]:
    low = 10 ** (digits - 1)
    return [f"{letter}{number}" for number in rng.sample(range(low, 10 * low), count)]


def _books(rng: random.Random, heldout: bool) -> tuple[Book, ...]:
    authors = [person(rng, heldout=heldout) for _ in range(AUTHOR_COUNT)]
    adjectives, nouns = pool(_ADJECTIVES, heldout), pool(_NOUNS, heldout)
    return tuple(
        Book(
            book=number,
            title=f"The {rng.choice(adjectives)} {rng.choice(nouns)}",
            author=rng.choice(authors),
            subject=rng.choice(SUBJECTS),
            year=rng.randint(1950, 2025),
            copies=rng.choice((1, 1, 2, 2, 3, 4)),
            lendable=rng.random() < 0.93,
        )
        for number in _numbers(rng, "B", 4, BOOK_COUNT)
    )


def _readers(rng: random.Random, heldout: bool) -> tuple[Reader, ...]:
    return tuple(
        Reader(
            card=card,
            name=person(rng, heldout=heldout),
            pin=f"{rng.randint(0, 9999):04d}",
            owed=0 if rng.random() < 0.5 else rng.randint(1, 9) if rng.random() < 0.7 else rng.randint(MAX_OWED, 40),
        )
        for card in _numbers(rng, "C", 6, READER_COUNT)
    )


class _Shelf:
    """The copies of every lendable book that are still there while the world is made."""

    def __init__(self, rng: random.Random, books: tuple[Book, ...]) -> None:
        self.rng = rng
        self.left = {book.book: list(range(1, book.copies + 1)) for book in books if book.lendable}

    def take(self, count: int) -> list[tuple[str, int]]:
        """The next copies of some different books."""
        there = [book for book, copies in self.left.items() if copies]
        return [(book, self.left[book].pop(0)) for book in self.rng.sample(there, min(count, len(there)))]


def _loans(rng: random.Random, readers: tuple[Reader, ...], shelf: _Shelf) -> tuple[Loan, ...]:
    return tuple(
        Loan(
            book, reader.card, copy, f"2026-{rng.randint(3, 5):02d}-{rng.randint(1, 28):02d}", rng.choice((0, 0, 1, 2))
        )
        for reader in readers
        for book, copy in shelf.take(rng.choice((0, 1, 1, 2, 3)))
    )


def _holds(rng: random.Random, readers: tuple[Reader, ...], shelf: _Shelf) -> tuple[Hold, ...]:
    taken = [
        (reader.card, book, copy)
        for reader in rng.sample(readers, len(readers) // 3)
        for book, copy in shelf.take(rng.choice((1, 1, 2, MAX_HOLDS)))
    ]
    numbers = _numbers(rng, "H", 5, len(taken))
    return tuple(Hold(number, book, card, copy) for number, (card, book, copy) in zip(numbers, taken, strict=True))


def _hours(rng: random.Random) -> tuple[Hours, ...]:
    opens, closes = rng.choice(("08:00", "09:00", "10:00")), rng.choice(("17:00", "18:00", "19:00"))
    closed = rng.choice(DAYS[:3])
    rows = [Hours(day, *((None, None) if day == closed else (opens, closes))) for day in DAYS[:5]]
    return (*rows, Hours("saturday", "10:00", rng.choice(("14:00", "16:00"))), Hours("sunday", None, None))


@lru_cache(maxsize=64)
def world_data(world_seed: int) -> WorldData:
    """The rows of the world of `world_seed`."""
    rng = random.Random(f"library_desk world {world_seed}")
    heldout = world_seed >= HELDOUT_FROM
    books, readers = _books(rng, heldout), _readers(rng, heldout)
    shelf = _Shelf(rng, books)
    loans = _loans(rng, readers, shelf)
    return WorldData(books, readers, loans, _holds(rng, readers, shelf), _hours(rng))
