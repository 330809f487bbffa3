"""One training stage seen from the driver: tokenise, train on a worker group, merge, publish, record.

Reads corpora/<stage>/{train,heldout}.parquet, public_heldout.parquet where public data was mixed in, what else the
stage looks at, and the model that it starts from. Killed at any point, it goes on from the newest checkpoint in
checkpoints/<stage>/<digest>, where the digest covers the inputs, every setting that changes the training and this
package's code; when models/<stage> is in place, the checkpoints are removed and the trained model stays, so that other
`merge` settings are only merged. A models/<stage> made from the same is the result already.

Records train.<stage>.{steps,loss,seconds,tokens_per_s,tokens,peak_gib}, and what the objective measures of held-out
rows: train.<stage>.<set>_<measure>, by group as well, train.<stage>.<group>.<set>_<measure>, for the set heldout and
where a set has several groups; of the model that the stage started from the same under train.<stage>.start, and of the
trained one before a merge under train.<stage>.trained. How long the rows are is said before training and stands in the
model's manifest.
"""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from agentmill.lineage import package_versions
from agentmill.log import duration, say
from agentmill.runs import Run, atomic_dir, atomic_write_text, digest_json, digest_path
from raytrain.batches import padded_tokens
from raytrain.data import TokenRows
from raytrain.folders import publish, read_manifest
from raytrain.followed import followed, measured
from raytrain.general import general_rows
from raytrain.hardware import place
from raytrain.job import GENERAL, HELDOUT, PUBLIC_HELDOUT, TRAIN, Job
from raytrain.lengths import LengthReport
from raytrain.merge import check_targets
from raytrain.positions import MEASURE as BY_POSITION
from raytrain.preflight import check_job, largest_of
from raytrain.settings import StageSettings
from raytrain.site import DEFAULT_SITE, Site
from raytrain.steplog import read_steps
from raytrain.tracking import tracked
from raytrain.worker import launch, watched

BEGUN = "begun.json"
GENERAL_ROWS = 300
COLUMNS = {
    "lr": "learning_rate",
    "grad": "grad_norm",
    "tokens/s": "tokens_per_s",
    "mfu": "mfu",
    "GiB": "memory_gib",
}
LENGTHS = "lengths.json"
UNITS = {"loss": "nats/token"}

Tokenise = Callable[[Path, Any, StageSettings], tuple[TokenRows, LengthReport]]
Arrange = Callable[[str, TokenRows, Any, StageSettings, int], dict[str, TokenRows]]


@dataclass(frozen=True)
class Stage:
    """What the driver has to know of one stage: its name and how a file of its corpus becomes token rows.

    `beside` are held-out files of other corpora, set -> (path in corpora/, how it becomes token rows), looked at where
    the run has them. `units` are those of what is measured of the stage's own pairs or rows.

    `arrange(set, rows, tokenizer, settings, seed)` says what is trained on or measured in place of a set: itself, or
    others by name.
    """

    name: str
    tokenise: Tokenise
    beside: Mapping[str, tuple[str, Tokenise]] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=lambda: UNITS)
    arrange: Arrange = lambda name, rows, tokenizer, settings, seed: {name: rows}


def train_stage(
    run: Run, stage: Stage, settings: StageSettings, *, start: str, seed: int, site: Site = DEFAULT_SITE
) -> None:
    """Train models/<stage> from models/<start>. Ray must be initialised.

    Raises:
        UserError: when an input is missing or cannot be trained on, the stage does not fit into memory, or training
            failed for good.
    """
    job = _job(run, stage, settings, start, seed, site)
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
        _train(run, job, site)
    result = json.loads(job.result.read_text(encoding="utf-8"))
    publish(job.model, target, _manifest(job, result))
    _record(run, stage, job, result)
    _clear_work(job)
    say(stage.name, f"models/{stage.name} is in place after {duration(time.monotonic() - started)}")


def _job(run: Run, stage: Stage, settings: StageSettings, start: str, seed: int, site: Site) -> Job:
    import ray

    begin = run.root / "models" / start
    targets = check_targets(begin, settings.lora.targets) if settings.lora else ()
    inputs = {name: digest_path(file) for name, (file, _) in _corpora(run, stage).items()}
    code = [digest_path(file) for file in sorted(Path(__file__).parent.glob("*.py"))]
    deciding = settings.deciding()
    merge = deciding.pop("merge")
    training = digest_json(
        {"in": inputs, "start": digest_path(begin), "settings": deciding, "seed": seed, "code": code}
    )
    work = run.path("checkpoints", stage.name, training[:16])
    return Job(
        stage=stage.name,
        digest=digest_json([training, merge])[:16],
        work=work,
        start=begin,
        log=run.path("logs", f"{stage.name}.jsonl"),
        settings=settings,
        placement=place(settings.worker, ray.cluster_resources(), site.hardware),
        targets=targets,
        seed=seed,
        begun_with=_begun_with(work, settings),
    )


def _begun_with(work: Path, settings: StageSettings) -> int:
    """The number of workers that the run in this work folder was begun with; those of `settings` where it begins."""
    begun = work / BEGUN
    return int(json.loads(begun.read_text(encoding="utf-8"))["workers"]) if begun.is_file() else settings.worker.workers


def _corpora(run: Run, stage: Stage) -> dict[str, tuple[Path, Tokenise]]:
    """The files that the stage reads by set, and how each becomes token rows."""
    folder = run.root / "corpora"
    own = {name: (folder / stage.name / f"{name}.parquet", stage.tokenise) for name in (TRAIN, HELDOUT)}
    optional = {PUBLIC_HELDOUT: (f"{stage.name}/{PUBLIC_HELDOUT}.parquet", stage.tokenise), **stage.beside}
    return own | {name: (folder / f, how) for name, (f, how) in optional.items() if (folder / f).is_file()}


def _clear_other_work(job: Job) -> None:
    """Remove what a run with other inputs or settings left."""
    for other in job.work.parent.iterdir() if job.work.parent.is_dir() else ():
        if other != job.work:
            say(job.stage, f"inputs or settings changed: removing checkpoints/{job.stage}/{other.name}")
            shutil.rmtree(other)


def _clear_work(job: Job) -> None:
    """Remove what only an unfinished stage needs; rows (and a reference's view of them), model and step log stay."""
    if job.finished.is_file() and job.log.is_file():
        shutil.copyfile(job.log, job.steps)
    stay = {job.work / "rows", job.work / "reference", job.trained, job.finished, job.steps, job.work / BEGUN}
    results = list(job.work.glob("result-*.json"))  # first: what they stand for goes with the rest
    for path in [*results, *(job.work.iterdir() if job.work.is_dir() else ())]:
        if path not in stay:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _prepare(run: Run, stage: Stage, job: Job) -> None:
    """Tokenise every corpus into the work folder, once, and record what was found."""
    folder = job.work / "rows"
    if not folder.is_dir():
        _tokenise(run, stage, job, folder)
    prefix = f"train.{job.stage}"
    for name, report in json.loads((folder / LENGTHS).read_text(encoding="utf-8")).items():
        run.record(f"{prefix}.{name}_rows", report["kept"], n=report["rows"])
        run.record(f"{prefix}.{name}_dropped", report["over"], n=report["rows"])
        for source, count in report["sources"].items():
            run.record(f"{prefix}.{name}_rows.{source}", count, n=report["rows"])
        if job.settings.overflow == "split":
            run.record(f"{prefix}.{name}_split", report["split"], n=report["rows"])


def _tokenise(run: Run, stage: Stage, job: Job, target: Path) -> None:
    """Tokenise, say what was found, and take a fixed sample of held-out rows."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job.start, local_files_only=True)
    settings = job.settings
    lengths: dict[str, Any] = {}
    with atomic_dir(target) as folder:
        for name, (file, tokenise) in _corpora(run, stage).items():
            rows, report = tokenise(file, tokenizer, settings)
            _tell(job.stage, name, report)
            lengths[name] = report.as_dict()
            if name != TRAIN and rows.items > settings.heldout_rows:
                draw = np.random.default_rng(job.seed).choice(rows.items, settings.heldout_rows, replace=False)
                rows = rows.take(sorted(int(i) for i in draw))
            for part, arranged in stage.arrange(name, rows, tokenizer, settings, job.seed).items():
                arranged.save(folder / part)
        general_rows(tokenizer, GENERAL_ROWS, settings.max_length).save(folder / GENERAL)
        atomic_write_text(folder / LENGTHS, json.dumps(lengths))


def _tell(stage: str, name: str, report: LengthReport) -> None:
    """Say how long the rows of a set are, by group for what is trained on."""
    say(stage, f"{name}: {report.text()}")
    for line in report.lines() if name == TRAIN else ():
        say(stage, f"  {line}")


def _train(run: Run, job: Job, site: Site) -> None:
    if job.finished.is_file():
        _publish_again(job)
        return
    rows = TokenRows.load(job.sets[TRAIN])
    plan = job.plan(rows)
    check_job(job, largest_of(rows, plan, packed=job.settings.packing), site.hardware)
    tokens = job.step_tokens(rows.item_tokens, plan)
    if job.settings.packing:
        beside = f"batches filled to {sum(tokens) / (len(plan) * job.settings.tokens_per_batch):.1%}"
    else:
        beside = f"{1 - sum(tokens) / padded_tokens(rows.item_costs, plan):.1%} padding beside them"
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
    with (
        tracked(site.tracking, followed(run, job)) as summary,
        watched(job.stage, len(tokens), lambda: _last_step(job.log), job.notes),
    ):
        _launch(job)
        summary.update(measured(json.loads(job.result.read_text(encoding="utf-8"))))


def _publish_again(job: Job) -> None:
    """Make the result from the trained model that is kept; workers are needed for a merge alone."""
    merge = job.settings.merge
    if job.steps.is_file() and not job.log.is_file():
        shutil.copyfile(job.steps, job.log)
    if merge is None:
        say(job.stage, "trained already, and no merge is asked for")
        atomic_write_text(job.result, job.finished.read_text(encoding="utf-8"))
        return
    say(job.stage, f"trained already; {merge.method} merge with models/{job.start.name}, weight {merge.weight:g}")
    _launch(job)


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
    last = rows[-1]
    own = {key.removeprefix("pairs/"): value for key, value in last.items() if key.startswith("pairs/")}
    columns = {name: last[key] for name, key in COLUMNS.items() if last.get(key) is not None}
    return int(last["step"]), {"loss": last["loss"], **own, **columns}


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
        "lengths": json.loads((job.work / "rows" / LENGTHS).read_text(encoding="utf-8")),
        "scores": result["scores"],
        "versions": package_versions(),
    }


def _record(run: Run, stage: Stage, job: Job, result: Mapping[str, Any]) -> None:
    steps = read_steps(job.log)
    last, tail = steps[-1], steps[-max(1, len(steps) // 20) :]
    prefix = f"train.{job.stage}"
    run.record(f"{prefix}.steps", result["steps"], unit="steps")
    run.record(f"{prefix}.loss", sum(row["loss"] for row in tail) / len(tail), n=len(tail), unit=stage.units["loss"])
    run.record(f"{prefix}.seconds", last["seconds"], unit="s")
    run.record(f"{prefix}.tokens", last["tokens"], unit="tokens")
    run.record(f"{prefix}.tokens_per_s", last["tokens"] / last["seconds"], n=last["tokens"], unit="tokens/s")
    run.record(f"{prefix}.peak_gib", max(row["memory_gib"] for row in steps), unit="GiB a worker")
    for model, sets in result["scores"].items():
        where = prefix if model == "end" else f"{prefix}.{model}"
        for name, measures in sets.items():
            units = stage.units if name == HELDOUT else UNITS
            for measure, groups in measures.items():
                curve = measure.startswith(BY_POSITION)  # told over all groups alone, and shown as a chart
                unit = UNITS["loss"] if curve else units.get(measure, "")
                _record_score(run, job.stage, f"{where}.{name}_{measure}", unit, list(groups.values()), quiet=curve)
                for group, sums in groups.items() if not curve and (name == HELDOUT or len(groups) > 1) else ():
                    _record_score(run, job.stage, f"{where}.{group}.{name}_{measure}", unit, [sums])


def _record_score(run: Run, stage: str, name: str, unit: str, sums: list[list[float]], quiet: bool = False) -> None:
    total, count = (sum(column) for column in zip(*sums, strict=True))
    run.record(name, total / count, n=int(count), unit=unit)
    if not quiet:
        say(stage, f"{name} {total / count:.4f} over {int(count):,}")
