"""A real PostgreSQL server for tests: its own data folder, a free port on loopback, its own socket folder.

The programs are those that are installed; where there are none, Debian's package is installed if we may. PostgreSQL
refuses to run as root, so as root it runs as the system user `postgres` or `nobody`. Invariant: only the server that
was started here is stopped.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

USER = "agentmill"
PROGRAMS = ("initdb", "postgres")


class NoServer(Exception):
    """There can be no server here; the message says why."""


class PostgresServer:
    """One server. `stop` and `start` may alternate: the data stays until `remove`."""

    def __init__(self) -> None:
        self._programs = find_programs()
        self._owner = _owner()
        self._root = Path(tempfile.mkdtemp(prefix="agentmill-postgres-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()
        if self._owner is not None:
            os.chown(self._root, self._owner.pw_uid, self._owner.pw_gid)
        try:
            self._make_data()
            self.start()
        except BaseException:
            self.remove()
            raise

    def url(self, database: str = "postgres") -> str:
        """The SQLAlchemy URL of one of its databases."""
        return f"postgresql+psycopg://{USER}@127.0.0.1:{self.port}/{database}"

    def new_database(self, name: str) -> str:
        """Make an empty database and return its URL."""
        import psycopg

        with psycopg.connect(host="127.0.0.1", port=self.port, user=USER, dbname="postgres", autocommit=True) as raw:
            raw.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [self._programs / "postgres", "-D", self._root / "data", "-p", self.port, "-k", self._root]
        fast = ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=200"]
        with (self._root / "server.log").open("ab") as log:
            self._process = self._spawn([*map(str, command), *fast], log.fileno())
        deadline = time.monotonic() + 60
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise NoServer(f"PostgreSQL did not start: {(self._root / 'server.log').read_text()[-500:]}")
            time.sleep(0.05)

    def stop(self, *, at_once: bool = False) -> None:
        """Stop it: connections are ended; `at_once` as a machine that loses its power."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT if at_once else signal.SIGINT)
            self._process.wait(60)
            self._process = None

    def remove(self) -> None:
        """Stop it and delete its data."""
        self.stop(at_once=True)
        shutil.rmtree(self._root, ignore_errors=True)

    def _make_data(self) -> None:
        """A cluster whose own sort order is a language's, as on most real servers."""
        plain = [str(self._programs / "initdb"), "-D", str(self._root / "data"), "-U", USER, "-A", "trust", "--no-sync"]
        icu = ["--locale-provider=icu", "--icu-locale=en-US", "--encoding=UTF8"]
        with (self._root / "initdb.log").open("wb") as log:
            for options in (icu, ["--encoding=UTF8"]):
                if self._spawn([*plain, *options], log.fileno()).wait(120) == 0:
                    return
        raise NoServer(f"initdb failed: {(self._root / 'initdb.log').read_text()[-500:]}")

    def _spawn(self, command: list[str], log: int) -> "subprocess.Popen[bytes]":
        owner = self._owner
        return subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            cwd=self._root,
            user=owner.pw_uid if owner else None,
            group=owner.pw_gid if owner else None,
            extra_groups=[] if owner else None,
            start_new_session=True,  # so that Ctrl-C reaches pytest, which stops it in order
        )

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(host="127.0.0.1", port=self.port, user=USER, dbname="postgres", connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True


def find_programs() -> Path:
    """The folder of PostgreSQL's server programs; Debian's package is installed where there is none and we may.

    Raises:
        NoServer: when there is none and it cannot be installed.
    """
    folder = _installed()
    if folder is None:
        _install()
        folder = _installed()
    if folder is None:
        raise NoServer("PostgreSQL's initdb and postgres were not found, not even after installing Debian's package")
    return folder


def _installed() -> Path | None:
    config = shutil.which("pg_config")
    told = [Path(subprocess.run([config, "--bindir"], capture_output=True, text=True).stdout.strip())] if config else []
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)
    folders = [*told, *debian]
    return next((folder for folder in folders if all((folder / name).is_file() for name in PROGRAMS)), None)


def _install() -> None:
    if shutil.which("apt-get") is None:
        raise NoServer("PostgreSQL's server programs are not installed, and there is no apt-get to install them with")
    if os.geteuid() != 0:
        raise NoServer("PostgreSQL's server programs are not installed; `apt-get install postgresql` needs root")
    # RUNLEVEL keeps the package from starting a server of its own.
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", "postgresql"]):
        done = subprocess.run(["apt-get", *command], env=quiet, capture_output=True, text=True, timeout=600)
        if done.returncode:
            raise NoServer(f"apt-get {command[0]} failed: {done.stderr.strip()[-300:]}")


def _owner() -> pwd.struct_passwd | None:
    """Who runs the server: None for ourselves, another user where we are root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise NoServer("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
