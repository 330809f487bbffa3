"""How scenarios are drawn in every pack: reproducibly, one by one, held-out ones in worlds of their own."""

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from agentmill.domains.base import Difficulty, Goal, Json, PlannedSwitch, Scenario

TURNS, TURNS_A_GOAL = 12, 5


@dataclass(frozen=True)
class Drawn:
    """What one scenario is about. The context vectors are empty where a mix has none."""

    persona: str
    goals: Sequence[Goal]
    topic: str = ""
    profile: Json = field(default_factory=dict)
    limits: Json = field(default_factory=dict)
    difficulty: Difficulty = "easy"
    switches: tuple[PlannedSwitch, ...] = ()


Draw = Callable[[random.Random, int, int], Drawn]  # (generator, world_seed, index) -> what it is about


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
    return [_scenario(f"{label} {split} {seed} {index}", index, split, worlds[split], draw) for index in range(count)]


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
        split=split,  # type: ignore[arg-type]  # a key of `worlds`
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
