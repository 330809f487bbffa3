"""Scenarios that can be achieved: each is drawn from the rows of the world that it will be played in.

A generator is a pure function of (count, seed, split); scenario i depends on (split, seed, i) only, so a longer list
starts with the shorter one. Held-out scenarios play in worlds of their own (other vehicles, names and numbers).
`generate` draws from everything that the dealership does; `generate_core` from nine intents, one request at a time,
for students that are too small for more.
"""

import random
from collections.abc import Sequence

from agentmill.domains.automotive.dealings import AllGoals
from agentmill.domains.automotive.goals import CoreGoals
from agentmill.domains.automotive.seed import HELDOUT_SEEDS, TRAIN_SEEDS, world_data
from agentmill.domains.automotive.user import POINTING
from agentmill.domains.base import Scenario
from agentmill.domains.kit.scenarios import Content, drawn

WORLDS = {"train": TRAIN_SEEDS, "heldout": HELDOUT_SEEDS}
PERSONAS = ("plain", "terse", "chatty", "polite", "hesitant")
_POINTING_SHARE = 0.3


def generate(count: int, seed: int, split: str) -> Sequence[Scenario]:
    """`count` scenarios of a split ("train" or "heldout") over all intents.

    Raises:
        ValueError: for another split.
    """
    return _drawn(count, seed, split, "all", AllGoals)


def generate_core(count: int, seed: int, split: str) -> Sequence[Scenario]:
    """The same over the core intents only."""
    return _drawn(count, seed, split, "core", CoreGoals)


def _drawn(count: int, seed: int, split: str, mix: str, goals: type[CoreGoals]) -> Sequence[Scenario]:
    def draw(rng: random.Random, world_seed: int, index: int) -> Content:
        persona = rng.choice(PERSONAS)
        if goals is AllGoals and rng.random() < _POINTING_SHARE:
            persona = POINTING
        return Content(persona, goals(rng, world_data(world_seed)).draw())

    return drawn(count, seed, split, label=f"automotive scenario {mix}", worlds=WORLDS, draw=draw)
