"""The library's mix `coverage`: up to six wishes of one reader, evenly over intent, persona, difficulty and switch.

A scenario's cell says what it must show: a goal of its intent, by a reader of its persona, as hard as it asks. It
comes with the context vectors: the topic, the reader's profile and what the library can offer.
"""

import random
from collections.abc import Sequence

from agentmill.domains.base import Goal, Json, PlannedSwitch, Scenario
from agentmill.domains.coverage import NO_SWITCH, Cell, Coverage, Gap, difficulty_of
from agentmill.domains.kit.context import profile, topic
from agentmill.domains.kit.personas import COVERED
from agentmill.domains.kit.scenarios import Content, drawn
from agentmill.domains.library_desk.intents import FREE_TEXT_INTENTS, INTENTS
from agentmill.domains.library_desk.scenarios import WISHES, WORLDS, ReaderGoals
from agentmill.domains.library_desk.seed import MAX_HOLDS, MAX_OWED, WorldData, world_data
from agentmill.domains.library_desk.switched import draw_switches
from agentmill.domains.library_desk.switches import SWITCHES
from agentmill.domains.switching import KINDS, found

PAIRS = tuple(wish for wish in WISHES if "+" in wish)
_CHANGEABLE = ("place_hold", "pay_fine")
_BARGAINED = ("place_hold", "cancel_hold", "renew_loan", "pay_fine", "my_fines")
_PAIRED = tuple(dict.fromkeys(name for wish in PAIRS for name in wish.split("+")))


def _others(*names: str) -> tuple[str, ...]:
    return tuple(name for name in INTENTS if name not in names)


GAPS = (
    Gap("nothing is proposed before it is done, or there is no other value to change to",
        intents=_others(*_CHANGEABLE), personas=("changing_mind",)),
    Gap("there is nothing to bargain for", intents=_others(*_BARGAINED), personas=("haggling",)),
    Gap("no second request goes with it in one message", intents=_others(*_PAIRED), personas=("multi_request",)),
    Gap("the assistant asks for nothing that could be mixed up", intents=FREE_TEXT_INTENTS, personas=("confused",)),
    Gap("the library gives no incentives", switches=("incentive",)),
    Gap("the only hold changes already: it is in a pair, or has another mind", personas=("multi_request",),
        intents=("find_books", "book_details", "place_hold"), switches=("stock",)),
    Gap("the only hold changes already: it is in a pair, or has another mind", personas=("changing_mind",),
        intents=("place_hold",), switches=("stock",)),
    Gap("a changed mind beside the second choice that the switch asks for is more than easy",
        personas=("changing_mind",), difficulties=("easy",), switches=("stock",)),
    Gap("two requests at once of which one feeds the other, and a third that the switch bears on, are more than easy",
        personas=("multi_request",), intents=("find_books", "my_loans", "renew_loan", "my_fines", "pay_fine"),
        difficulties=("easy",), switches=("hours", "stock", "argument", "rule")),
)  # fmt: skip
COVERAGE = Coverage(
    tuple(INTENTS),
    tuple(COVERED),
    switches=(NO_SWITCH, *KINDS),
    gaps=GAPS,
    switch_of=lambda name: found(SWITCHES, name)[0].kind,
)
SITUATIONS = (
    "A pupil with a paper to write", "A grandmother who reads a novel a week", "A night nurse who reads between shifts",
    "A father who reads to his twins", "A newcomer to the town", "A retired sailor", "A student before an examination",
    "A cook who collects recipes", "A gardener with a wet summer ahead", "A teacher who prepares a lesson",
)  # fmt: skip
TOPICS: dict[str, str] = {
    "find_books": "look for something to read",
    "book_details": "hear more about a book",
    "place_hold": "have a book set aside",
    "cancel_hold": "cancel a hold",
    "renew_loan": "keep a book for longer",
    "my_loans": "know what is on loan",
    "my_fines": "know what is owed",
    "pay_fine": "pay fines",
    "opening_hours": "know the opening hours",
    "small_talk": "chat a little",
    "out_of_scope": "try something that a library does not do",
    "private_data": "find out something about another reader",
}
CARRIERS: dict[str, tuple[str, ...]] = {
    "hours": ("opening_hours",),
    "stock": ("place_hold",),
    "argument": ("cancel_hold",),
    "rule": ("cancel_hold", "renew_loan"),
}  # what a kind of switch bears on; a tool that is renamed serves any wish
_WISHES = {"easy": (1, 2, 2), "medium": (3, 4, 4), "hard": (5, 6)}
_PAIRED_WISHES = {"easy": (1,), "medium": (2,), "hard": (3, 4)}
_TRIES = 400
_REDRAWS, _MIXED_UP_SHARE, _ASIDE_SHARE = 60, 0.3, 0.2


class CoverageGoals(ReaderGoals):
    """Draws the goals of one scenario of a cell."""

    def __init__(self, rng: random.Random, data: WorldData, cell: Cell) -> None:
        self.cell = cell
        self.carrier = ""  # the wish that the switch bears on
        super().__init__(rng, data)

    def draw(self) -> list[Goal]:
        """The goals of the wishes as the persona has them, and the talk beside them."""
        goals = [self._bent(f"_{wish.replace('+', '_and_')}") for wish in self.wishes]
        self._mistake_the_pin(goals)
        for intent in FREE_TEXT_INTENTS:
            if intent == self.cell.intent or self.rng.random() < _ASIDE_SHARE:
                place = 0 if intent == "small_talk" else self.rng.randrange(len(goals) + 1)
                others = [book.book for book in self.free if book != self.book]
                slots = {"book": self.rng.choice(others)} if intent == "private_data" else {}
                goals.insert(place, Goal(intent=intent, slots=slots, expect={}))
        if self.cell.persona == "adversarial":
            trick = Goal(intent="out_of_scope", slots={"topic": "injection"}, expect={})
            goals.insert(self.rng.randrange(len(goals)), trick)
        return goals

    def _drawn(self) -> list[str]:
        """The wish that the cell's intent is in, and others that share no intent with it."""
        focus, paired = self.cell.intent, self.cell.persona == "multi_request"
        carriers = CARRIERS.get(self.cell.switch, ())
        wanted = self.rng.choice((_PAIRED_WISHES if paired else _WISHES)[self.cell.difficulty])
        first = [wish for wish in (PAIRS if paired else WISHES) if focus in wish.split("+")]
        chosen = [] if focus in FREE_TEXT_INTENTS else [self.rng.choice(first if paired else [focus])]
        self.carrier = focus if focus in carriers and not paired and self.cell.persona != "changing_mind" else ""
        free = [name for name in carriers if all(name not in wish.split("+") for wish in chosen)]
        if free and not self.carrier:
            self.carrier = self.rng.choice(free)
            chosen.append(self.carrier)
        while len(chosen) < wanted:
            taken = {name for wish in chosen for name in wish.split("+")}
            left = {wish: n for wish, n in WISHES.items() if not taken & {*wish.split("+")}}
            pairs = [wish for wish in left if "+" in wish]
            if not left:
                break
            weights = {wish: left[wish] for wish in pairs} if paired and pairs else left
            chosen.append(self.rng.choices(list(weights), weights=list(weights.values()))[0])
        first_of_all = self.carrier if self.cell.switch == "argument" else ""  # before another book is at hand
        return sorted(chosen, key=lambda wish: (wish != first_of_all, list(WISHES).index(wish)))

    def _bent(self, name: str) -> Goal:
        """A goal as the persona has it: drawn again until it has a mind to change, where it can have one."""
        goal: Goal = getattr(self, name)()
        changes = self.cell.persona == "changing_mind"
        changes |= self.cell.persona == "confused" and self.rng.random() < _MIXED_UP_SHARE
        wish = name.removeprefix("_")
        if changes and wish in _CHANGEABLE and wish != self.carrier:
            for _ in range(_REDRAWS):
                if any(slot.startswith("mind_") for slot in goal.slots):
                    break
                goal = getattr(self, name)()
        return goal


def generate_coverage(count: int, seed: int, split: str) -> Sequence[Scenario]:
    """`count` scenarios of a split, evenly over the cells of `COVERAGE`.

    Raises:
        ValueError: for another split than "train" and "heldout".
    """

    def draw(rng: random.Random, world_seed: int, index: int) -> Content:
        cell, data = COVERAGE.cell(f"library_desk {split} {seed}", index), world_data(world_seed)
        source, goals, switches = _found_for(rng, world_seed, cell)
        situation = rng.choice(SITUATIONS)
        own = {"name": source.reader.name, "situation": situation, "card": source.reader.card, "pin": source.reader.pin}
        return Content(
            persona=cell.persona,
            goals=goals,
            topic=topic(situation, goals, TOPICS),
            profile=profile(goals, {"card": "card", "pin": "pin", "author": "favourite_author"}, own),
            limits=_limits(data),
            difficulty=cell.difficulty,
            switches=switches,
        )

    return drawn(count, seed, split, label="library_desk scenario coverage", worlds=WORLDS, draw=draw)


def _found_for(
    rng: random.Random, world_seed: int, cell: Cell
) -> tuple[CoverageGoals, list[Goal], tuple[PlannedSwitch, ...]]:
    """Goals that are as hard as the cell asks, drawn again until they are, who has them, and their switches.

    Raises:
        LookupError: where that does not happen, which is a gap that `GAPS` does not name.
    """
    for _ in range(_TRIES):
        try:
            source = CoverageGoals(rng, world_data(world_seed), cell)
        except IndexError:  # no reader of this world has what all of the wishes need
            continue
        goals = source.draw()
        switches: tuple[PlannedSwitch, ...] = ()
        if cell.switch != NO_SWITCH:
            goals, switches = draw_switches(rng, world_seed, goals, cell.switch)
        fits = bool(switches) == (cell.switch != NO_SWITCH)
        if fits and difficulty_of(goals, INTENTS) == cell.difficulty and _shows(goals, cell):
            return source, goals, switches
    raise LookupError(f"no goals were found for {cell} in {_TRIES} tries; name the gap in GAPS")


def _shows(goals: list[Goal], cell: Cell) -> bool:
    """Whether the goal of the cell's intent is there, with what the cell's persona does to it."""
    goal = next((goal for goal in goals if cell.intent in (goal.intent, *goal.also)), None)
    if goal is None:
        return False
    if cell.persona == "changing_mind":
        return any(name.startswith("mind_") for name in goal.slots)
    return cell.persona != "multi_request" or bool(goal.also)


def _limits(data: WorldData) -> Json:
    """What bounds the conversation: hours, holds, fines, and how much there is to lend."""
    lendable = sum(bool(book.lendable and data.free(book)) for book in data.books)
    hours = {row.day: f"{row.opens}-{row.closes}" if row.opens else "closed" for row in data.hours}
    return {"books_to_lend": lendable, "hours": hours, "holds_at_most": MAX_HOLDS, "owed_below": MAX_OWED}
