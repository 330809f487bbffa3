"""Customers who want the same slot of a shared world: one gets it, the others are offered other times.

Everybody is led to the proposal by the error-free expert, then all agree at the same moment: on separate Executors
with connections of their own, and in two processes. Real PostgreSQL, and an SQLite file.
"""

import asyncio
import multiprocessing
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from agentmill.agents.contracts import Session, TurnOutcome
from agentmill.agents.settings import TeamSettings
from agentmill.agents.team import Team
from agentmill.domains.automotive.schema import BOOKINGS
from agentmill.domains.base import Domain, Scenario, WorldSettings, load_domain
from agentmill.domains.database import new_engine
from agentmill.plans.sandbox import Sandbox
from simulation.conversation import TurnFailed, play
from tests.postgres import PostgresServer

RACES = 12
PROCESS_RACES = 8
CUSTOMERS = 8
AGREE = "Yes please."


@pytest.fixture(params=["sqlite", "postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> WorldSettings:
    """A shared world that nobody has used yet."""
    if request.param == "sqlite":
        return WorldSettings(url=f"sqlite:///{tmp_path}/world.db", shared=True)
    server: PostgresServer = request.getfixturevalue("postgres")
    return WorldSettings(url=server.new_database(tmp_path.name), shared=True)


def wishes(domain: Domain, count: int) -> list[Scenario]:
    """Scenarios that are one booking of a free slot each, all of one world and each of another slot."""
    found: dict[int, dict[Any, Scenario]] = {}
    for scenario in domain.mixes["core"](4000, 5, "train"):
        goal = scenario.goals[0]
        plain = {"stock", "day", "time", "name", "licence"} == set(goal.slots) and "booking" in goal.expect
        if len(scenario.goals) == 1 and goal.intent == "book_test_drive" and plain:
            slots = found.setdefault(scenario.world_seed, {})
            slots[tuple(goal.slots[name] for name in ("stock", "day", "time"))] = scenario
            if len(slots) == count:
                return list(slots.values())
    raise AssertionError("too few such scenarios; generate more")


def as_another(scenario: Scenario, other: Scenario) -> Scenario:
    """The same wish by the customer of another scenario."""
    goal = scenario.goals[0]
    person = {name: other.goals[0].slots[name] for name in ("name", "licence")}
    return scenario.model_copy(update={"goals": (goal.model_copy(update={"slots": {**goal.slots, **person}}),)})


async def led_to_the_proposal(team: Team, scenario: Scenario, session_id: str) -> Session:
    """A conversation whose last reply proposed the booking."""
    assert team.domain.expert is not None
    session = await team.start(session_id, scenario.world_seed)

    async def turn(utterance: str) -> TurnOutcome:
        outcome = await team.turn(session, utterance, seed=1)
        if session.state.proposed:
            raise TurnFailed("this far")
        return outcome

    await play(turn, team.domain.expert(0.0), scenario, team.domain)
    assert session.state.proposed, session.history
    return session


def judge(domain: Domain, scenario: Scenario, outcomes: Sequence[TurnOutcome], settings: WorldSettings) -> None:
    """One has the slot, in words and in the database; the others were offered other times."""
    slot = {name: scenario.goals[0].slots[name] for name in ("stock", "day", "time")}
    assert [outcome.turn.status for outcome in outcomes] == ["answered"] * len(outcomes)
    assert [outcome.turn.violations for outcome in outcomes] == [()] * len(outcomes)
    winners = [outcome for outcome in outcomes if "reference" in outcome.turn.results_json]
    assert len(winners) == 1
    for outcome in outcomes:
        if outcome is not winners[0]:
            times = set(re.findall(r"\d\d:\d\d", outcome.turn.reply))
            assert times - {slot["time"]}, outcome.turn.reply
            assert outcome.turn.reply != domain.safe_reply
    engine = new_engine(settings)
    with engine.connect() as connection:
        query = sa.select(sa.func.count()).select_from(BOOKINGS).where(BOOKINGS.c.status == "booked")
        assert connection.scalar(query.where(*(BOOKINGS.c[name] == value for name, value in slot.items()))) == 1
    engine.dispose()


async def test_of_two_customers_who_agree_at_the_same_moment_one_gets_the_slot(shared: WorldSettings) -> None:
    domain = load_domain("automotive")
    assert domain.expert is not None
    scenarios = wishes(domain, RACES)
    async with Sandbox() as one, Sandbox() as other:
        teams = [Team.local(domain, domain.expert(0.0), box, TeamSettings(world=shared)) for box in (one, other)]
        for number, scenario in enumerate(scenarios):
            rival = as_another(scenario, scenarios[number - 1])
            sessions = [
                await led_to_the_proposal(team, wish, f"{number}-{name}")
                for team, wish, name in zip(teams, (scenario, rival), "ab", strict=True)
            ]
            agreed = [team.turn(session, AGREE, seed=1) for team, session in zip(teams, sessions, strict=True)]
            judge(domain, scenario, await asyncio.gather(*agreed), shared)


async def test_of_many_customers_for_one_slot_one_gets_it(shared: WorldSettings) -> None:
    domain = load_domain("automotive")
    assert domain.expert is not None
    scenarios = wishes(domain, CUSTOMERS)
    async with Sandbox(processes=4) as sandbox:
        teams = [Team.local(domain, domain.expert(0.0), sandbox, TeamSettings(world=shared)) for _ in range(CUSTOMERS)]
        wanted = [as_another(scenarios[0], scenario) for scenario in scenarios]
        led = [led_to_the_proposal(t, w, f"c{n}") for n, (t, w) in enumerate(zip(teams, wanted, strict=True))]
        sessions = await asyncio.gather(*led)
        agreed = [team.turn(session, AGREE, seed=1) for team, session in zip(teams, sessions, strict=True)]
        judge(domain, scenarios[0], await asyncio.gather(*agreed), shared)


def test_two_processes_race_for_one_slot(shared: WorldSettings) -> None:
    domain = load_domain("automotive")
    scenarios = wishes(domain, PROCESS_RACES)
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    racers = [context.Process(target=_race, args=(name, scenarios, shared, barrier, results)) for name in "ab"]
    for racer in racers:
        racer.start()
    outcomes = [results.get(timeout=120) for _ in range(2 * PROCESS_RACES)]
    for racer in racers:
        racer.join(60)
    for number, scenario in enumerate(scenarios):
        judge(domain, scenario, [outcome for race, outcome in outcomes if race == number], shared)


def _race(name: str, scenarios: list[Scenario], shared: WorldSettings, barrier: Any, results: Any) -> None:
    """One process of two: agrees to each slot when the other is ready too."""

    async def all_races() -> None:
        domain = load_domain("automotive")
        assert domain.expert is not None
        async with Sandbox(processes=1) as sandbox:
            team = Team.local(domain, domain.expert(0.0), sandbox, TeamSettings(world=shared))
            for number, scenario in enumerate(scenarios):
                wish = scenario if name == "a" else as_another(scenario, scenarios[number - 1])
                session = await led_to_the_proposal(team, wish, f"{number}-{name}")
                await asyncio.to_thread(barrier.wait, 60)
                results.put((number, await team.turn(session, AGREE, seed=1)))

    asyncio.run(all_races())


async def test_a_database_that_goes_away_costs_the_customer_a_safe_reply_and_no_conversation() -> None:
    domain = load_domain("automotive")
    assert domain.expert is not None
    server = PostgresServer()
    try:
        shared = WorldSettings(url=server.new_database("away"), shared=True)
        (scenario,) = wishes(domain, 1)
        async with Sandbox(processes=1) as sandbox:
            team = Team.local(domain, domain.expert(0.0), sandbox, TeamSettings(world=shared))
            session = await led_to_the_proposal(team, scenario, "s")
            server.stop(at_once=True)
            away = await team.turn(session, AGREE, seed=1)
            assert (away.turn.status, away.turn.reply) == ("safe_reply", domain.safe_reply)
            assert set(away.turn.violations) == {"EXECUTION"}
            server.start()
            await team.turn(session, session.history[-2][0], seed=1)  # the last thing told before it was proposed
            assert session.state.proposed, session.history
            judge(domain, scenario, [await team.turn(session, AGREE, seed=1)], shared)
    finally:
        server.remove()
