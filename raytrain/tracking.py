"""Following a training run from outside: TensorBoard always, W&B and MLflow where the configuration names them.

The driver forwards the step log that the workers write; training never waits for a tracker, and one that cannot be
reached costs nothing but its own rows, which are tried again. Invariant: a tracker gets each step once, in order,
however often training went back to a checkpoint or the driver was killed: TensorBoard's and W&B's offline files are
written anew from the log, and W&B's and MLflow's servers are asked which step they have. Steps that come again after a
resume are those of an undisturbed run, so that what was sent stands. Keys and passwords come from the trackers' own
places (`wandb login`, MLFLOW_TRACKING_USERNAME, ...), never from a configuration.
"""

import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field

from agentmill.config import Strict
from agentmill.errors import UserError
from agentmill.log import say
from raytrain.steplog import Row, Tail

POLL_S = 0.5
STEP = "step"
INSTALL = "install it with `pip install 'agentmill[tracking]'`, or leave tracking.{name} out"

Name = Annotated[str, Field(min_length=1, max_length=128)]


class TrackingError(UserError):
    """A tracker that cannot be used. The message names it, the reason and the remedy."""


class WandbSettings(Strict):
    """Weights & Biases. `offline` writes into the run's logs/wandb, for `wandb sync` later."""

    project: Name = "agentmill"
    entity: Name | None = None
    mode: Literal["online", "offline"] = "online"


class MlflowSettings(Strict):
    """MLflow. `uri` is a tracking server or a database; null is a SQLite file in the run, logs/mlflow.db."""

    uri: Name | None = None
    experiment: Name = "agentmill"


class TrackingSettings(Strict):
    """Trackers beside TensorBoard, which is always written."""

    wandb: WandbSettings | None = None
    mlflow: MlflowSettings | None = None


@dataclass(frozen=True)
class Followed:
    """What is followed: the run's and the stage's names, the folder of its logs, the step log, a key of letters and
    digits that is the same for every attempt at this training and no other, and what is shown beside the curves."""

    run: str
    stage: str
    logs: Path
    steps: Path
    key: str
    about: Mapping[str, Any]


class Tracker(Protocol):
    """One place that steps are sent to. `last` is the newest step that it holds."""

    name: str
    last: int

    def send(self, rows: Sequence[Row]) -> None:
        """Take rows of the step log that are newer than `last`, oldest first.

        Raises:
            TrackerDown: when they could not be taken; they come again.
        """

    def close(self, summary: Mapping[str, float]) -> None:
        """Take what was measured at the end (nothing where training failed), and end."""


class TrackerDown(Exception):
    """A tracker could not be reached."""


def check_trackers(settings: TrackingSettings) -> None:
    """Look that what the trackers need is installed.

    Raises:
        TrackingError: when a package is missing; says what to install.
    """
    for name in ("wandb", "mlflow"):
        if getattr(settings, name) is not None and find_spec(name) is None:
            raise TrackingError(f"tracking.{name} needs the package {name}, and it is not installed; " + _install(name))
    mlflow = settings.mlflow
    if mlflow and (mlflow.uri is None or mlflow.uri.startswith("sqlite:")) and find_spec("alembic") is None:
        raise TrackingError(
            "tracking.mlflow keeps its runs in a database, which needs the package alembic, and it is not installed; "
            + _install("mlflow")
        )


def _install(name: str) -> str:
    return INSTALL.format(name=name)


def open_trackers(settings: TrackingSettings, followed: Followed) -> list[Tracker]:
    """TensorBoard, and those that the settings name.

    Raises:
        TrackingError: when one is not installed or refuses.
    """
    from raytrain import trackers

    check_trackers(settings)
    opened: list[Tracker] = [trackers.TensorBoard(followed)]
    if settings.wandb:
        opened.append(trackers.Wandb(settings.wandb, followed))
    if settings.mlflow:
        opened.append(trackers.Mlflow(settings.mlflow, followed))
    return opened


class Follower:
    """Forwards a step log to one tracker, from a thread of its own, so that one that hangs holds up no other."""

    def __init__(self, steps: Path, tracker: Tracker) -> None:
        self._tail, self._tracker = Tail(steps), tracker
        self._waiting: list[Row] = []
        self._down = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=f"tracker-{tracker.name}", daemon=True)
        self._thread.start()

    def close(self, summary: Mapping[str, float]) -> None:
        """Forward the rest and end the tracker; what it did not take is said."""
        self._done.set()
        self._thread.join()
        self._look()
        if self._waiting:
            first = self._waiting[0][STEP]
            say("tracking", f"{self._tracker.name} lacks {len(self._waiting)} steps from {first} on; the log has them")
        try:
            self._tracker.close(summary)
        except TrackerDown as error:
            say("tracking", f"{self._tracker.name} was not ended: {error}")

    def _follow(self) -> None:
        while not self._done.wait(POLL_S):
            self._look()

    def _look(self) -> None:
        """Send what is new."""
        newest = self._waiting[-1][STEP] if self._waiting else self._tracker.last
        for row in self._tail.rows():
            if row[STEP] > newest:
                self._waiting.append(row)
                newest = row[STEP]
        if not self._waiting:
            return
        try:
            self._tracker.send(self._waiting)
            self._down = False
        except TrackerDown as error:
            if not self._down:
                say("tracking", f"{self._tracker.name} does not take steps: {error}; training goes on")
            self._down = True
        self._waiting = [row for row in self._waiting if row[STEP] > self._tracker.last]


@contextmanager
def tracked(settings: TrackingSettings, followed: Followed) -> Iterator[dict[str, float]]:
    """Forward the step log while the block runs; what the block puts into the mapping is sent at the end.

    Raises:
        TrackingError: when a tracker is not installed or refuses.
    """
    followers = [Follower(followed.steps, tracker) for tracker in open_trackers(settings, followed)]
    summary: dict[str, float] = {}
    try:
        yield summary
    finally:
        for follower in followers:
            follower.close(summary)


def clear(folder: Path, pattern: str) -> None:
    """Remove what an earlier attempt left of `pattern` in `folder`."""
    for path in folder.glob(pattern):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The columns of a row that are numbers, the step itself left out; the loss comes last, so that a row whose loss
    is there is there whole."""
    names = sorted((name for name in row if name != STEP), key=lambda name: name == "loss")
    return {name: float(row[name]) for name in names if isinstance(row[name], int | float)}


def began(rows: Sequence[Row]) -> float:
    """The moment at which training would have begun for the newest row to be written now, in seconds."""
    return time.time() - float(rows[-1]["seconds"])
