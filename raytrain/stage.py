"""One training stage seen from the driver: tokenise, train on a worker group, merge, publish, record.

Reads corpora/<stage>/{train,heldout}.parquet, public_heldout.parquet where public data was mixed in, and the model
that the stage starts from. Killed at any point, it goes on from the newest checkpoint in checkpoints/<stage>/<digest>,
where the digest covers the inputs, every setting that changes the result and this package's code; when models/<stage>
is in place, that folder is removed. A models/<stage> of the same digest is the result already.

Records train.<stage>.{steps,loss,seconds,tokens_per_s,tokens,peak_gib}, and what the objective measures of held-out
rows: train.<stage>.<set>_<measure>, for the set heldout by group as well, train.<stage>.<group>.heldout_<measure>;
of the model that the stage started from the same under train.<stage>.start.
"""

import json
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agentmill.lineage import package_versions
from agentmill.log import duration, say
from agentmill.runs import Run, atomic_dir, atomic_write_text, digest_json, digest_path
from raytrain.batches import padded_tokens
from raytrain.data import LengthReport, TokenRows
from raytrain.general import general_rows
from raytrain.hardware import place
from raytrain.job import GENERAL, HELDOUT, PUBLIC_HELDOUT, TRAIN, Job
from raytrain.merge import MANIFEST, check_targets, publish
from raytrain.preflight import check_job, largest_of
from raytrain.settings import StageSettings
from raytrain.site import DEFAULT_SITE, Site
from raytrain.steplog import read_steps
from raytrain.tracking import Followed, tracked
from raytrain.worker import launch, watched

BEGUN = "begun.json"
GENERAL_ROWS = 300
COLUMNS = {
    "loss": "loss",
    "lr": "learning_rate",
    "grad": "grad_norm",
    "tokens/s": "tokens_per_s",
    "mfu": "mfu",
    "GiB": "memory_gib",
    "margin": "margin",
}
UNITS = {"loss": "nats/token"}

Tokenise = Callable[[Path, Any, StageSettings], tuple[TokenRows, LengthReport]]


@dataclass(frozen=True)
class Stage:
    """What the driver has to know of one stage: its name and how a file of its corpus becomes token rows."""

    name: str
    tokenise: Tokenise


def train_stage(
    run: Run, stage: Stage, settings: StageSettings, *, start: str, seed: int, site: Site = DEFAULT_SITE
) -> None:
    """Train models/<stage> from models/<start>. Ray must be initialised.

    Raises:
        UserError: when an input is missing or cannot be trained on, the stage does not fit into memory, or training
            failed for good.
    """
    job = _job(run, stage.name, settings, start, seed, site)
    target = run.path("models", stage.name)
    if not job.work.exists() and _digest_of(target) == job.work.name:
        say(stage.name, f"models/{stage.name} is the result of these inputs and settings already; remove it to redo it")
        return
    _clear_other_work(job)
    _prepare(run, stage, job)
    started = time.monotonic()
    if not job.result.is_file():
        _train(run, job, site)
    result = json.loads(job.result.read_text(encoding="utf-8"))
    publish(job.trained, target, _manifest(job, result))
    _record(run, job, result)
    shutil.rmtree(job.work)
    say(stage.name, f"models/{stage.name} is in place after {duration(time.monotonic() - started)}")


def _job(run: Run, stage: str, settings: StageSettings, start: str, seed: int, site: Site) -> Job:
    import ray

    begin = run.root / "models" / start
    targets = check_targets(begin, settings.lora.targets) if settings.lora else ()
    inputs = {name: digest_path(file) for name, file in _corpora(run, stage).items()}
    code = [digest_path(file) for file in sorted(Path(__file__).parent.glob("*.py"))]
    digest = digest_json(
        {"in": inputs, "start": digest_path(begin), "settings": settings.deciding(), "seed": seed, "code": code}
    )
    return Job(
        stage=stage,
        work=run.path("checkpoints", stage, digest[:16]),
        start=begin,
        log=run.path("logs", f"{stage}.jsonl"),
        settings=settings,
        placement=place(settings.worker, ray.cluster_resources(), site.hardware),
        targets=targets,
        seed=seed,
        begun_with=_begun_with(run.path("checkpoints", stage, digest[:16]), settings),
    )


def _begun_with(work: Path, settings: StageSettings) -> int:
    """The number of workers that the run in this work folder was begun with; those of `settings` where it begins."""
    begun = work / BEGUN
    return int(json.loads(begun.read_text(encoding="utf-8"))["workers"]) if begun.is_file() else settings.worker.workers


def _corpora(run: Run, stage: str) -> dict[str, Path]:
    files = {name: run.root / "corpora" / stage / f"{name}.parquet" for name in (TRAIN, HELDOUT, PUBLIC_HELDOUT)}
    return {name: file for name, file in files.items() if name != PUBLIC_HELDOUT or file.is_file()}


def _digest_of(model: Path) -> str | None:
    """What the model in this folder was made from, as its manifest says; None where there is none."""
    manifest = model / MANIFEST
    return str(json.loads(manifest.read_text(encoding="utf-8"))["digest"]) if manifest.is_file() else None


def _clear_other_work(job: Job) -> None:
    """Remove what a run with other inputs or settings left unfinished."""
    for other in job.work.parent.iterdir() if job.work.parent.is_dir() else ():
        if other != job.work:
            say(job.stage, f"inputs or settings changed: removing the unfinished checkpoints/{job.stage}/{other.name}")
            shutil.rmtree(other)


def _prepare(run: Run, stage: Stage, job: Job) -> None:
    """Tokenise every corpus into the work folder, say what was found, and take a fixed sample of held-out rows."""
    if (job.work / "rows").is_dir():
        return
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job.start, local_files_only=True)
    settings = job.settings
    with atomic_dir(job.work / "rows") as folder:
        for name, file in _corpora(run, job.stage).items():
            rows, report = stage.tokenise(file, tokenizer, settings)
            say(job.stage, f"{name}: {report.text()}")
            run.record(f"train.{job.stage}.{name}_rows", report.kept, n=report.rows)
            run.record(f"train.{job.stage}.{name}_dropped", report.over, n=report.rows)
            if name != TRAIN and len(rows) > settings.heldout_rows:
                draw = np.random.default_rng(job.seed).choice(len(rows), settings.heldout_rows, replace=False)
                rows = rows.take(sorted(int(i) for i in draw))
            rows.save(folder / name)
        general_rows(tokenizer, GENERAL_ROWS, settings.max_length).save(folder / GENERAL)


def _train(run: Run, job: Job, site: Site) -> None:
    rows = TokenRows.load(job.sets[TRAIN])
    lengths = rows.lengths
    plan = job.plan(lengths)
    check_job(job, largest_of(rows, plan), site.hardware)
    tokens = job.step_tokens(lengths, plan)
    padding = 1 - sum(tokens) / padded_tokens(lengths, plan)
    worker, lora = job.settings.worker, job.settings.lora
    what = f"LoRA rank {lora.rank} on {', '.join(job.targets)}" if lora else "all weights"
    say(
        job.stage,
        f"{len(tokens)} steps of about {sum(tokens) // len(tokens):,} tokens ({padding:.1%} padding beside them), "
        f"{worker.workers} workers x {job.placement.threads} threads, {job.placement.precision} on "
        f"{job.placement.device}, ZeRO {worker.zero_stage}, {what}",
    )
    if not (job.work / BEGUN).is_file():
        job.log.unlink(missing_ok=True)
        atomic_write_text(job.work / BEGUN, json.dumps({"workers": job.begun_with}))
    with (
        tracked(site.tracking, _followed(run, job)) as summary,
        watched(job.stage, len(tokens), lambda: _last_step(job.log), job.notes),
    ):
        launch(
            _loop,
            {"job": job},
            label=job.stage,
            storage=job.storage,
            stop=job.stop,
            settings=worker,
            placement=job.placement,
        )
        summary.update(_measured(json.loads(job.result.read_text(encoding="utf-8"))))


def _followed(run: Run, job: Job) -> Followed:
    """What trackers are told; the key is kept beside the checkpoints, so that a redone stage gets another."""
    file = job.work / "tracked"
    if not file.is_file():
        atomic_write_text(file, uuid.uuid4().hex[:12])
    about = {
        "stage": job.stage,
        "start": job.start.name,
        "seed": job.seed,
        "settings": job.settings.model_dump(mode="json"),
    }
    key = file.read_text(encoding="utf-8")
    return Followed(run=run.name, stage=job.stage, logs=run.path("logs"), steps=job.log, key=key, about=about)


def _measured(result: Mapping[str, Any]) -> dict[str, float]:
    """Means over the held-out sets: {"heldout_loss": ..., "start/heldout_loss": ...} for the model before."""
    found = {}
    for model, sets in result["scores"].items():
        for name, measures in sets.items():
            for measure, groups in measures.items():
                total, count = (sum(column) for column in zip(*groups.values(), strict=True))
                found[f"{'start/' if model == 'start' else ''}{name}_{measure}"] = total / count
    return found


def _loop(config: dict[str, Any]) -> dict[str, Any]:
    from raytrain.loop import train

    return train(config["job"])


def _last_step(log: Path) -> tuple[int, dict[str, object]]:
    rows = read_steps(log)
    if not rows:
        return 0, {}
    row = rows[-1]
    return int(row["step"]), {name: row[key] for name, key in COLUMNS.items() if row.get(key) is not None}


def _manifest(job: Job, result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "stage": job.stage,
        "digest": job.work.name,
        "start": {"model": job.start.name, "digest": digest_path(job.start)},
        "settings": job.settings.model_dump(mode="json"),
        "seed": job.seed,
        "lora_modules": list(job.targets),
        "steps": result["steps"],
        "scores": result["scores"],
        "versions": package_versions(),
    }


def _record(run: Run, job: Job, result: Mapping[str, Any]) -> None:
    steps = read_steps(job.log)
    last, tail = steps[-1], steps[-max(1, len(steps) // 20) :]
    prefix = f"train.{job.stage}"
    run.record(f"{prefix}.steps", result["steps"], unit="steps")
    run.record(f"{prefix}.loss", sum(row["loss"] for row in tail) / len(tail), n=len(tail), unit="nats/token")
    run.record(f"{prefix}.seconds", last["seconds"], unit="s")
    run.record(f"{prefix}.tokens", last["tokens"], unit="tokens")
    run.record(f"{prefix}.tokens_per_s", last["tokens"] / last["seconds"], n=last["tokens"], unit="tokens/s")
    run.record(f"{prefix}.peak_gib", max(row["memory_gib"] for row in steps), unit="GiB a worker")
    for model, sets in result["scores"].items():
        where = f"{prefix}.start" if model == "start" else prefix
        for name, measures in sets.items():
            for measure, groups in measures.items():
                _record_score(run, job.stage, f"{where}.{name}_{measure}", measure, list(groups.values()))
        for measure, groups in sets[HELDOUT].items():
            for group, sums in groups.items():
                _record_score(run, job.stage, f"{where}.{group}.{HELDOUT}_{measure}", measure, [sums])


def _record_score(run: Run, stage: str, name: str, measure: str, sums: list[list[float]]) -> None:
    total, count = (sum(column) for column in zip(*sums, strict=True))
    run.record(name, total / count, n=int(count), unit=UNITS.get(measure, ""))
    say(stage, f"{name} {total / count:.4f} over {int(count):,}")
