"""The served system on a shared world in a real PostgreSQL: repeated requests, lost Executors, a database away."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
import sqlalchemy as sa

from agentmill.agents.settings import TeamSettings
from agentmill.domains.automotive.schema import BOOKINGS
from agentmill.domains.base import Domain, Scenario, WorldSettings, load_domain
from rayserve.serve import Served, start
from rayserve.settings import ServedModel, ServeSettings
from simulation.conversation import TurnFailed, play
from simulation.gateway_client import GatewayClient
from tests.integration.test_races import AGREE, wishes
from tests.integration.test_serving import kill_replica, wait_healthy
from tests.postgres import PostgresServer

CUSTOMERS = 6
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def world(postgres: PostgresServer) -> WorldSettings:
    return WorldSettings(url=postgres.new_database("served"), shared=True)


@pytest.fixture(scope="module")
def domain() -> Domain:
    return load_domain("automotive")


@pytest.fixture(scope="module")
def scenarios(domain: Domain) -> list[Scenario]:
    """Wishes in one world, which the shared one is filled with."""
    return wishes(domain, CUSTOMERS + 2)


@pytest.fixture(scope="module")
def served(ray_local: None, world: WorldSettings, domain: Domain, scenarios: list[Scenario]) -> Iterator[Served]:
    domain.open_world(scenarios[0].world_seed, "", world).close()  # the world of the wishes
    settings = ServeSettings(port=0, sessions_api=True, model=ServedModel(kind="expert"))
    served = start(settings, domain="automotive", system=TeamSettings(world=world))
    yield served
    served.stop()


async def led_to_the_proposal(served: Served, scenario: Scenario, domain: Domain) -> str:
    """A session whose last reply proposed the booking; returns its id."""
    assert domain.expert is not None
    async with GatewayClient(served.base_url) as gateway, httpx.AsyncClient(trust_env=False) as http:
        session = await gateway.open(scenario.world_seed)

        async def turn(utterance: str) -> Any:
            outcome = await gateway.turn(session, utterance, 1)
            if (await http.get(f"{served.base_url}/v1/sessions/{session}")).json()["state"]["proposed"]:
                raise TurnFailed("this far")
            return outcome

        await play(turn, domain.expert(0.0), scenario, domain)
    return session


def agree(served: Served, session: str) -> tuple[str, str]:
    """Agree with a key of its own; the status of the turn and the id of the answer."""
    headers = {"X-Session-Id": session, "Idempotency-Key": f"agree-{session}"}
    client = openai.OpenAI(base_url=f"{served.base_url}/v1", api_key="none", max_retries=0, timeout=120)
    same = {"Authorization": openai.Omit()}  # the session belongs to a client without a key
    answer = client.chat.completions.create(
        model="agentmill", messages=[{"role": "user", "content": AGREE}], extra_headers={**headers, **same}
    )
    return str((answer.model_extra or {})["agentmill"]["status"]), answer.id


def booked(world: WorldSettings, scenario: Scenario) -> int:
    """How often a wish is booked."""
    slots = scenario.goals[0].slots
    engine = sa.create_engine(world.url)
    query = sa.select(sa.func.count()).select_from(BOOKINGS).where(BOOKINGS.c.origin == "session")
    with engine.connect() as connection:
        names = ("stock", "day", "time")
        count = connection.scalar(query.where(*(BOOKINGS.c[name] == slots[name] for name in names)))
    engine.dispose()
    return int(count or 0)


async def test_a_session_outlives_its_executor_and_a_repeated_turn_books_once(
    served: Served, world: WorldSettings, domain: Domain, scenarios: list[Scenario]
) -> None:
    session = await led_to_the_proposal(served, scenarios[0], domain)
    kill_replica("Executor")
    first = await asyncio.to_thread(agree, served, session)
    assert first[0] == "answered"
    assert await asyncio.to_thread(agree, served, session) == first
    assert booked(world, scenarios[0]) == 1
    await asyncio.to_thread(wait_healthy, served)


async def test_turns_in_which_the_executor_dies_book_once_or_not_at_all(
    served: Served, world: WorldSettings, domain: Domain, scenarios: list[Scenario]
) -> None:
    wanted = scenarios[1 : CUSTOMERS + 1]
    sessions = [await led_to_the_proposal(served, scenario, domain) for scenario in wanted]
    agreeing = [asyncio.create_task(asyncio.to_thread(agree, served, session)) for session in sessions]
    await asyncio.sleep(0.05)
    kill_replica("Executor")
    statuses = [status for status, _ in await asyncio.gather(*agreeing)]
    assert set(statuses) <= {"answered", "safe_reply"}
    assert statuses.count("answered") >= CUSTOMERS - 1  # none waits longer than for the next replica
    for scenario, status in zip(wanted, statuses, strict=True):
        assert booked(world, scenario) == 1 if status == "answered" else booked(world, scenario) <= 1
    await asyncio.to_thread(wait_healthy, served)


async def test_a_database_that_is_away_shows_in_health_and_costs_a_safe_reply(
    served: Served, postgres: PostgresServer, domain: Domain, scenarios: list[Scenario], world: WorldSettings
) -> None:
    session = await led_to_the_proposal(served, scenarios[-1], domain)
    postgres.stop(at_once=True)
    try:
        status, _ = await asyncio.to_thread(agree, served, session)
        assert status == "safe_reply"
        async with httpx.AsyncClient(base_url=served.base_url, trust_env=False, timeout=60) as http:
            health = await http.get("/health")
            assert (health.status_code, health.json()["parts"]["executor"]) == (503, "failed: WorldUnavailable")
            new = {"model": "agentmill", "messages": [{"role": "user", "content": "Hello"}]}
            refused = await http.post(CHAT, json=new)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "world_unavailable")
    finally:
        postgres.start()
    await asyncio.to_thread(wait_healthy, served)
    again = await led_to_the_proposal(served, scenarios[-1], domain)
    assert (await asyncio.to_thread(agree, served, again))[0] == "answered"
    assert booked(world, scenarios[-1]) == 1
