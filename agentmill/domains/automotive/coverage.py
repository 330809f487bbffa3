"""The dealership's mix `coverage`: evenly over intent, persona, difficulty and switch, with all context vectors.

A scenario's cell says what it must show: a goal of its intent, by a customer of its persona, as hard as it asks, with
a change of the business of its kind. `GAPS` names every combination that cannot be, with the reason.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

from agentmill.domains.automotive.bent import BARGAINS, CHANGEABLE, PAIRS, CoverageGoals
from agentmill.domains.automotive.context import limits_of, profile_of, topic_of
from agentmill.domains.automotive.intents import INTENTS
from agentmill.domains.automotive.scenarios import WORLDS
from agentmill.domains.automotive.seed import world_data
from agentmill.domains.automotive.switched import draw_switches
from agentmill.domains.automotive.switches import SWITCHES
from agentmill.domains.base import Goal, Json, PlannedSwitch, Scenario
from agentmill.domains.coverage import NO_SWITCH, Cell, Coverage, Gap, difficulty_of
from agentmill.domains.kit.personas import COVERED
from agentmill.domains.kit.scenarios import Content, drawn
from agentmill.domains.switching import KINDS, found

BARGAINED = (
    "find_vehicles", "price_offer", "finance_quote", "value_trade_in", "book_test_drive", "move_test_drive",
    "book_service", "move_delivery", "reserve_vehicle",
)  # fmt: skip
_PAIRED = frozenset(name for pair in PAIRS.values() for name in pair)
_FEEDING = frozenset(name for pair in PAIRS.values() if INTENTS[pair[0]].supplies for name in pair)
_ONLY_FEEDING = tuple(
    sorted(_FEEDING - {name for pair in PAIRS.values() if not INTENTS[pair[0]].supplies for name in pair})
)
_SLOTTED = tuple(name for name, intent in INTENTS.items() if intent.required or intent.any_of)


def _others(*names: str) -> tuple[str, ...]:
    return tuple(name for name in INTENTS if name not in names)


GAPS = (
    Gap("nothing is proposed before it is done, so there is no moment to change one's mind",
        intents=_others(*CHANGEABLE), personas=("changing_mind",)),
    Gap("there is no price, term or time to bargain for", intents=_others(*BARGAINED), personas=("haggling",)),
    Gap("no second request goes with it in one message", intents=_others(*_PAIRED), personas=("multi_request",)),
    Gap("the assistant asks for nothing that could be mixed up", intents=_others(*_SLOTTED), personas=("confused",)),
    Gap("a changed mind beside the second choice that the switch asks for is more than easy",
        personas=("changing_mind",), difficulties=("easy",), switches=("hours", "stock")),
    Gap("a bargain beside the second choice that the switch asks for is more than easy",
        intents=tuple(BARGAINS), personas=("haggling",), difficulties=("easy",), switches=("hours", "stock")),
    Gap("two requests at once beside the second choice that the switch asks for are more than easy",
        personas=("multi_request",), difficulties=("easy",), switches=("hours", "stock")),
    Gap("two requests at once of which one feeds the other, and a third that the switch bears on, are more than easy",
        intents=_ONLY_FEEDING, personas=("multi_request",), difficulties=("easy",),
        switches=("incentive", "argument", "rule")),
    Gap("the best price is bargained down further, so that no incentive decides it",
        intents=("price_offer",), personas=("haggling",), switches=("incentive",)),
)  # fmt: skip
COVERAGE = Coverage(
    tuple(INTENTS),
    tuple(COVERED),
    switches=(NO_SWITCH, *KINDS),
    gaps=GAPS,
    switch_of=lambda name: found(SWITCHES, name)[0].kind,
)

_TRIES = 300


def generate_coverage(count: int, seed: int, split: str) -> Sequence[Scenario]:
    """`count` scenarios of a split, evenly over the cells of `COVERAGE`, each with all of its context vectors.

    Raises:
        ValueError: for another split than "train" and "heldout".
    """

    def draw(rng: random.Random, world_seed: int, index: int) -> Content:
        cell, data = COVERAGE.cell(f"automotive {split} {seed}", index), world_data(world_seed)
        goals, switches, customer = found_for(rng, world_seed, cell)
        situation, topic = topic_of(rng, goals)
        return Content(
            persona=cell.persona,
            goals=goals,
            topic=topic,
            profile=profile_of(rng, goals, situation, customer),
            limits=limits_of(data, goals),
            difficulty=cell.difficulty,
            switches=switches,
        )

    return drawn(count, seed, split, label="automotive scenario coverage", worlds=WORLDS, draw=draw)


class Found(NamedTuple):
    """Goals of a cell with their switches, and the customer who has them: name, phone, licence."""

    goals: list[Goal]
    switches: tuple[PlannedSwitch, ...]
    customer: Json


def found_for(rng: random.Random, world_seed: int, cell: Cell) -> Found:
    """Goals that are as hard as the cell asks, with a switch of its kind, drawn again until they are.

    Raises:
        LookupError: where that does not happen, which is a gap that `GAPS` does not name.
    """
    data = world_data(world_seed)
    for _ in range(_TRIES):
        source = CoverageGoals(rng, data, cell)
        goals = source.draw()
        switches: tuple[PlannedSwitch, ...] = ()
        if cell.switch != NO_SWITCH:
            goals, switches = draw_switches(rng, world_seed, goals, cell.switch)
        fits = bool(switches) == (cell.switch != NO_SWITCH)
        if fits and difficulty_of(goals, INTENTS) == cell.difficulty and shows(goals, cell):
            person = source.customer
            return Found(goals, switches, {"name": person.name, "phone": source.phone, "licence": person.licence})
    raise LookupError(f"no goals were found for {cell} in {_TRIES} tries; name the gap in GAPS")


def shows(goals: list[Goal], cell: Cell) -> bool:
    """Whether the goal of the cell's intent is there, with what the cell's persona does to it."""
    goal = next((goal for goal in goals if cell.intent in (goal.intent, *goal.also)), None)
    if goal is None:
        return False
    if cell.persona == "changing_mind":
        return any(name.startswith("mind_") for name in goal.slots)
    return cell.persona != "multi_request" or bool(goal.also)
