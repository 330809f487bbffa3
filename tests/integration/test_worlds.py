"""Worlds in SQLite and in a real PostgreSQL: the same promises and the same results, private and shared."""

import asyncio
import itertools
import time
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from agentmill.agents.contracts import ExecutorResult, ExecutorTask, WorldUnavailable
from agentmill.agents.executor import Executor
from agentmill.agents.settings import TeamSettings
from agentmill.agents.state import DialogueState
from agentmill.agents.team import Team
from agentmill.config import ConfigError
from agentmill.domains.base import Domain, Json, Scenario, WorldSettings, load_domain
from agentmill.domains.database import CONNECTIONS, MEMORY, SENTENCES, check_database
from agentmill.domains.schemas import ABANDONED_S
from agentmill.domains.sql import SqlWorlds
from agentmill.plans.sandbox import Sandbox
from simulation.conversation import play
from tests.clinic import NAMES, TAKE_PLAN, Clinic, book_hour, clinic, load, take_place
from tests.postgres import PostgresServer

SCENARIOS = 25
CONFIRMED = DialogueState(intent="visit", confirmed=True)
_numbers = itertools.count()


@pytest.fixture(params=["sqlite", "postgresql"])
def private(request: pytest.FixtureRequest) -> WorldSettings:
    """Where private worlds live."""
    if request.param == "sqlite":
        return WorldSettings()
    server: PostgresServer = request.getfixturevalue("postgres")
    return WorldSettings(url=server.new_database(f"private_{next(_numbers)}"))


@pytest.fixture(params=["sqlite", "postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> WorldSettings:
    """A shared world that nobody has used yet."""
    if request.param == "sqlite":
        return WorldSettings(url=f"sqlite:///{tmp_path}/world.db", shared=True)
    server: PostgresServer = request.getfixturevalue("postgres")
    return WorldSettings(url=server.new_database(f"shared_{next(_numbers)}"), shared=True)


def task(plan: str, session: str = "s", key: str = "") -> ExecutorTask:
    return ExecutorTask(session=session, plan=plan, state=CONFIRMED, key=key)


def schemas(settings: WorldSettings) -> list[str]:
    """The private worlds on a server."""
    engine = sa.create_engine(settings.url)
    names = [name for name in sa.inspect(engine).get_schema_names() if name.startswith("world_")]
    engine.dispose()
    return names


def test_a_private_world_is_the_seeded_one_sorted_by_bytes(private: WorldSettings) -> None:
    world = Clinic(7, "s", private)
    snapshot = world.snapshot()
    assert [row["name"] for row in snapshot["doctors"]] == sorted(NAMES, key=str.encode) != list(NAMES)
    assert snapshot["notes"] == [{"id": 1, "text": "first"}, {"id": 2, "text": "seed 7"}]
    assert world.facts() == {"places": 4}
    world.close()


def test_commit_keeps_and_rollback_undoes_everything_the_log_included(private: WorldSettings) -> None:
    world = Clinic(1, "s", private)
    before = world.snapshot()
    take_place.function(world, doctor="Zoe", patient="Ana")
    world.record("take_place", {"patient": "Ana"})
    world.keep("s:1", {"done": {"taken": True}})
    world.rollback()
    assert world.snapshot() == before
    assert world.recall("s:1") is None
    world.rollback()
    take_place.function(world, doctor="Zoe", patient="Ana")
    world.record("take_place", {"patient": "Ana"})
    world.keep("s:1", {"done": {"taken": True}})
    world.commit()
    after = world.snapshot()
    assert [row["text"] for row in after["notes"]] == ["first", "seed 1", "Ana"]  # with a gap before it in PostgreSQL
    assert after["activity"] == world.activity() == [{"tool": "take_place", "arguments": {"patient": "Ana"}}]
    assert world.recall("s:1") == {"done": {"taken": True}}
    assert world.facts() == {"places": 3}
    world.close()


def test_foreign_keys_and_lengths_are_the_databases_business_and_cost_only_the_plan(private: WorldSettings) -> None:
    world = Clinic(1, "s", private)
    with pytest.raises(sa.exc.IntegrityError):
        book_hour.function(world, hour=9, doctor="Nobody", patient="Ana")
    world.rollback()
    assert book_hour.function(world, hour=9, doctor="Zoe", patient="Ana") == {"hour": 9}
    world.close()


def test_private_worlds_do_not_see_each_other_and_leave_nothing_behind(private: WorldSettings) -> None:
    one, other = Clinic(1, "a", private), Clinic(1, "b", private)
    take_place.function(one, doctor="Zoe", patient="Ana")
    one.commit()
    assert one.facts() == {"places": 3}
    assert other.facts() == {"places": 4}
    if private.url != MEMORY:
        assert len(schemas(private)) == 2
    one.close()
    other.close()
    assert private.url == MEMORY or schemas(private) == []


async def test_many_private_worlds_work_at_the_same_time(private: WorldSettings) -> None:
    async with Sandbox() as sandbox:
        executor = Executor(clinic(), sandbox, private)

        async def visit(number: int) -> Json:
            await executor.open(f"s{number}", 1)
            for _ in range(2):
                await executor.run(task(TAKE_PLAN.format(patient=f"P{number}"), f"s{number}"))
            snapshot = await executor.snapshot(f"s{number}")
            await executor.close(f"s{number}")
            return snapshot

        snapshots = await asyncio.gather(*map(visit, range(4 * CONNECTIONS)))
    assert [s["notes"][2:] for s in snapshots] == [[{"id": 3, "text": f"P{n}"}] for n in range(4 * CONNECTIONS)]
    assert private.url == MEMORY or schemas(private) == []


def test_a_world_that_a_killed_process_left_behind_is_dropped_a_day_later(postgres: PostgresServer) -> None:
    settings = WorldSettings(url=postgres.new_database("abandoned"))
    old, young = int(time.time()) - ABANDONED_S - 9, int(time.time()) - 9
    engine = sa.create_engine(settings.url)
    with engine.begin() as connection:
        for name in (f"world_{old}_x", f"world_{young}_x", "world_of_cars"):
            connection.execute(sa.schema.CreateSchema(name))
    engine.dispose()
    Clinic(1, "s", settings).close()
    assert sorted(schemas(settings)) == [f"world_{young}_x", "world_of_cars"]


def test_a_seeded_schema_of_other_rows_is_not_copied_from(postgres: PostgresServer) -> None:
    settings = WorldSettings(url=postgres.new_database("versions"))
    Clinic(1, "s", settings).close()

    def fewer(connection: sa.Connection, world_seed: int) -> None:
        load(connection, world_seed)
        connection.execute(sa.delete(Clinic.worlds.metadata.tables["notes"]))

    class Newer(Clinic):
        worlds = SqlWorlds(_copied(Clinic.worlds.metadata), fewer)

    world = Newer(1, "s", settings)
    assert world.snapshot()["notes"] == []
    world.close()


def _copied(metadata: sa.MetaData) -> sa.MetaData:
    copy = sa.MetaData()
    for table in metadata.tables.values():
        if table.name not in ("activity", "executions"):
            table.to_metadata(copy)
    return copy


def test_a_shared_world_is_filled_once_and_seen_by_all(shared: WorldSettings) -> None:
    one, other = Clinic(1, "a", shared), Clinic(2, "b", shared)
    take_place.function(one, doctor="Zoe", patient="Ana")
    one.record("take_place", {})
    one.commit()
    assert other.facts() == {"places": 3}
    assert [row["text"] for row in other.snapshot()["notes"]] == ["first", "seed 1", "Ana"]
    assert other.activity() == []
    for world in (one, other):
        world.close()


def test_a_shared_world_of_an_older_version_is_refused_before_it_is_used(shared: WorldSettings) -> None:
    engine = sa.create_engine(shared.url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE doctors (name VARCHAR(20) PRIMARY KEY)")
    engine.dispose()
    with pytest.raises(ConfigError, match="table doctors has no column places"):
        Clinic(1, "a", shared)


async def test_a_key_protects_a_plan_from_running_twice_even_at_the_same_moment(shared: WorldSettings) -> None:
    plan = task(TAKE_PLAN.format(patient="Ana"), key="s:1")
    async with Sandbox() as sandbox:
        executors = [Executor(clinic(), sandbox, shared) for _ in range(2)]
        for executor in executors:
            await executor.open("s", 1)
        results = await asyncio.gather(*(executor.run(plan) for executor in executors for _ in range(3)))
        snapshot = await executors[0].snapshot("s")
    assert [result.error for result in results] == [None] * 6
    assert [result.results for result in results] == [{"free": {"places": 1}, "done": {"taken": True}}] * 6
    assert [row["text"] for row in snapshot["notes"]][2:] == ["Ana"]


async def test_of_many_who_look_first_and_write_then_exactly_one_gets_the_last_place(shared: WorldSettings) -> None:
    async with Sandbox(processes=4) as sandbox:
        executors = [Executor(clinic(), sandbox, shared) for _ in range(3)]
        for executor, name in itertools.product(executors, "abc"):
            await executor.open(name, 1)

        async def visit(executor: Executor, name: str) -> ExecutorResult:
            return await executor.run(task(TAKE_PLAN.format(patient=name), name))

        results = await asyncio.gather(*itertools.starmap(visit, itertools.product(executors, "abc")))
        snapshot = await executors[0].snapshot("a")
    assert [result.error for result in results] == [None] * 9
    assert sorted(str(result.results) for result in results) == sorted(
        ["{'free': {'places': 1}, 'done': {'taken': True}}"] + ["{'free': {'places': 0}}"] * 8
    )
    assert next(row["places"] for row in snapshot["doctors"] if row["name"] == "Zoe") == 0
    assert len(snapshot["notes"]) == 3


async def test_a_value_that_stays_taken_ends_in_a_sentence_without_sql(shared: WorldSettings) -> None:
    plan = 'done = book_hour(hour=9, doctor="Zoe", patient="Secret")'
    async with Sandbox() as sandbox:
        executor = Executor(clinic(), sandbox, shared)
        await executor.open("s", 1)
        assert (await executor.run(task(plan))).error is None
        assert (await executor.run(task(plan))).error == SENTENCES["conflict"]
        wrong = await executor.run(task('done = book_hour(hour=10, doctor="Nobody", patient="Secret")'))
    assert wrong.error == SENTENCES["refused"]


async def test_a_plan_that_waits_for_a_lock_holds_up_neither_the_loop_nor_its_holder(postgres: PostgresServer) -> None:
    """One of ours waits for a transaction of ours that waits for the event loop: on one thread nobody would move."""
    settings = WorldSettings(url=postgres.new_database("locks"), shared=True)
    async with Sandbox(processes=4) as sandbox:
        executor = Executor(clinic(), sandbox, settings)
        held, waiting = asyncio.Event(), asyncio.Event()
        await executor.open("holder", 1)
        holder = Clinic(1, "holder", settings)
        take_place.function(holder, doctor="Zoe", patient="Ana")  # the row is locked until we commit

        async def commit_later() -> None:
            held.set()
            await waiting.wait()
            await asyncio.sleep(0.3)
            holder.commit()

        async def wait() -> list[ExecutorResult]:
            await held.wait()
            waiting.set()
            names = [f"w{number}" for number in range(2 * CONNECTIONS)]
            await asyncio.gather(*(executor.open(name, 1) for name in names))
            began = time.monotonic()
            results = await asyncio.gather(
                *(executor.run(task(TAKE_PLAN.format(patient=name), name)) for name in names)
            )
            assert time.monotonic() - began < 4
            return results

        _, results = await asyncio.gather(commit_later(), wait())
    assert [result.error for result in results] == [None] * 2 * CONNECTIONS
    assert {str(result.results) for result in results} == {"{'free': {'places': 0}}"}


async def test_a_lock_that_is_never_released_costs_the_plan_and_not_the_executor(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentmill.agents.executor.RACES", 2)
    settings = WorldSettings(url=postgres.new_database("stuck") + "?options=-c%20lock_timeout%3D200ms", shared=True)
    async with Sandbox() as sandbox:
        executor = Executor(clinic(), sandbox, settings)
        await executor.open("s", 1)
        holder = Clinic(1, "holder", settings)
        take_place.function(holder, doctor="Zoe", patient="Ana")
        assert (await executor.run(task(TAKE_PLAN.format(patient="Eve")))).error == SENTENCES["conflict"]
        holder.rollback()
        assert (await executor.run(task(TAKE_PLAN.format(patient="Eve")))).error is None


async def test_a_cancelled_plan_gives_its_lock_and_its_connection_back(postgres: PostgresServer) -> None:
    settings = WorldSettings(url=postgres.new_database("cancelled"), shared=True)
    async with Sandbox() as sandbox:
        executor = Executor(clinic(), sandbox, settings)
        await executor.open("s", 1)
        for delay in (0.0, 0.001, 0.002, 0.004, 0.008) * 4:
            running = asyncio.create_task(executor.run(task(TAKE_PLAN.format(patient="Ana"))))
            await asyncio.sleep(delay)
            running.cancel()
            await asyncio.wait([running])
        assert Clinic.worlds.server(settings).pool.checkedout() == 0  # type: ignore[attr-defined]
        assert (await executor.run(task(TAKE_PLAN.format(patient="Eve")))).error is None
        assert (await executor.snapshot("s"))["doctors"][1]["places"] == 0


async def test_a_server_that_goes_away_costs_turns_and_no_session() -> None:
    server = PostgresServer()
    try:
        settings = WorldSettings(url=server.new_database("away"), shared=True)
        async with Sandbox() as sandbox:
            executor = Executor(clinic(), sandbox, settings)
            assert await executor.open("s", 1) == {"places": 4}
            assert (await executor.run(task(TAKE_PLAN.format(patient="Ana"), key="s:1"))).error is None
            server.stop(at_once=True)
            lost = await executor.run(task(TAKE_PLAN.format(patient="Eve"), key="s:2"))
            assert (lost.error, lost.results, lost.facts) == (SENTENCES["unavailable"], {}, None)
            for action in (executor.open("t", 1), executor.snapshot("s"), executor.ping()):
                with pytest.raises(WorldUnavailable):
                    await action
            server.start()
            await executor.ping()
            again = await executor.run(task(TAKE_PLAN.format(patient="Eve"), key="s:2"))
            assert (again.error, again.results, again.facts) == (None, {"free": {"places": 0}}, {"places": 3})
            await executor.open("t", 1)
            server.stop()
            await executor.close("t")
    finally:
        server.remove()


async def test_a_private_world_whose_server_is_away_is_closed_all_the_same() -> None:
    server = PostgresServer()
    try:
        async with Sandbox() as sandbox:
            executor = Executor(clinic(), sandbox, WorldSettings(url=server.new_database("away")))
            await executor.open("s", 1)
            server.stop(at_once=True)
            await executor.close("s")
            server.start()
            assert await executor.open("s", 1) == {"places": 4}
    finally:
        server.remove()


@pytest.mark.parametrize("split", ["train", "heldout"])
async def test_the_same_scenarios_end_in_the_same_world_in_both_databases(postgres: PostgresServer, split: str) -> None:
    domain = load_domain("automotive")
    scenarios = list(domain.scenarios(SCENARIOS, 31, split))
    embedded = await played(domain, scenarios, WorldSettings())
    server = await played(domain, scenarios, WorldSettings(url=postgres.new_database(f"scenarios_{split}")))
    assert server == embedded
    assert all(domain.assess(s, world).success for s, (world, _) in zip(scenarios, server, strict=True))


async def played(domain: Domain, scenarios: list[Scenario], worlds: WorldSettings) -> list[tuple[Json, list[str]]]:
    """The world and the replies that each scenario ends with."""
    assert domain.expert is not None
    expert = domain.expert(0.0)
    async with Sandbox() as sandbox:
        team = Team.local(domain, expert, sandbox, TeamSettings(world=worlds))

        async def one(scenario: Scenario) -> tuple[Json, list[str]]:
            session = await team.start(scenario.sid, scenario.world_seed)
            said = await play(partial(team.turn, session, seed=1), expert, scenario, domain)
            world = await team.executor.snapshot(scenario.sid)
            await team.executor.close(scenario.sid)
            return world, [turn.reply for turn in said.turns]

        return list(await asyncio.gather(*map(one, scenarios)))


def test_a_database_that_does_not_answer_is_said_before_anything_starts(postgres: PostgresServer) -> None:
    check_database(WorldSettings(url=postgres.url()))
    for wrong in (postgres.url("nothing_there"), "postgresql+psycopg://agentmill@127.0.0.1:1/x"):
        with pytest.raises(ConfigError, match=r"system\.world\.url=.*does not answer \(.*\); start the server"):
            check_database(WorldSettings(url=wrong))
