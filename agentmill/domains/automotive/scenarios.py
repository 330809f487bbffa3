"""Scenarios that can be achieved: each is drawn from the rows of the world that it will be played in.

A generator is a pure function of (count, seed, split); scenario i depends on (split, seed, i) only, so a longer list
starts with the shorter one. Held-out scenarios play in worlds of their own (other vehicles, names and numbers).
`generate` draws from everything that the dealership does; `generate_core` from nine intents, one request at a time,
for students that are too small for more; `generate_coverage` evenly over intent, persona, difficulty and switch.
"""

import random

from agentmill.domains.automotive.context import limits_of, profile_of, topic_of
from agentmill.domains.automotive.coverage import COVERAGE, goals_of
from agentmill.domains.automotive.dealings import AllGoals
from agentmill.domains.automotive.goals import CoreGoals
from agentmill.domains.automotive.seed import HELDOUT_SEEDS, TRAIN_SEEDS, world_data
from agentmill.domains.automotive.user import POINTING
from agentmill.domains.base import Scenario
from agentmill.domains.kit.scenarios import Drawn, drawn

WORLDS = {"train": TRAIN_SEEDS, "heldout": HELDOUT_SEEDS}
PERSONAS = ("plain", "terse", "chatty", "polite", "hesitant")
_POINTING_SHARE = 0.3


def generate(count: int, seed: int, split: str) -> list[Scenario]:
    """`count` scenarios of a split ("train" or "heldout") over all intents.

    Raises:
        ValueError: for another split.
    """
    return _drawn(count, seed, split, "all", AllGoals)


def generate_core(count: int, seed: int, split: str) -> list[Scenario]:
    """The same over the core intents only."""
    return _drawn(count, seed, split, "core", CoreGoals)


def generate_coverage(count: int, seed: int, split: str) -> list[Scenario]:
    """The same evenly over the cells of `COVERAGE`, with a topic, a customer's profile and the business's limits."""

    def draw(rng: random.Random, world_seed: int, index: int) -> Drawn:
        cell = COVERAGE.cell(f"automotive {split} {seed}", index)
        data = world_data(world_seed)
        goals, customer = goals_of(rng, data, cell)
        situation, topic = topic_of(rng, goals)
        return Drawn(
            persona=cell.persona,
            goals=goals,
            topic=topic,
            profile=profile_of(rng, goals, situation, customer),
            limits=limits_of(data, goals),
            difficulty=cell.difficulty,
        )

    return drawn(count, seed, split, label="automotive scenario coverage", worlds=WORLDS, draw=draw)


def _drawn(count: int, seed: int, split: str, mix: str, goals: type[CoreGoals]) -> list[Scenario]:
    def draw(rng: random.Random, world_seed: int, index: int) -> Drawn:
        persona = rng.choice(PERSONAS)
        if goals is AllGoals and rng.random() < _POINTING_SHARE:
            persona = POINTING
        return Drawn(persona, goals(rng, world_data(world_seed)).draw())

    return drawn(count, seed, split, label=f"automotive scenario {mix}", worlds=WORLDS, draw=draw)
