"""Worlds: the same for the same seed, apart from each other, undone and kept as a transaction, and truly assessed.

Only what every World offers is used, so a rollback is tried with the log of calls and with a plan's noted results.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from agentmill.domains.base import Domain, Json, Scenario, World, WorldSettings
from agentmill.domains.check.finding import Finding, shortened

PROBED, ASSESSED = 4, 100
UNDONE, KEPT, NOTE = "check:0", "check:1", {"seen": True}


def world_findings(domain: Domain) -> Iterator[Finding]:
    """What a few worlds of each split show."""
    drawn = [*domain.scenarios(ASSESSED, 0, "train"), *domain.scenarios(ASSESSED, 0, "heldout")]
    seeds = list(dict.fromkeys(scenario.world_seed for scenario in drawn))
    for seed in dict.fromkeys([*seeds[:PROBED], *seeds[-PROBED:]]):
        sound = True
        for finding in _of_world(domain, seed):
            sound = False
            yield finding
        if not sound:
            break  # the other worlds would show the same
    yield from shortened("assess", _assessed(domain, drawn))


def _of_world(domain: Domain, seed: int) -> Iterator[Finding]:
    about = f"world {seed}"
    with opened(domain, seed, "check-one") as one, opened(domain, seed, "check-two") as two:
        first, second = shown(one), shown(two)
        try:
            json.dumps(first, allow_nan=False)
        except (TypeError, ValueError) as error:
            yield Finding(
                about, f"its facts or snapshot are no JSON ({error}), and they travel as such; return plain values"
            )
        if first != second:
            yield Finding(
                about, "opened twice it is not the same, so no end could be expected of it; fill it from the seed alone"
            )
        yield from _undone(domain, about, one)
        yield from _kept(domain, about, one)
        if shown(two) != second:
            yield Finding(
                about, "what one conversation does shows in another's copy; give every session a world of its own"
            )


def _undone(domain: Domain, about: str, world: World) -> Iterator[Finding]:
    before = shown(world)
    world.record(next(iter(domain.tools)), {})
    world.keep(UNDONE, NOTE)
    world.rollback()
    if shown(world) != before or world.recall(UNDONE) is not None:
        yield Finding(
            about, "rollback leaves something behind, and a refused plan must leave nothing; use one transaction"
        )
    world.rollback()


def _kept(domain: Domain, about: str, world: World) -> Iterator[Finding]:
    before = shown(world)
    world.record(next(iter(domain.tools)), {})
    world.keep(KEPT, NOTE)
    world.commit()
    world.rollback()
    if world.recall(KEPT) != NOTE:
        yield Finding(
            about, "commit does not keep a plan's noted results, so a retried turn would act twice; commit them"
        )
    if shown(world) == before:
        told = "a recorded tool call does not show in the snapshot, and assess sees nothing else; put the log into it"
        yield Finding(about, told)
    world.rollback()


def _assessed(domain: Domain, scenarios: list[Scenario]) -> Iterator[Finding]:
    """A world in which nothing happened is no success where a goal needs a plan."""
    for scenario in scenarios:
        planned = [goal.intent for goal in scenario.goals if domain.intents[goal.intent].tools]
        changing = [name for name in planned if domain.intents[name].needs_confirmation]
        if not planned:
            continue
        with opened(domain, scenario.world_seed, scenario.sid) as world:
            accepted = domain.assess(scenario, world.snapshot()).success
        if accepted:
            told = "an untouched world is accepted, so any reply would count as success; look at the end state"
            yield Finding("assess", f"scenario {scenario.sid} ({', '.join(planned)}): {told}", error=bool(changing))


@contextmanager
def opened(domain: Domain, seed: int, session: str) -> Iterator[World]:
    """A fresh private world, closed at the end."""
    world = domain.open_world(seed, session, WorldSettings())
    try:
        yield world
    finally:
        world.close()


def shown(world: World) -> Json:
    """What a world shows; ends the transaction that reading began."""
    state = {"facts": world.facts(), "snapshot": world.snapshot()}
    world.rollback()
    return state
