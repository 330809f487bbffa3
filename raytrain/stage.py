"""One training stage seen from the driver: tokenise, train on a worker group, merge, publish, record.

Reads corpora/<stage>/{train,heldout}.parquet, public_heldout.parquet where public data was mixed in, and the model
that the stage starts from. Killed at any point, it goes on from the newest checkpoint in checkpoints/<stage>/<digest>,
where the digest covers the inputs, every setting that changes the training and this package's code; when models/<stage>
is in place, the checkpoints are removed and the trained model stays, so that other `merge` settings are only merged. A
models/<stage> made from the same is the result already.

Records train.<stage>.{steps,loss,seconds,tokens_per_s,tokens,peak_gib}, and what the objective measures of held-out
rows: train.<stage>.<set>_<measure>, for the set heldout by group as well, train.<stage>.<group>.heldout_<measure>;
of the model that the stage started from the same under train.<stage>.start, and of the trained one before a merge under
train.<stage>.trained.
"""

import json
import shutil
import time
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
from raytrain.folders import publish, read_manifest
from raytrain.general import general_rows
from raytrain.hardware import place
from raytrain.job import GENERAL, HELDOUT, PUBLIC_HELDOUT, TRAIN, Job
from raytrain.merge import check_targets
from raytrain.positions import MEASURE as BY_POSITION
from raytrain.settings import StageSettings
from raytrain.steplog import read_steps
from raytrain.worker import launch, watched

BEGUN, COUNTS = "begun.json", "counts.json"
GENERAL_ROWS = 300
UNITS = {"loss": "nats/token"}

Tokenise = Callable[[Path, Any, StageSettings], tuple[TokenRows, LengthReport]]
Arrange = Callable[[str, TokenRows, Any, StageSettings, int], dict[str, TokenRows]]


@dataclass(frozen=True)
class Stage:
    """What the driver has to know of one stage: its name and how a file of its corpus becomes token rows.

    `arrange(set, rows, tokenizer, settings, seed)` says what is trained on or measured in place of a set: itself, or
    others by name.
    """

    name: str
    tokenise: Tokenise
    arrange: Arrange = lambda name, rows, tokenizer, settings, seed: {name: rows}


def train_stage(run: Run, stage: Stage, settings: StageSettings, *, start: str, seed: int) -> None:
    """Train models/<stage> from models/<start>. Ray must be initialised.

    Raises:
        UserError: when an input is missing or cannot be trained on, or training failed for good.
    """
    job = _job(run, stage.name, settings, start, seed)
    target = run.path("models", stage.name)
    if not job.result.is_file() and read_manifest(target).get("digest") == job.digest:
        say(
            stage.name,
            f"models/{stage.name} is the result of these inputs and settings already; remove checkpoints/{stage.name} "
            f"and it to train again",
        )
        _clear_work(job)
        return
    _clear_other_work(job)
    _prepare(run, stage, job)
    started = time.monotonic()
    if not job.result.is_file():
        _train(job)
    result = json.loads(job.result.read_text(encoding="utf-8"))
    publish(job.model, target, _manifest(job, result))
    _record(run, job, result)
    _clear_work(job)
    say(stage.name, f"models/{stage.name} is in place after {duration(time.monotonic() - started)}")


def _job(run: Run, stage: str, settings: StageSettings, start: str, seed: int) -> Job:
    import ray

    begin = run.root / "models" / start
    targets = check_targets(begin, settings.lora.targets) if settings.lora else ()
    inputs = {name: digest_path(file) for name, file in _corpora(run, stage).items()}
    code = [digest_path(file) for file in sorted(Path(__file__).parent.glob("*.py"))]
    deciding = settings.deciding()
    merge = deciding.pop("merge")
    training = digest_json(
        {"in": inputs, "start": digest_path(begin), "settings": deciding, "seed": seed, "code": code}
    )
    work = run.path("checkpoints", stage, training[:16])
    return Job(
        stage=stage,
        digest=digest_json([training, merge])[:16],
        work=work,
        start=begin,
        log=run.path("logs", f"{stage}.jsonl"),
        settings=settings,
        placement=place(settings.worker, ray.cluster_resources()),
        targets=targets,
        seed=seed,
        begun_with=_begun_with(work, settings),
    )


def _begun_with(work: Path, settings: StageSettings) -> int:
    """The number of workers that the run in this work folder was begun with; those of `settings` where it begins."""
    begun = work / BEGUN
    return int(json.loads(begun.read_text(encoding="utf-8"))["workers"]) if begun.is_file() else settings.worker.workers


def _corpora(run: Run, stage: str) -> dict[str, Path]:
    files = {name: run.root / "corpora" / stage / f"{name}.parquet" for name in (TRAIN, HELDOUT, PUBLIC_HELDOUT)}
    return {name: file for name, file in files.items() if name != PUBLIC_HELDOUT or file.is_file()}


def _clear_other_work(job: Job) -> None:
    """Remove what a run with other inputs or settings left."""
    for other in job.work.parent.iterdir() if job.work.parent.is_dir() else ():
        if other != job.work:
            say(job.stage, f"inputs or settings changed: removing checkpoints/{job.stage}/{other.name}")
            shutil.rmtree(other)


def _clear_work(job: Job) -> None:
    """Remove what only an unfinished stage needs; rows, trained model and step log stay."""
    if job.finished.is_file() and job.log.is_file():
        shutil.copyfile(job.log, job.steps)
    stay = {job.work / "rows", job.trained, job.finished, job.steps, job.work / BEGUN}
    results = list(job.work.glob("result-*.json"))  # first: what they stand for goes with the rest
    for path in [*results, *(job.work.iterdir() if job.work.is_dir() else ())]:
        if path not in stay:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _prepare(run: Run, stage: Stage, job: Job) -> None:
    """Tokenise every corpus into the work folder, once, and record what was found."""
    folder = job.work / "rows"
    if not folder.is_dir():
        _tokenise(run, stage, job, folder)
    for name, (kept, over, split, rows) in json.loads((folder / COUNTS).read_text(encoding="utf-8")).items():
        run.record(f"train.{job.stage}.{name}_rows", kept, n=rows)
        run.record(f"train.{job.stage}.{name}_dropped", over, n=rows)
        if job.settings.overflow == "split":
            run.record(f"train.{job.stage}.{name}_split", split, n=rows)


def _tokenise(run: Run, stage: Stage, job: Job, target: Path) -> None:
    """Tokenise, say what was found, and take a fixed sample of held-out rows."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job.start, local_files_only=True)
    settings, counts = job.settings, {}
    with atomic_dir(target) as folder:
        for name, file in _corpora(run, job.stage).items():
            rows, report = stage.tokenise(file, tokenizer, settings)
            say(job.stage, f"{name}: {report.text()}")
            counts[name] = (report.kept, report.over, report.split, report.rows)
            if name != TRAIN and len(rows) > settings.heldout_rows:
                draw = np.random.default_rng(job.seed).choice(len(rows), settings.heldout_rows, replace=False)
                rows = rows.take(sorted(int(i) for i in draw))
            for part, arranged in stage.arrange(name, rows, tokenizer, settings, job.seed).items():
                arranged.save(folder / part)
        general_rows(tokenizer, GENERAL_ROWS, settings.max_length).save(folder / GENERAL)
        atomic_write_text(folder / COUNTS, json.dumps(counts))


def _train(job: Job) -> None:
    if job.finished.is_file():
        say(job.stage, f"trained already: {_merge_text(job)}")
        if not job.log.is_file():
            shutil.copyfile(job.steps, job.log)
        _launch(job)
        return
    rows = TokenRows.load(job.sets[TRAIN])
    plan = job.plan(rows)
    tokens = job.step_tokens(rows.lengths, plan)
    if job.settings.packing:
        beside = f"batches filled to {sum(tokens) / (len(plan) * job.settings.tokens_per_batch):.1%}"
    else:
        beside = f"{1 - sum(tokens) / padded_tokens(rows.lengths, plan):.1%} padding beside them"
    worker, lora = job.settings.worker, job.settings.lora
    what = f"LoRA rank {lora.rank} on {', '.join(job.targets)}" if lora else "all weights"
    say(
        job.stage,
        f"{len(tokens)} steps of about {sum(tokens) // len(tokens):,} tokens ({beside}), "
        f"{worker.workers} workers x {job.placement.threads} threads, {job.placement.precision} on "
        f"{job.placement.device}, ZeRO {worker.zero_stage}, {what}",
    )
    if not (job.work / BEGUN).is_file():
        job.log.unlink(missing_ok=True)
        atomic_write_text(job.work / BEGUN, json.dumps({"workers": job.begun_with}))
    with watched(job.stage, len(tokens), lambda: _last_step(job.log), job.notes):
        _launch(job)


def _merge_text(job: Job) -> str:
    merge = job.settings.merge
    if merge is None:
        return "no merge, the trained model as it is"
    return f"{merge.method} merge with models/{job.start.name}, weight {merge.weight:g}"


def _launch(job: Job) -> None:
    launch(
        _loop,
        {"job": job},
        label=job.stage,
        storage=job.storage,
        stop=job.stop,
        settings=job.settings.worker,
        placement=job.placement,
    )


def _loop(config: dict[str, Any]) -> dict[str, Any]:
    from raytrain.loop import train

    return train(config["job"])


def _last_step(log: Path) -> tuple[int, dict[str, object]]:
    rows = read_steps(log)
    if not rows:
        return 0, {}
    return int(rows[-1]["step"]), {"loss": rows[-1]["loss"], "tokens/s": rows[-1]["tokens_per_s"]}


def _manifest(job: Job, result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "stage": job.stage,
        "digest": job.digest,
        "training": job.work.name,
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
        where = prefix if model == "end" else f"{prefix}.{model}"
        for name, measures in sets.items():
            for measure, groups in measures.items():
                _record_score(run, job.stage, f"{where}.{name}_{measure}", measure, list(groups.values()))
        for measure, groups in sets[HELDOUT].items():
            if measure.startswith(BY_POSITION):
                continue  # a curve, told over all groups alone
            for group, sums in groups.items():
                _record_score(run, job.stage, f"{where}.{group}.{HELDOUT}_{measure}", measure, [sums])


def _record_score(run: Run, stage: str, name: str, measure: str, sums: list[list[float]]) -> None:
    total, count = (sum(column) for column in zip(*sums, strict=True))
    curve = measure.startswith(BY_POSITION)
    run.record(name, total / count, n=int(count), unit=UNITS["loss"] if curve else UNITS.get(measure, ""))
    if not curve:
        say(stage, f"{name} {total / count:.4f} over {int(count):,}")
