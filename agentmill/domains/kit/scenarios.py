"""How scenarios are drawn in every pack: reproducibly, one by one, held-out ones in worlds of their own.

`Drawn` is a sequence that makes a scenario when it is looked at and keeps none, so that a simulation can draw hundreds
of thousands in constant memory, and any part of them without those before it.
"""

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import overload

from agentmill.domains.base import Difficulty, Goal, Json, PlannedSwitch, Scenario

TURNS, TURNS_A_GOAL = 12, 5


@dataclass(frozen=True)
class Content:
    """What one scenario is about. The context vectors are empty where a mix has none."""

    persona: str
    goals: Sequence[Goal]
    topic: str = ""
    profile: Json = field(default_factory=dict)
    limits: Json = field(default_factory=dict)
    difficulty: Difficulty = "easy"
    switches: tuple[PlannedSwitch, ...] = ()


Draw = Callable[[random.Random, int, int], Content]  # (generator, world_seed, index) -> what it is about


def drawn(
    count: int, seed: int, split: str, *, label: str, worlds: Mapping[str, Sequence[int]], draw: Draw
) -> Sequence[Scenario]:
    """`count` scenarios of a split; scenario i depends on (label, split, seed, i) only. `worlds` are seeds by split.

    Raises:
        ValueError: for a split that has no worlds.
    """
    if split not in worlds:
        known = " or ".join(f'"{name}"' for name in worlds)
        raise ValueError(f"split={split!r} is unknown: scenarios are made for {known}")
    return Drawn(count, lambda i: _scenario(f"{label} {split} {seed} {i}", i, split, worlds[split], draw))


class Drawn(Sequence[Scenario]):
    """Scenarios 0 to `count` - 1, each made by `draw(i)` whenever it is asked for; equal to a list of the same."""

    def __init__(self, count: int, draw: Callable[[int], Scenario]) -> None:
        self._count, self._draw = count, draw

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Scenario: ...
    @overload
    def __getitem__(self, index: slice) -> list[Scenario]: ...
    def __getitem__(self, index: int | slice) -> Scenario | list[Scenario]:
        if isinstance(index, slice):
            return [self._draw(i) for i in range(self._count)[index]]
        return self._draw(range(self._count)[index])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(other) == len(self) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


def _scenario(label: str, index: int, split: str, worlds: Sequence[int], draw: Draw) -> Scenario:
    """One scenario. Its id is the digest of its content; a context that is left at its default is not part of it."""
    rng = random.Random(label)
    world_seed = rng.choice(worlds)
    found = draw(rng, world_seed, index)
    scenario = Scenario(
        sid="",
        seed=rng.randrange(2**31),
        world_seed=world_seed,
        persona=found.persona,
        goals=tuple(found.goals),
        split=split,  # a key of `worlds`
        max_turns=TURNS + TURNS_A_GOAL * len(found.goals),
        topic=found.topic,
        profile=found.profile,
        limits=found.limits,
        difficulty=found.difficulty,
        switches=found.switches,
    )
    return scenario.model_copy(update={"sid": content_digest(scenario)})


def content_digest(scenario: Scenario) -> str:
    """The id of a scenario: two have the same one exactly where their content is the same."""
    contexts = {"topic", "profile", "limits", "difficulty", "switches"}
    content = scenario.model_dump(exclude={"sid", *contexts})
    content |= scenario.model_dump(include=contexts, exclude_defaults=True)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
