"""Trying merge weights: each merge of a stage's model with its start is made, scored on held-out rows and thrown away.

In go models/<stage> and what the stage left in checkpoints/<stage> (the trained model and tokenised rows); out come
points, one a merge, with the losses of the domain's and the general held-out rows. The start and, but for TIES, the
trained model itself were scored by the stage and are not made again. Invariant: what was measured of a merge is kept in
merge/<stage>/<digest of the training>/, so that a sweep that was killed goes on, and a new training begins anew.
"""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentmill.config import UserError
from agentmill.log import say
from agentmill.runs import Run, digest_path
from raytrain.folders import read_manifest
from raytrain.hardware import place
from raytrain.job import GENERAL, HELDOUT, PUBLIC_HELDOUT, Job
from raytrain.settings import CptSettings, DpoSettings, MergeSettings, SftSettings, StageSettings
from raytrain.worker import launch, watched

SETTINGS: dict[str, type[StageSettings]] = {"cpt": CptSettings, "sft": SftSettings, "dpo": DpoSettings}
LOSS = "loss"
LABEL = "merge"


class SweepError(UserError):
    """There is nothing that could be merged. The message names the folder, the reason and the remedy."""


@dataclass(frozen=True)
class Loss:
    """A mean loss over `n` (tokens or pairs)."""

    value: float
    n: int


@dataclass(frozen=True)
class Point:
    """One merge and what it loses: on the stage's held-out rows, on general ones, and on public ones where there are
    any (`losses` by set)."""

    merge: MergeSettings
    losses: dict[str, Loss]

    @property
    def domain(self) -> float:
        return self.losses[HELDOUT].value

    @property
    def general(self) -> float:
        return self.losses[GENERAL].value


def sweep(run: Run, stage: str, merges: Sequence[MergeSettings]) -> list[Point]:
    """Score these merges of models/<stage> with the model that it started from, in the same order. Needs Ray.

    Raises:
        SweepError: when the stage has left no trained model, or its start was made again since.
        TrainingFailed: when the workers failed for good.
    """
    job = kept_job(run, stage)
    results = run.path("merge", stage, job.work.name, "x").parent
    results.mkdir(parents=True, exist_ok=True)
    known = json.loads(job.finished.read_text(encoding="utf-8"))["scores"]
    todo = [m for m in merges if end_of(m) is None and not (results / file_name(m)).is_file()]
    if todo:
        say(LABEL, f"{len(todo)} merges of models/{stage} with models/{job.start.name} to be made and scored")
        _launch(job, todo, results)
    points = []
    for merge in merges:
        end = end_of(merge)
        scores = known[end] if end else json.loads((results / file_name(merge)).read_text(encoding="utf-8"))
        points.append(Point(merge, losses_of(scores)))
    return points


def kept_job(run: Run, stage: str) -> Job:
    """The job that made models/<stage>, as its manifest tells it.

    Raises:
        SweepError: when there is no such model, its trained weights are gone, or its start is another by now.
    """
    import ray

    manifest = read_manifest(run.root / "models" / stage)
    work = run.root / "checkpoints" / stage / str(manifest.get("training"))
    if not (work / "trained.json").is_file():
        raise SweepError(
            f"{run.root} has no finished models/{stage} with its trained weights in checkpoints/{stage}; do the stage "
            f"first"
        )
    start = run.root / "models" / manifest["start"]["model"]
    if not start.is_dir() or digest_path(start) != manifest["start"]["digest"]:
        raise SweepError(f"models/{start.name} is not what models/{stage} was trained from; do the stage again first")
    settings = SETTINGS[stage].model_validate(manifest["settings"])
    return Job(
        stage=stage,
        digest=manifest["digest"],
        work=work,
        start=start,
        log=run.path("logs", f"{stage}.jsonl"),
        settings=settings,
        placement=place(settings.worker, ray.cluster_resources()),
        targets=tuple(manifest["lora_modules"]),
        seed=manifest["seed"],
        begun_with=settings.worker.workers,
    )


def end_of(merge: MergeSettings) -> str | None:
    """`start` or `end` where the merge is one of the two models themselves, which the stage has scored; else None."""
    if merge.weight == 0:
        return "start"
    return "end" if merge.weight == 1 and (merge.method != "ties" or merge.density == 1) else None


def file_name(merge: MergeSettings) -> str:
    """The file of a merge's scores."""
    density = f"-density-{merge.density:g}" if merge.method == "ties" else ""
    return f"{merge.method}{density}-{merge.weight:g}.json"


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in both losses (the Pareto front), by falling domain loss."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.general, p.domain)):
        if not best or point.domain < best[-1].domain:
            best.append(point)
    return best


def choose(points: Sequence[Point], max_cost: float) -> Point:
    """The point of the lowest domain loss among those whose general loss is at most (1 + max_cost) times the start's.

    The start itself (weight 0) is among the points, so one always qualifies.
    """
    (start, *_) = [point for point in points if point.merge.weight == 0]
    bound = start.general * (1 + max_cost)
    return min((point for point in points if point.general <= bound), key=lambda point: point.domain)


def losses_of(scores: Mapping[str, Any]) -> dict[str, Loss]:
    """The mean loss of each held-out set from what the workers measured: set -> measure -> group -> [total, count]."""
    losses = {}
    for name in (HELDOUT, GENERAL, PUBLIC_HELDOUT):
        if name in scores:
            measures = scores[name]
            sums = measures.get(LOSS, measures[min(measures)]).values()
            total, count = (sum(column) for column in zip(*sums, strict=True))
            # The start of a DPO stage has no loss: it is the reference itself, every margin is 0 and the loss is ln 2.
            losses[name] = Loss(total / count if LOSS in measures else math.log(2), int(count))
    return losses


def _launch(job: Job, merges: Sequence[MergeSettings], results: Path) -> None:
    storage = job.work / "sweep"
    with watched(LABEL, len(merges), lambda: (sum((results / file_name(m)).is_file() for m in merges), {}), job.notes):
        launch(
            _loop,
            {"job": job, "merges": tuple(merges), "results": results},
            label=LABEL,
            storage=storage,
            stop=job.stop,
            settings=job.settings.worker,
            placement=job.placement,
        )
    shutil.rmtree(storage, ignore_errors=True)


def _loop(config: dict[str, Any]) -> dict[str, Any]:
    from raytrain.loop import try_merges

    return try_merges(config["job"], config["merges"], config["results"])
