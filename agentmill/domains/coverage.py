"""What a pack's scenarios are drawn to cover: intent x persona x difficulty x switch, and what of it cannot be.

A `Coverage` gives scenario i its `Cell`. Every round goes through all reachable pairs of intent and persona, in an
order of its own; a persona that goes with few intents comes up with each of them more often. Each time a pair takes
another of its (difficulty, switch) combinations. Invariants: the cell depends on (label, i) only; after one round every
reachable pair is there, after `rounds` every reachable cell. Half of a pair's scenarios have no switch, so that what a
switch does can be told from what else is hard.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Final, Literal, NamedTuple, get_args

from agentmill.domains.base import Difficulty, Goal, Intent, Scenario
from agentmill.domains.switching import SwitchKind

NO_SWITCH: Final = "none"
SwitchAxis = SwitchKind | Literal["none"]
AXES = ("intent", "persona", "difficulty", "switch")
DIFFICULTIES: tuple[Difficulty, ...] = get_args(Difficulty)
_EASY, _MEDIUM = 3, 6  # the most points of an easy and of a medium scenario
_COMPLICATIONS = ("else_", "mind_", "ask_")


class Cell(NamedTuple):
    """One combination; `switch` is a kind of switch, or `none`."""

    intent: str
    persona: str
    difficulty: Difficulty
    switch: SwitchAxis


@dataclass(frozen=True)
class Gap:
    """Cells that cannot be, and why; an axis that is left empty stands for all its values."""

    why: str
    intents: tuple[str, ...] = ()
    personas: tuple[str, ...] = ()
    difficulties: tuple[str, ...] = ()
    switches: tuple[str, ...] = ()

    def holds(self, cell: Cell) -> bool:
        """Whether `cell` is one of them."""
        named = (self.intents, self.personas, self.difficulties, self.switches)
        return all(not values or value in values for values, value in zip(named, cell, strict=True))

    def told(self) -> str:
        """The gap in words, with the axes that it names."""
        named = (self.intents, self.personas, self.difficulties, self.switches)
        parts = [f"{axis} {', '.join(values)}" for axis, values in zip(AXES, named, strict=True) if values]
        return f"{'; '.join(parts)}: {self.why}"


@dataclass(frozen=True)
class Coverage:
    """The axes of a pack and its gaps. `switch_of` names the kind of a planned switch."""

    intents: tuple[str, ...]
    personas: tuple[str, ...]
    switches: tuple[SwitchAxis, ...] = (NO_SWITCH,)
    gaps: tuple[Gap, ...] = ()
    switch_of: Callable[[str], SwitchAxis] = lambda name: NO_SWITCH

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """Every reachable cell."""
        axes = (self.intents, self.personas, DIFFICULTIES, self.switches)
        return tuple(cell for cell in map(Cell._make, product(*axes)) if not self.why_not(cell))

    @cached_property
    def _pairs(self) -> Mapping[tuple[str, str], list[Cell]]:
        """Reachable pairs of intent and persona with their cells; those without a switch as often as all others."""
        pairs: dict[tuple[str, str], list[Cell]] = {}
        for cell in self.cells:
            pairs.setdefault(cell[:2], []).append(cell)
        for cells in pairs.values():
            calm = [cell for cell in cells if cell.switch == NO_SWITCH]
            cells += calm * max(0, (len(cells) - len(calm)) // max(1, len(calm)) - 1)
        return pairs

    @cached_property
    def _order(self) -> list[tuple[tuple[str, str], int]]:
        """The pairs of one round, each with the how-manieth it is; the personas come up about equally often."""
        personas = Counter(persona for _, persona in self._pairs)
        most = max(personas.values())
        return [(pair, again) for pair in self._pairs for again in range(most // personas[pair[1]])]

    @property
    def round(self) -> int:
        """How many scenarios go once through all pairs of intent and persona."""
        return len(self._order)

    @property
    def rounds(self) -> int:
        """After how many rounds every reachable cell was there."""
        return max(map(len, self._pairs.values()))

    def why_not(self, cell: Cell) -> str:
        """Why a cell cannot be, "" where it can."""
        return next((gap.why for gap in self.gaps if gap.holds(cell)), "")

    def cell(self, label: str, index: int) -> Cell:
        """The cell of scenario `index` of the source that `label` names (with its split and seed)."""
        turn, place = divmod(index, self.round)
        order = list(self._order)
        random.Random(f"{label} round {turn}").shuffle(order)
        pair, again = order[place]
        cells = list(self._pairs[pair])
        random.Random(f"{label} {pair}").shuffle(cells)
        repeats = sum(other == pair for other, _ in order)
        return cells[(turn * repeats + again) % len(cells)]

    def covered(self, scenario: Scenario) -> Iterator[Cell]:
        """The cells that a scenario is in: one for each intent of its goals and each kind of switch."""
        kinds = {self.switch_of(switch.name) for switch in scenario.switches} or {NO_SWITCH}
        intents = dict.fromkeys(intent for goal in scenario.goals for intent in (goal.intent, *goal.also))
        for intent, kind in product(intents, sorted(kinds)):
            yield Cell(intent, scenario.persona, scenario.difficulty, kind)


def difficulty_of(goals: Sequence[Goal], intents: Mapping[str, Intent]) -> Difficulty:
    """How hard goals are to reach: easy up to 3 points, medium up to 6, hard above.

    A point for each request that the tools must serve, for each goal with a second choice, a changed mind or something
    to bargain for, and for each goal that lacks what it needs because another request of its utterance finds it.
    """
    points = 0
    for goal in goals:
        requests = [intents[name] for name in (goal.intent, *goal.also)]
        points += sum(bool(intent.tools) for intent in requests)
        points += any(name.startswith(_COMPLICATIONS) for name in goal.slots)
        points += any(set(one.supplies) & {*other.required} for one in requests for other in requests)
    return "easy" if points <= _EASY else "medium" if points <= _MEDIUM else "hard"
