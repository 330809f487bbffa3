"""The run directory: what was asked, what was measured, what is finished.

`run.json` holds the resolved configuration, commit, versions and hardware; `figures.json` every figure by its dotted
name with n, interval and the command that made it; `stages/<stage>.json` marks a finished stage. Invariant: each of
these files, and every artefact written through `atomic_dir`, is there whole or not at all, whenever a writer is killed.
"""

import fcntl
import hashlib
import json
import math
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import NormalDist
from typing import Any

from pydantic import BaseModel, ConfigDict

from agentmill.errors import UserError

Scalar = bool | int | float | str


class RunError(UserError):
    """A run directory that is missing, not a run, or in use. The message says what to do."""


class Figure(BaseModel):
    """One recorded figure. `n` and the 95 % `interval` are there where the value is a rate or a mean."""

    model_config = ConfigDict(frozen=True)

    value: Scalar
    n: int | None = None
    interval: tuple[float, float] | None = None
    unit: str = ""
    command: str
    recorded: str


class StageMark(BaseModel):
    """That a stage is finished: from which inputs, when, in how many seconds. `info` is the stage's own."""

    model_config = ConfigDict(frozen=True)

    stage: str
    inputs_digest: str
    seconds: float
    completed: str
    info: dict[str, Any] = {}

    @property
    def digest(self) -> str:
        """What later stages depend on: this very completion."""
        return digest_json(self.model_dump(mode="json"))


class Run:
    """A run directory. Make or continue one with `Run.create`, read one with `Run.open`."""

    def __init__(self, root: Path, manifest: dict[str, Any]) -> None:
        self.root = root
        self.manifest = manifest

    @classmethod
    def create(cls, root: Path | str, config: Mapping[str, Any], command: str) -> "Run":
        """Make the directory or continue it, and write run.json: configuration, commit, versions, hardware."""
        from agentmill.lineage import describe_machine, git_commit, package_versions

        folder = Path(root).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        manifest = {
            "name": folder.name,
            "written": now(),
            "command": command,
            "config": dict(config),
            "commit": git_commit(),
            "versions": package_versions(),
            "hardware": describe_machine(),
        }
        atomic_write_text(folder / "run.json", json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
        return cls(folder, manifest)

    @classmethod
    def open(cls, root: Path | str) -> "Run":
        """Open an existing run.

        Raises:
            RunError: when there is no run at `root`; names those that are there.
        """
        folder = Path(root).absolute()
        file = folder / "run.json"
        if not file.is_file():
            others = sorted(p.parent.name for p in folder.parent.glob("*/run.json")) if folder.parent.is_dir() else []
            there = f"runs in {folder.parent}: {', '.join(others)}" if others else f"no run is in {folder.parent}"
            raise RunError(
                f"{root} is not a run directory (no run.json); {there}; start one with `agentmill run CONFIG`"
            )
        return cls(folder, json.loads(file.read_text(encoding="utf-8")))

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def command(self) -> str:
        """The command that this run was last started with."""
        return str(self.manifest.get("command", ""))

    def path(self, *parts: str) -> Path:
        """A path inside the run directory; its parent folder is made."""
        path = self.root.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def record(
        self,
        name: str,
        value: Scalar,
        *,
        n: int | None = None,
        interval: tuple[float, float] | None = None,
        unit: str = "",
        command: str | None = None,
    ) -> None:
        """Write one figure, replacing an older one of that name; safe from several processes at once."""
        figure = Figure(value=value, n=n, interval=interval, unit=unit, command=command or self.command, recorded=now())
        with locked(self.path("logs", "figures.lock")):
            figures = self._read_figures()
            figures[name] = figure.model_dump(mode="json")
            self._write_figures(figures)

    def figures(self, prefix: str | None = None) -> dict[str, Figure]:
        """All figures, or the one named `prefix` and those below it (`evaluate.sft` gives `evaluate.sft.success`)."""
        figures = {name: Figure.model_validate(raw) for name, raw in self._read_figures().items()}
        if prefix is None:
            return figures
        return {name: f for name, f in figures.items() if name == prefix or name.startswith(prefix + ".")}

    def complete(
        self, stage: str, inputs_digest: str, seconds: float, info: Mapping[str, Any] | None = None
    ) -> StageMark:
        """Mark `stage` finished, atomically; call it after its last artefact is in place."""
        mark = StageMark(
            stage=stage, inputs_digest=inputs_digest, seconds=seconds, completed=now(), info=dict(info or {})
        )
        atomic_write_text(self.path("stages", f"{stage}.json"), mark.model_dump_json(indent=2) + "\n")
        return mark

    def completed(self, stage: str) -> StageMark | None:
        """The mark of a finished stage, or None."""
        file = self.root / "stages" / f"{stage}.json"
        return StageMark.model_validate_json(file.read_text(encoding="utf-8")) if file.is_file() else None

    def reopen(self, stage: str) -> None:
        """Take back the mark of a finished stage, because it is about to be done again."""
        (self.root / "stages" / f"{stage}.json").unlink(missing_ok=True)

    def forget(self, prefix: str) -> None:
        """Remove the figure `prefix` and those below it, because what they measured is about to be replaced."""
        with locked(self.path("logs", "figures.lock")):
            figures = self._read_figures()
            kept = {name: f for name, f in figures.items() if name != prefix and not name.startswith(prefix + ".")}
            if len(kept) < len(figures):
                self._write_figures(kept)

    def _write_figures(self, figures: dict[str, Any]) -> None:
        text = json.dumps(dict(sorted(figures.items())), indent=2, ensure_ascii=False)
        atomic_write_text(self.root / "figures.json", text + "\n")

    def _read_figures(self) -> dict[str, Any]:
        file = self.root / "figures.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def now() -> str:
    """The time as ISO 8601 in UTC, to microseconds."""
    return datetime.now(UTC).isoformat()


def command_line() -> str:
    """The command that this process was started with, as one would type it."""
    import shlex

    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def bench_run() -> Run:
    """The run that benches and measuring tests record in: the one that AGENTMILL_BENCH_RUN names, else `runs/bench`."""
    return Run.create(os.environ.get("AGENTMILL_BENCH_RUN", "runs/bench"), {}, command_line())


def digest_json(value: Any) -> str:
    """Digest of a JSON value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def digest_path(path: Path | str) -> str:
    """Digest of a file's content, or of a folder's relative names and contents.

    Raises:
        RunError: when nothing is there.
    """
    root = Path(path)
    if not root.exists():
        raise RunError(f"{root}: no such file or folder; it is an input of this run")
    files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
    total = hashlib.blake2b(digest_size=16)
    for file in files:
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "blake2b").hexdigest()
        total.update(f"{file.relative_to(root).as_posix()}\0{content}\0".encode())
    return total.hexdigest()


def atomic_write_bytes(path: Path | str, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o644)
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def atomic_write_text(path: Path | str, text: str) -> None:
    """Write a text file in UTF-8 so that a reader sees the old content or the new, never a part."""
    atomic_write_bytes(path, text.encode())


@contextmanager
def atomic_dir(path: Path | str) -> Iterator[Path]:
    """Give an empty sibling folder to write in; it takes the name `path` when the block ends without an error.

    An older folder of that name is replaced. What a killed writer left behind is cleared by the next one.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    for stale in target.parent.glob(f".{target.name}.*.part"):
        shutil.rmtree(stale, ignore_errors=True)
    part = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.part"
    part.mkdir()
    try:
        yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    if target.exists():
        old = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.part"
        os.replace(target, old)
        os.replace(part, target)
        shutil.rmtree(old)
    else:
        os.replace(part, target)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; it ends with the process that holds it, however that ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a rate (Wilson 1927); (0, 1) where nothing was counted."""
    if n == 0:
        return (0.0, 1.0)
    rate, z = successes / n, NormalDist().inv_cdf(0.975)
    middle = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return (max(0.0, middle - half), min(1.0, middle + half))
