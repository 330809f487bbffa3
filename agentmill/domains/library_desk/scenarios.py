"""Scenarios that can be achieved: each is drawn from the rows of the world that it will be played in.

`generate(count, seed, split)` is a pure function; scenario i depends on (split, seed, i) only, so a longer list starts
with the shorter one. Held-out scenarios play in worlds of their own. One to three wishes of one reader, some of two
requests in one utterance, sometimes with a greeting, a question out of scope or about another reader beside them. What
the library must refuse is a goal too: its end state is that the refusal was looked up and nothing was changed.
"""

import random
from collections.abc import Sequence

from agentmill.domains.base import Goal, Json, Scenario
from agentmill.domains.kit.phrases import PLAIN_MANNERS
from agentmill.domains.kit.scenarios import Content, drawn
from agentmill.domains.library_desk.intents import DAYS, FREE_TEXT_INTENTS
from agentmill.domains.library_desk.seed import (
    HELDOUT_SEEDS,
    MAX_HOLDS,
    MAX_OWED,
    TRAIN_SEEDS,
    Book,
    Loan,
    Reader,
    WorldData,
    world_data,
)
from agentmill.domains.library_desk.tools import MAX_FOUND

WORLDS = {"train": TRAIN_SEEDS, "heldout": HELDOUT_SEEDS}
WISHES = {
    "find_books": 4, "book_details": 3, "place_hold": 5, "find_books+place_hold": 3, "book_details+place_hold": 2,
    "cancel_hold": 3, "my_loans": 3, "renew_loan": 3, "my_loans+renew_loan": 2, "my_fines": 3, "pay_fine": 3,
    "my_fines+pay_fine": 2, "opening_hours": 3,
}  # fmt: skip
_ASIDE_SHARE, _WRONG_PIN_SHARE, _REFUSED_SHARE, _SECOND_SHARE, _CHANGED_SHARE = 0.1, 0.1, 0.3, 0.6, 0.12


def generate(count: int, seed: int, split: str) -> Sequence[Scenario]:
    """`count` scenarios of a split ("train" or "heldout").

    Raises:
        ValueError: for another split.
    """
    return drawn(count, seed, split, label="library_desk scenario", worlds=WORLDS, draw=_draw)


def _draw(rng: random.Random, world_seed: int, index: int) -> Content:
    return Content(rng.choice(PLAIN_MANNERS), ReaderGoals(rng, world_data(world_seed)).draw())


class ReaderGoals:
    """Draws the goals of one scenario, all of one reader whose account allows them or gives a refusal of its own."""

    def __init__(self, rng: random.Random, data: WorldData) -> None:
        self.rng, self.data = rng, data
        self.wishes = self._drawn()
        self.reader = rng.choice([reader for reader in data.readers if self._suits(reader)])
        self.loan: Loan | None = rng.choice(data.loans_of(self.reader.card) or [None])
        card = self.reader.card
        self.own = {loan.book for loan in data.loans_of(card)} | {hold.book for hold in data.holds_of(card)}
        self.free = [b for b in data.books if b.lendable and data.free(b) and b.book not in self.own]
        self.book: Book = rng.choice(self.free)

    def draw(self) -> list[Goal]:
        """The goals of the wishes, and the talk beside them."""
        goals = [getattr(self, f"_{wish.replace('+', '_and_')}")() for wish in self.wishes]
        self._mistake_the_pin(goals)
        for intent in FREE_TEXT_INTENTS:
            if self.rng.random() < _ASIDE_SHARE:
                place = 0 if intent == "small_talk" else self.rng.randrange(len(goals) + 1)
                slots = {"book": self.book.book} if intent == "private_data" else {}
                goals.insert(place, Goal(intent=intent, slots=slots, expect={}))
        return goals

    def _drawn(self) -> list[str]:
        """One to three wishes that share no intent, a look before a change of the same thing."""
        wanted = self.rng.choices((1, 2, 3), weights=(40, 35, 25))[0]
        weights = dict(WISHES)
        drawn: list[str] = []
        while len(drawn) < wanted:
            wish = self.rng.choices(list(weights), weights=list(weights.values()))[0]
            drawn.append(wish)
            weights = {other: n for other, n in weights.items() if not {*other.split("+")} & {*wish.split("+")}}
        return sorted(drawn, key=list(WISHES).index)

    def _suits(self, reader: Reader) -> bool:
        """Whether what one wish does leaves the answers to the others as the seeded world has them."""
        intents = {intent for wish in self.wishes for intent in wish.split("+")}
        loans, holds = self.data.loans_of(reader.card), self.data.holds_of(reader.card)
        if "renew_loan" in intents and not loans:
            return False
        if "cancel_hold" in intents and (not holds or (len(holds) >= MAX_HOLDS and "place_hold" in intents)):
            return False
        if "pay_fine" in intents:
            return bool(reader.owed) and (reader.owed < MAX_OWED or not {"place_hold", "renew_loan"} & intents)
        refused = reader.owed >= MAX_OWED or len(holds) >= MAX_HOLDS
        return not refused or self._is_refused(reader)

    def _is_refused(self, reader: Reader) -> bool:
        """Readers who may not borrow are many; a share of them is enough."""
        return random.Random(reader.card).random() < _REFUSED_SHARE

    @property
    def _identity(self) -> Json:
        return {"card": self.reader.card, "pin": self.reader.pin}

    @property
    def _card(self) -> Json:
        return {"card": self.reader.card}

    def _mistake_the_pin(self, goals: list[Goal]) -> None:
        """Let the first wish that needs the PIN give a wrong one: mended in a second try, or, as the only wish, not."""
        own = next((place for place, goal in enumerate(goals) if "pin" in goal.slots), None)
        if own is None or self.rng.random() >= _WRONG_PIN_SHARE:
            return
        goal = goals[own]
        if any(name.startswith(("else_", "mind_")) for name in goal.slots):
            return
        wrong = f"{(int(self.reader.pin) + self.rng.randint(1, 9998)) % 10_000:04d}"
        slots = {**goal.slots, "pin": wrong}
        if len(goals) == 1 and self.rng.random() > _SECOND_SHARE:
            shown = [_call("check_reader", {**self._card, "pin": wrong})]
            open_calls = [c for c in goal.expect.get("activities", []) if c["tool"] in ("search_catalogue", "get_book")]
            goals[own] = goal.model_copy(update={"slots": slots, "expect": {"activities": shown + open_calls}})
        else:
            goals[own] = goal.model_copy(update={"slots": {**slots, "else_pin": self.reader.pin}})

    def _search(self) -> tuple[Json, list[Book]]:
        """What is searched for, and what is found, as the catalogue lists it."""
        told = {"author": self.book.author, "subject": self.book.subject}
        kept = self.rng.choice((["author"], ["author"], ["subject"], ["author", "subject"]))
        slots = {name: told[name] for name in kept}
        found = [book for book in self.data.books if all(getattr(book, name) == slots[name] for name in slots)]
        return slots, sorted(found, key=lambda book: (-book.year, book.book))[:MAX_FOUND]

    def _find_books(self) -> Goal:
        slots, found = self._search()
        if self.rng.random() < 0.8:
            self.book = self.rng.choice([book for book in found if book in self.free] or [self.book])
        return Goal(intent="find_books", slots=slots, expect={"activities": [_call("search_catalogue", slots)]})

    def _book_details(self) -> Goal:
        if self.rng.random() < 0.2:
            self.book = self.rng.choice(self.free)
        slots = {"book": self.book.book}
        return Goal(intent="book_details", slots=slots, expect={"activities": [_call("get_book", slots)]})

    def _opening_hours(self) -> Goal:
        slots = {"day": self.rng.choice(DAYS)}
        return Goal(intent="opening_hours", slots=slots, expect={"activities": [_call("opening_hours", slots)]})

    def _my_loans(self) -> Goal:
        return Goal(intent="my_loans", slots=self._identity, expect={"activities": [_call("list_loans", self._card)]})

    def _my_fines(self) -> Goal:
        return Goal(intent="my_fines", slots=self._identity, expect={"activities": [_call("fines_owed", self._card)]})

    def _place_hold(self) -> Goal:
        if self._barred():
            return self._hold(self.book, {})
        chance = self.rng.random()
        out = [b for b in self.data.books if not (b.lendable and self.data.free(b)) and b.book not in self.own]
        if chance < _REFUSED_SHARE:
            refused = self.rng.choice(out)
            other = {"else_book": self.book.book} if self.rng.random() < _SECOND_SHARE else {}
            return self._hold(refused, other)
        others = [book for book in self.free if book != self.book]
        mind = {"mind_book": self.rng.choice(others).book} if chance > 1 - _CHANGED_SHARE else {}
        return self._hold(self.book, mind)

    def _barred(self) -> bool:
        return len(self.data.holds_of(self.reader.card)) >= MAX_HOLDS or self.reader.owed >= MAX_OWED

    def _hold(self, book: Book, other: Json) -> Goal:
        """A hold on a book, or on the other one that is taken instead; nothing but checks where none is possible."""
        slots = {"book": book.book, **self._identity, **other}
        wanted = str(next(iter(other.values()), book.book))
        there = {book.book for book in self.data.books if book.lendable and self.data.free(book)}
        possible = not self._barred() and wanted in there
        checks: Json = {"activities": [_call("check_copy", {"book": book.book}), _call("check_account", self._card)]}
        made: Json = {"holds": {"book": wanted, **self._card}}
        return Goal(intent="place_hold", slots=slots, expect=made if possible else checks)

    def _find_books_and_place_hold(self) -> Goal:
        slots, found = self._search()
        hold = self._hold(found[0], {})
        return self._together("find_books", slots, hold, _call("search_catalogue", slots), supplied="book")

    def _book_details_and_place_hold(self) -> Goal:
        slots = {"book": self.book.book}
        return self._together("book_details", slots, self._hold(self.book, {}), _call("get_book", slots))

    def _cancel_hold(self) -> Goal:
        hold = self.rng.choice(self.data.holds_of(self.reader.card)).hold
        return Goal(intent="cancel_hold", slots={"hold": hold, **self._identity}, expect={"cancelled": hold})

    def _renew_loan(self) -> Goal:
        assert self.loan is not None
        return self._renewal(self.loan)

    def _renewal(self, loan: Loan) -> Goal:
        slots = {"book": loan.book, **self._identity}
        book = {"book": loan.book, **self._card}
        if self.data.renewable(loan) and self.reader.owed < MAX_OWED:
            return Goal(intent="renew_loan", slots=slots, expect={"renewed": book})
        return Goal(intent="renew_loan", slots=slots, expect={"activities": [_call("check_renewal", book)]})

    def _my_loans_and_renew_loan(self) -> Goal:
        renewal = self._renewal(self.data.loans_of(self.reader.card)[0])
        return self._together("my_loans", {}, renewal, _call("list_loans", self._card), supplied="book")

    def _pay_fine(self) -> Goal:
        owed, chance = self.reader.owed, self.rng.random()
        amount, other = self.rng.randint(1, owed), {}
        if chance < _REFUSED_SHARE:
            other = {"else_amount": amount} if self.rng.random() < _SECOND_SHARE else {}
            amount = owed + self.rng.randint(1, 20)
        elif chance > 1 - _CHANGED_SHARE and owed > 1:
            other = {"mind_amount": self.rng.choice([n for n in range(1, owed + 1) if n != amount])}
        paid = next(iter(other.values()), amount)
        return self._payment(amount, paid, other)

    def _payment(self, amount: int, paid: int, other: Json) -> Goal:
        slots = {"amount": amount, **self._identity, **other}
        if paid <= self.reader.owed:
            return Goal(intent="pay_fine", slots=slots, expect={"payments": {**self._card, "amount": paid}})
        check = _call("check_payment", {**self._card, "amount": amount})
        return Goal(intent="pay_fine", slots=slots, expect={"activities": [check]})

    def _my_fines_and_pay_fine(self) -> Goal:
        payment = self._payment(self.reader.owed, self.reader.owed, {})
        return self._together("my_fines", {}, payment, _call("fines_owed", self._card), supplied="amount")

    def _together(self, first: str, slots: Json, second: Goal, looked_up: Json, supplied: str = "") -> Goal:
        """Two requests in one utterance; what the first supplies is nothing that the customer says."""
        told = {name: value for name, value in second.slots.items() if name != supplied}
        activities = [looked_up, *second.expect.get("activities", [])]
        expect = {**second.expect, "activities": activities}
        return Goal(intent=first, also=(second.intent,), slots={**slots, **told}, expect=expect)


def _call(tool: str, arguments: Json) -> Json:
    return {"tool": tool, "arguments": arguments}
