"""TensorBoard, W&B and MLflow behind one form (see raytrain.tracking): each knows which step it has already.

The packages are imported when a tracker is made; tensorboardX belongs to the installation, the two others are the extra
`tracking`.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from raytrain.steplog import Row
from raytrain.tracking import (
    STEP,
    Followed,
    MlflowSettings,
    TrackerDown,
    TrackingError,
    WandbSettings,
    began,
    clear,
    numbers,
)

OFFLINE = "offline"
DIGEST = "agentmill.key"


class TensorBoard:
    """Event files in logs/tensorboard/<stage>, written anew by every attempt, from the first step on. The new file
    tells a TensorBoard that is looking already to forget what it read before (`purge_step`)."""

    name = "TensorBoard"

    def __init__(self, followed: Followed) -> None:
        from tensorboardX import SummaryWriter

        self.last = 0
        folder = followed.logs / "tensorboard" / followed.stage
        clear(folder, "events.out.tfevents.*")
        self._writer = SummaryWriter(str(folder), purge_step=1, write_to_disk=True)
        self._writer.add_text("about", f"```\n{json.dumps(dict(followed.about), indent=2)}\n```", 0)

    def send(self, rows: Sequence[Row]) -> None:
        start = began(rows)
        for row in rows:
            for name, value in numbers(row).items():
                self._writer.add_scalar(name, value, row[STEP], walltime=start + row["seconds"])
            self.last = row[STEP]
        self._writer.flush()

    def close(self, summary: Mapping[str, float]) -> None:
        for name, value in summary.items():
            self._writer.add_scalar(name, value, self.last)
        self._writer.close()


class Wandb:
    """A run of Weights & Biases, whose id is the key, so that every attempt goes on with it; an offline folder cannot
    be gone on with and is written anew."""

    name = "W&B"

    def __init__(self, settings: WandbSettings, followed: Followed) -> None:
        import wandb

        if settings.mode == OFFLINE:
            clear(followed.logs / "wandb", f"offline-run-*-{followed.key}")
        self._errors: tuple[type[Exception], ...] = (wandb.errors.Error, OSError)
        try:
            self._run = wandb.init(
                project=settings.project,
                entity=settings.entity,
                mode=settings.mode,
                id=followed.key,
                resume="allow",
                group=followed.run,
                name=f"{followed.run}-{followed.stage}",
                config=dict(followed.about),
                dir=str(followed.logs),
                settings=wandb.Settings(silent=True, console="off", save_code=False, disable_git=True),
            )
        except self._errors as error:
            raise TrackingError(
                f"tracking.wandb: W&B does not begin a run in project {settings.project}: {error}; log in with "
                f"`wandb login`, or set tracking.wandb.mode=offline and sync {followed.logs / 'wandb'} later"
            ) from error
        self.last = max(0, int(self._run.step) - 1)

    def send(self, rows: Sequence[Row]) -> None:
        try:
            for row in rows:
                self._run.log(numbers(row), step=row[STEP])
                self.last = row[STEP]
        except self._errors as error:
            raise TrackerDown(str(error)) from error

    def close(self, summary: Mapping[str, float]) -> None:
        try:
            self._run.summary.update(dict(summary))
            self._run.finish(exit_code=0 if summary else 1)
        except self._errors as error:
            raise TrackerDown(str(error)) from error


class Mlflow:
    """A run of MLflow, found again by a tag; the server says which step it has."""

    name = "MLflow"

    def __init__(self, settings: MlflowSettings, followed: Followed) -> None:
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        uri = settings.uri or f"sqlite:///{followed.logs / 'mlflow.db'}"
        self._errors: tuple[type[Exception], ...] = (MlflowException, OSError)
        self._metric = Metric
        try:
            self._client = MlflowClient(tracking_uri=uri)
            self._run = self._found(settings.experiment, followed)
            history = self._client.get_metric_history(self._run, "loss")
        except self._errors as error:
            raise TrackingError(
                f"tracking.mlflow: {uri} does not begin a run in experiment {settings.experiment}: {error}; start the "
                f"server or put tracking.mlflow.uri right, or leave tracking.mlflow out"
            ) from error
        self.last = max((metric.step for metric in history), default=0)

    def _found(self, name: str, followed: Followed) -> str:
        """The id of this training's run, made where there is none."""
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        found = self._client.search_runs([experiment], filter_string=f"tags.`{DIGEST}` = '{followed.key}'")
        if found:
            self._client.update_run(found[0].info.run_id, status="RUNNING")
            return str(found[0].info.run_id)
        tags = {DIGEST: followed.key}
        made = self._client.create_run(experiment, run_name=f"{followed.run}-{followed.stage}", tags=tags)
        for key, value in _flat(followed.about):
            self._client.log_param(made.info.run_id, key, value)
        return str(made.info.run_id)

    def send(self, rows: Sequence[Row]) -> None:
        start = began(rows)
        try:
            for row in rows:
                at = int(1000 * (start + row["seconds"]))
                metrics = [self._metric(name, value, at, row[STEP]) for name, value in numbers(row).items()]
                self._client.log_batch(self._run, metrics=metrics)
                self.last = row[STEP]
        except self._errors as error:
            raise TrackerDown(str(error)) from error

    def close(self, summary: Mapping[str, float]) -> None:
        try:
            for name, value in summary.items():
                self._client.log_metric(self._run, name, value, step=self.last)
            self._client.set_terminated(self._run, "FINISHED" if summary else "FAILED")
        except self._errors as error:
            raise TrackerDown(str(error)) from error


def _flat(values: Mapping[str, Any], path: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in values.items():
        name = f"{path}.{key}" if path else key
        pairs += _flat(value, name) if isinstance(value, Mapping) else [(name, value)]
    return pairs
