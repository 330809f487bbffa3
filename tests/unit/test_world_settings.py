"""Where worlds may live: what is wrong with a URL is said before anything is started, and no password is shown."""

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from agentmill.config import ConfigError
from agentmill.domains.base import WorldSettings
from agentmill.domains.database import SENTENCES, FaultKind, check_database, checked_url, fault_of, new_engine
from cluster.cli import app
from cluster.config import check_worlds, read_config
from rayserve.preflight import check_worlds as check_served_worlds
from tests.clinic import Clinic

LOCAL = Path("configs/local.yaml")
WRONG = {
    "nonsense": ("nonsense", "is no database URL"),
    "a port that is no number": ("postgresql+psycopg://a@h:port/x", "is no database URL"),
    "another database": ("mysql://h/x", "'mysql' is neither; write postgresql"),
    "another driver": ("postgresql+asyncpg://a@h/x", "'postgresql\\+asyncpg' is neither"),
    "no driver": ("postgresql://a@h/x", "'postgresql' is neither"),
    "a password": ("postgresql+psycopg://a:hush@h/x", "holds a password.*PGPASSWORD"),
    "a password in the query": ("postgresql+psycopg://a@h/x?password=hush", "holds a password"),
    "a private file": ("sqlite:////tmp/x.db", "set system.world.shared=true"),
    "memory by another name": ("sqlite:///:memory:", "has the URL sqlite://;"),
}


@pytest.mark.parametrize("case", WRONG, ids=list(WRONG))
def test_a_url_that_cannot_be_used_is_said_with_the_remedy_and_without_a_password(case: str) -> None:
    url, message = WRONG[case]
    with pytest.raises(ConfigError, match=message) as error:
        check_database(WorldSettings(url=url))
    assert str(error.value).startswith("system.world.url")
    assert "hush" not in str(error.value)


def test_a_shared_file_has_an_absolute_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="four slashes"):
        checked_url(WorldSettings(url="sqlite:///world.db", shared=True))
    assert checked_url(WorldSettings(url=f"sqlite:///{tmp_path}/world.db", shared=True)).database


def test_a_driver_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"install agentmill\[postgres\]"):
        checked_url(WorldSettings(url="postgresql+psycopg://a@h/x"))


def test_a_run_and_serving_say_it_before_they_start(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    nowhere = "system.world.url=postgresql+psycopg://a@127.0.0.1:1/x"
    with pytest.raises(ConfigError, match="does not answer"):
        app(["run", str(LOCAL), "--dry-run", "--set", nowhere, "--runs", str(tmp_path)], standalone_mode=False)
    with pytest.raises(ConfigError, match="does not answer"):
        app(["serve", "--config", str(LOCAL), "--port", "0", "--set", "serve.model.kind=expert", "--set", nowhere],
            standalone_mode=False)  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_a_run_refuses_a_shared_world_and_serving_makes_its_tables(tmp_path: Path) -> None:
    file = f"system.world.url=sqlite:///{tmp_path}/world.db"
    config = read_config(LOCAL, [file, "system.world.shared=true"])
    with pytest.raises(ConfigError, match=r"system\.world\.shared=true: .* give it to `agentmill serve`"):
        check_worlds(config)
    check_served_worlds(config.system.world, config.domain)
    assert new_engine(config.system.world).connect().exec_driver_sql("SELECT count(*) FROM vehicles").scalar()


def test_serving_says_that_a_shared_world_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the tables cannot be made or filled \(unable to open"):
        check_served_worlds(WorldSettings(url=f"sqlite:///{tmp_path}/no/world.db", shared=True), "automotive")


class _Raised(Exception):
    def __init__(self, sqlstate: str | None) -> None:
        super().__init__("secret detail")
        self.sqlstate = sqlstate


def postgres_error(kind: type[DBAPIError], state: str | None) -> DBAPIError:
    return kind("SELECT secret", {}, _Raised(state))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (postgres_error(OperationalError, "40001"), "conflict"),
        (postgres_error(OperationalError, "40P01"), "conflict"),
        (postgres_error(OperationalError, "55P03"), "conflict"),
        (postgres_error(IntegrityError, "23505"), "conflict"),
        (postgres_error(IntegrityError, "23503"), "refused"),
        (postgres_error(ProgrammingError, "42P01"), "refused"),
        (postgres_error(OperationalError, "57P01"), "unavailable"),
        (postgres_error(OperationalError, "53300"), "unavailable"),
        (postgres_error(OperationalError, None), "unavailable"),
        (PoolTimeout("no connection"), "unavailable"),
    ],
)
def test_an_error_becomes_a_sentence_that_tells_nothing_of_the_database(error: DBAPIError, kind: FaultKind) -> None:
    fault = fault_of(error)
    assert fault.kind == kind
    assert "secret" not in fault.sentence
    assert fault.sentence == SENTENCES[kind]


def test_processes_that_open_a_new_file_at_the_same_moment_wait_for_each_other(tmp_path: Path) -> None:
    for number in range(20):
        settings = WorldSettings(url=f"sqlite:///{tmp_path}/{number}.db", shared=True)
        ready = threading.Barrier(8)

        def opened(settings: WorldSettings = settings, ready: threading.Barrier = ready) -> None:
            engine = new_engine(settings)
            ready.wait()
            with engine.begin():
                pass
            engine.dispose()

        with ThreadPoolExecutor(8) as threads:
            for done in [threads.submit(opened) for _ in range(8)]:
                done.result()


def test_sqlites_own_errors_are_told_apart(tmp_path: Path) -> None:
    settings = WorldSettings(url=f"sqlite:///{tmp_path}/world.db", shared=True)
    world = Clinic(1, "s", settings)
    kinds = []
    for statement in (
        "INSERT INTO doctors VALUES ('Zoe', 1)",
        "INSERT INTO appointments VALUES (9, 'Nobody', 'Ana')",
        "INSERT INTO nothing VALUES (1)",
    ):
        with pytest.raises(DBAPIError) as error:
            world.connection.exec_driver_sql(statement)
        kinds.append(fault_of(error.value).kind)
        world.rollback()
    assert kinds == ["conflict", "refused", "refused"]
    busy = sqlite3.connect(tmp_path / "world.db", isolation_level=None)
    busy.execute("BEGIN IMMEDIATE")
    short = WorldSettings(url=f"sqlite:///{tmp_path}/world.db?timeout=0.01", shared=True)
    with pytest.raises(OperationalError) as locked:
        Clinic(1, "s", short)
    assert fault_of(locked.value).kind == "conflict"
    busy.close()
    world.close()
