"""How a pack draws scenarios with changes of the business: goals first, then a change that bears on one of them.

A pack says for each kind how it may be planned on the `goals` of its ground (`Draws`): a function that yields every
`Planned` that fits. Invariant: what is drawn depends on (split, seed, i) only, so a longer list starts with the
shorter one.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from agentmill.domains.base import Goal, PlannedSwitch, Scenario, ScenarioSource
from agentmill.domains.kit.scenarios import Drawn, content_digest

_ATTEMPTS = 400
_SECOND_SHARE = 0.25
# What changes the end comes before what changes the way there, which is planned for the end as it is by then.
_ORDER: tuple[str, ...] = ("hours", "stock", "incentive", "argument", "rule", "rename")


@dataclass(frozen=True)
class Planned:
    """A switch that fits goal `place`, which becomes `goal`; it takes hold before turn `latest` at the latest."""

    name: str
    place: int
    goal: Goal
    latest: int


class Ground(Protocol):
    """What a pack's draws look at: the goals, and the world that they are to be reached in."""

    goals: list[Goal]


G = TypeVar("G", bound=Ground)
Draws = Mapping[str, Callable[[G], Iterable[Planned]]]  # by kind
DrawSwitches = Callable[[random.Random, int, Sequence[Goal], str | None], tuple[list[Goal], tuple[PlannedSwitch, ...]]]


def plan_switches(
    draws: Draws[G], rng: random.Random, ground: G, kind: str | None
) -> tuple[list[Goal], tuple[PlannedSwitch, ...]]:
    """One of the switches of a kind (of any for None) that fit, with the goals as they are then."""
    kinds = [kind] if kind is not None else rng.sample(list(draws), len(draws))
    for each in kinds:
        fitting = [planned for planned in draws[each](ground) if planned.latest >= 1] if each in draws else []
        if fitting:
            chosen = rng.choice(fitting)
            goals = [*ground.goals]
            goals[chosen.place] = chosen.goal
            return goals, (PlannedSwitch(name=chosen.name, turn=rng.randint(1, chosen.latest)),)
    return list(ground.goals), ()


def scenarios_with_switches(
    count: int, seed: int, split: str, *, source: ScenarioSource, draw: DrawSwitches, kinds: Sequence[str]
) -> Sequence[Scenario]:
    """`count` scenarios of `source` with switches, the kinds in turn; each is drawn when it is looked at.

    Raises:
        ValueError: for a split that the source does not have.
    """
    source(0, seed, split)
    return Drawn(count, lambda place: _switched(seed, split, place, source, draw, kinds))


def _switched(
    seed: int, split: str, place: int, source: ScenarioSource, draw: DrawSwitches, kinds: Sequence[str]
) -> Scenario:
    kind = kinds[place % len(kinds)]
    rng = random.Random(f"switches {split} {seed} {place}")
    for _ in range(_ATTEMPTS):
        scenario = source(1, rng.randrange(2**31), split)[0]
        goals, switches = draw(rng, scenario.world_seed, scenario.goals, kind)
        if switches:
            later = [other for other in kinds if _ORDER.index(other) > _ORDER.index(kind)]
            if later and rng.random() < _SECOND_SHARE:
                goals, more = draw(rng, scenario.world_seed, goals, rng.choice(later))
                switches += more
            return with_switches(scenario, goals, switches)
    raise RuntimeError(f"of {_ATTEMPTS} scenarios none has a goal that a switch of the kind {kind} bears on")


def with_switches(scenario: Scenario, goals: Sequence[Goal], switches: Sequence[PlannedSwitch]) -> Scenario:
    """The scenario with other goals and switches, under the id that is due to its content."""
    changed = scenario.model_copy(update={"goals": tuple(goals), "switches": tuple(switches)})
    return changed.model_copy(update={"sid": content_digest(changed)})
