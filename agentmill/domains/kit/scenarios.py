"""How scenarios are drawn in every pack: reproducibly, one by one, held-out ones in worlds of their own."""

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence

from agentmill.domains.base import Goal, Json, Scenario

Draw = Callable[[random.Random, int], tuple[str, Sequence[Goal]]]  # (generator, world_seed) -> (persona, goals)


def drawn(
    count: int, seed: int, split: str, *, label: str, worlds: Mapping[str, Sequence[int]], draw: Draw
) -> list[Scenario]:
    """`count` scenarios of a split; scenario i depends on (label, split, seed, i) only. `worlds` are seeds by split.

    Raises:
        ValueError: for a split that has no worlds.
    """
    if split not in worlds:
        known = " or ".join(f'"{name}"' for name in worlds)
        raise ValueError(f"split={split!r} is unknown: scenarios are made for {known}")
    return [_scenario(random.Random(f"{label} {split} {seed} {i}"), split, worlds[split], draw) for i in range(count)]


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
