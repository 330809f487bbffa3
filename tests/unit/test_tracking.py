"""Trackers get each step once, in order, whatever happens to the training and to them."""

import json
import struct
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from raytrain import tracking
from raytrain.steplog import Row, Tail
from raytrain.tracking import (
    Followed,
    Follower,
    MlflowSettings,
    Tracker,
    TrackerDown,
    TrackingError,
    TrackingSettings,
    WandbSettings,
    check_trackers,
    tracked,
)
from tests.events import scalars


def row(step: int) -> Row:
    return {"step": step, "loss": 1 / step, "grad_norm": None, "seconds": float(step), "tokens_per_s": 10.0 * step}


def write(file: Path, steps: range) -> None:
    """The log as a resume leaves it: written anew, in another file of the same name."""
    part = file.with_suffix(".part")
    part.write_text("".join(json.dumps(row(step)) + "\n" for step in steps))
    part.replace(file)


def append(file: Path, steps: range) -> None:
    with file.open("a") as stream:
        stream.writelines(json.dumps(row(step)) + "\n" for step in steps)


def followed(folder: Path, key: str = "abc123") -> Followed:
    about = {"stage": "sft", "settings": {"learning_rate": 1e-3, "lora": {"rank": 8}}}
    (folder / "logs").mkdir(exist_ok=True)
    return Followed("demo", "sft", folder / "logs", folder / "sft.jsonl", key, about)


class Shelf:
    """A tracker that keeps what it gets, and is out of reach when told so."""

    name = "shelf"

    def __init__(self, last: int = 0) -> None:
        self.last, self.down = last, False
        self.steps: list[int] = []
        self.summary: Mapping[str, float] | None = None

    def send(self, rows: Sequence[Row]) -> None:
        for one in rows:
            if self.down:
                raise TrackerDown("no answer")
            self.steps.append(one["step"])
            self.last = one["step"]

    def close(self, summary: Mapping[str, float]) -> None:
        self.summary = dict(summary)


def wait_until(holds: Any) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "POLL_S", 0.01)


def test_a_tail_gives_rows_as_they_come_and_leaves_an_unfinished_line(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    tail = Tail(file)
    assert tail.rows() == []
    append(file, range(1, 3))
    with file.open("a") as stream:
        stream.write('{"step": 3, "lo')
    assert [r["step"] for r in tail.rows()] == [1, 2]
    with file.open("a") as stream:
        stream.write('ss": 0.5}\n')
    assert tail.rows() == [{"step": 3, "loss": 0.5}]
    write(file, range(1, 3))
    assert [r["step"] for r in tail.rows()] == [1, 2]


def test_steps_that_come_again_after_a_resume_are_sent_once(tmp_path: Path) -> None:
    file, shelf = tmp_path / "log.jsonl", Shelf()
    append(file, range(1, 8))
    follower = Follower(file, shelf)
    wait_until(lambda: shelf.last == 7)
    write(file, range(1, 5))  # back to the checkpoint of step 4
    append(file, range(5, 11))
    wait_until(lambda: shelf.last == 10)
    follower.close({"heldout_loss": 0.5})
    assert shelf.steps == list(range(1, 11))
    assert shelf.summary == {"heldout_loss": 0.5}


def test_a_tracker_that_has_steps_already_gets_the_rest(tmp_path: Path) -> None:
    file, shelf = tmp_path / "log.jsonl", Shelf(last=3)
    append(file, range(1, 6))
    Follower(file, shelf).close({})
    assert shelf.steps == [4, 5]


def test_what_a_tracker_did_not_take_comes_again_and_what_it_never_took_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, shelf = tmp_path / "log.jsonl", Shelf()
    shelf.down = True
    append(file, range(1, 4))
    follower = Follower(file, shelf)
    wait_until(lambda: "does not take steps: no answer" in capsys.readouterr().err)
    shelf.down = False
    wait_until(lambda: shelf.last == 3)
    shelf.down = True
    append(file, range(4, 6))
    follower.close({})
    assert shelf.steps == [1, 2, 3]
    assert "shelf lacks 2 steps from 4 on; the log has them" in capsys.readouterr().err


def test_tensorboard_has_each_step_once_after_a_second_attempt(tmp_path: Path) -> None:
    told = followed(tmp_path)
    append(told.steps, range(1, 6))
    with pytest.raises(ZeroDivisionError), tracked(TrackingSettings(), told):
        raise ZeroDivisionError  # the driver fails
    assert scalars(tmp_path / "logs" / "tensorboard" / "sft")["loss"] == [1, 2, 3, 4, 5]
    write(told.steps, range(1, 4))
    append(told.steps, range(4, 9))
    with tracked(TrackingSettings(), told) as summary:
        summary["heldout_loss"] = 0.25
    found = scalars(tmp_path / "logs" / "tensorboard" / "sft")
    assert found["loss"] == found["tokens_per_s"] == list(range(1, 9))
    assert found["heldout_loss"] == [8]
    assert "grad_norm" not in found and "step" not in found


def test_a_tracker_that_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    for name in ("wandb", "mlflow"):
        with pytest.raises(TrackingError, match=rf"tracking\.{name} needs the package {name}.*agentmill\[tracking\]"):
            check_trackers(TrackingSettings.model_validate({name: {}}))
    check_trackers(TrackingSettings())


@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed (the extra `tracking`)")
def test_wandb_offline_has_each_step_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    told, settings = followed(tmp_path), TrackingSettings(wandb=WandbSettings(mode="offline"))
    append(told.steps, range(1, 4))
    for steps in (range(4, 4), range(4, 7)):
        append(told.steps, steps)
        with tracked(settings, told) as summary:
            summary["heldout_loss"] = 0.25
    (file,) = (tmp_path / "logs" / "wandb").glob("offline-run-*-abc123/run-abc123.wandb")
    limit = time.monotonic() + 60
    while not wandb_steps(file) and time.monotonic() < limit:  # its own process writes the file after the run's end
        time.sleep(0.1)
    assert wandb_steps(file) == [1, 2, 3, 4, 5, 6]


def wandb_steps(file: Path) -> list[int]:
    """Steps in an offline file: a head of 7 bytes, then the log format of LevelDB, in which a record that does not fit
    into a block of 32 KiB is cut into parts."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, part, steps = file.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        part += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record, part = Record.FromString(part), b""
            if record.HasField("history"):
                steps.append(record.history.step.num)
    return steps


@pytest.mark.skipif(
    find_spec("mlflow") is None or find_spec("alembic") is None,
    reason="mlflow and alembic are not installed (the extra `tracking`)",
)
def test_mlflow_goes_on_in_the_same_run_and_has_each_step_once(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    told, settings = followed(tmp_path), TrackingSettings(mlflow=MlflowSettings())
    append(told.steps, range(1, 4))
    with pytest.raises(ZeroDivisionError), tracked(settings, told):
        raise ZeroDivisionError
    append(told.steps, range(4, 7))
    with tracked(settings, told) as summary:
        summary["heldout_loss"] = 0.25
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'logs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("agentmill")
    (run,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "loss")
    assert sorted(metric.step for metric in history) == [1, 2, 3, 4, 5, 6]
    assert run.info.status == "FINISHED"
    assert run.data.metrics["heldout_loss"] == 0.25
    assert run.data.params["settings.lora.rank"] == "8"


def test_a_shelf_is_a_tracker() -> None:
    tracker: Tracker = Shelf()
    assert tracker.last == 0
