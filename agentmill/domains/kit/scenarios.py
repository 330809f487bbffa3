"""How scenarios are drawn in every pack: reproducibly, one by one, held-out ones in worlds of their own.

`Drawn` is a sequence that makes a scenario when it is looked at and keeps none, so that a simulation can draw hundreds
of thousands in constant memory, and any part of them without those before it.
"""

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import overload

from agentmill.domains.base import Goal, Json, Scenario

Draw = Callable[[random.Random, int], tuple[str, Sequence[Goal]]]  # (generator, world_seed) -> (persona, goals)


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
    return Drawn(count, lambda i: _scenario(random.Random(f"{label} {split} {seed} {i}"), split, worlds[split], draw))


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


def _scenario(rng: random.Random, split: str, worlds: Sequence[int], draw: Draw) -> Scenario:
    world_seed = rng.choice(worlds)
    persona, goals = draw(rng, world_seed)
    content: Json = {
        "seed": rng.randrange(2**31),
        "world_seed": world_seed,
        "persona": persona,
        "goals": tuple(goals),
        "split": split,
        "max_turns": 12 + 5 * len(goals),
    }
    text = json.dumps({**content, "goals": [goal.model_dump() for goal in goals]}, sort_keys=True)
    return Scenario(sid=hashlib.sha256(text.encode()).hexdigest()[:16], **content)
