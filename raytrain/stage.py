"""One training stage seen from the driver: tokenise, train on a worker group, merge, publish, record.

Reads corpora/<stage>/{train,heldout}.parquet, public_heldout.parquet where public data was mixed in, what else the
stage looks at, and the model that it starts from. Killed at any point, it goes on from the newest checkpoint in
checkpoints/<stage>/<digest>, where the digest covers the inputs, every setting that changes the training and this
package's code; when models/<stage> is in place, the checkpoints are removed and the trained model stays, so that other
`merge` settings are only merged. A models/<stage> made from the same is the result already.

What is read is in `raytrain.inputs`, what is recorded in `raytrain.outcome`.
"""

import json
import shutil
import time
from pathlib import Path
from typing import Any

from agentmill.log import duration, say
from agentmill.runs import Run, atomic_write_text, digest_json, digest_path
from raytrain.batches import padded_tokens
from raytrain.data import TokenRows
from raytrain.folders import publish, read_manifest
from raytrain.followed import followed, measured
from raytrain.hardware import place
from raytrain.inputs import Stage, corpora, prepare
from raytrain.job import TRAIN, Job
from raytrain.merge import check_targets
from raytrain.outcome import manifest, record
from raytrain.preflight import check_job, largest_of
from raytrain.settings import StageSettings
from raytrain.site import DEFAULT_SITE, Site
from raytrain.steplog import read_steps
from raytrain.tracking import tracked
from raytrain.worker import launch, watched

BEGUN = "begun.json"
OVER_ALL = ("pairs/", "draft/")  # what a stage's trainer logs over all groups
COLUMNS = {
    "lr": "learning_rate",
    "grad": "grad_norm",
    "tokens/s": "tokens_per_s",
    "mfu": "mfu",
    "GiB": "memory_gib",
}


def train_stage(
    run: Run, stage: Stage, settings: StageSettings, *, start: str, seed: int, site: Site = DEFAULT_SITE
) -> None:
    """Train models/<stage> from models/<start>. Ray must be initialised.

    Raises:
        UserError: when an input is missing or cannot be trained on, the stage does not fit into memory, or training
            failed for good.
    """
    job = job_of(run, stage, settings, start, seed, site)
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
    prepare(run, stage, job)
    started = time.monotonic()
    if not job.result.is_file():
        stage.ready(run, job)
        _train(run, stage, job, site)
    result = json.loads(job.result.read_text(encoding="utf-8"))
    publish(job.model, target, manifest(job, result))
    record(run, stage, job, result)
    _clear_work(job)
    say(stage.name, f"models/{stage.name} is in place after {duration(time.monotonic() - started)}")


def job_of(run: Run, stage: Stage, settings: StageSettings, start: str, seed: int, site: Site) -> Job:
    """What the workers are told, and the work folder that the inputs decide."""
    import ray

    begin = run.root / "models" / start
    targets = check_targets(begin, settings.lora.targets) if settings.lora else ()
    inputs = {name: digest_path(file) for name, (file, _) in corpora(run, stage).items()}
    package = Path(__file__).parent
    code = [digest_path(file) for place in (package, package / stage.name) for file in sorted(place.glob("*.py"))]
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


def _train(run: Run, stage: Stage, job: Job, site: Site) -> None:
    if job.finished.is_file():
        _publish_again(job)
        return
    rows = TokenRows.load(job.sets[TRAIN])
    plan = job.plan(rows)
    need = check_job(job, largest_of(rows, plan, packed=job.settings.packing), site.hardware)
    if need is not None:
        run.record(f"train.{job.stage}.estimate_gib", need, unit="GiB a worker")
    tokens = job.step_tokens(rows.item_tokens, plan)
    if job.settings.packing:
        beside = f"batches filled to {sum(tokens) / (len(plan) * job.settings.tokens_per_batch):.1%}"
    else:
        beside = f"{1 - sum(tokens) / padded_tokens(rows.item_costs, plan):.1%} padding beside them"
    worker, lora = job.settings.worker, job.settings.lora
    what = f"LoRA rank {lora.rank} on {', '.join(job.targets)}" if lora else stage.trains
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
        stage.beside_workers(job),
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
    own = {key.partition("/")[2]: value for key, value in last.items() if key.startswith(OVER_ALL)}
    columns = {name: last[key] for name, key in COLUMNS.items() if last.get(key) is not None}
    return int(last["step"]), {"loss": last["loss"], **own, **columns}
