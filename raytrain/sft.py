"""The stage sft: LoRA fine-tuning of models/base on corpora/sft, merged into the plain model folder models/sft.

Reads corpora/sft/{train,heldout}.parquet, public_heldout.parquet where public data was mixed in, and models/base.
The driver tokenises, reports lengths and overflow, and starts the workers; they train, merge and score. Killed at any
point, the stage goes on from the newest checkpoint under checkpoints/sft/<digest>, where the digest covers the inputs
every setting that changes the result and this package's code; when models/sft is in place, that folder is removed. A
models/sft of the same digest is the result already.

Records train.sft.{steps,loss,seconds,tokens_per_s,tokens,peak_gib,heldout_loss,public_heldout_loss},
train.sft.<agent>.heldout_loss, train.base.heldout_loss and train.base.public_heldout_loss.
"""

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from agentmill.lineage import package_versions
from agentmill.log import duration, say
from agentmill.runs import Run, atomic_dir, digest_json, digest_path
from raytrain.batches import padded_tokens
from raytrain.data import TokenRows, tokenise
from raytrain.hardware import place
from raytrain.job import HELDOUT, PUBLIC_HELDOUT, TRAIN, Job
from raytrain.merge import MANIFEST, check_targets, publish
from raytrain.settings import SftSettings
from raytrain.steplog import read_steps
from raytrain.worker import launch, watched

STAGE = "sft"
CHECKPOINTS = "ray"
NOT_IN_RESULT = {"log_every_steps", "save_every_steps", "keep_checkpoints"}


def run(run: Run, settings: SftSettings, *, seed: int) -> None:
    """Train, merge, score and record. Ray must be initialised.

    Raises:
        UserError: when an input is missing or cannot be trained on, or training failed for good.
    """
    job = _job(run, settings, seed)
    target = run.path("models", STAGE)
    if not job.work.exists() and _digest_of(target) == job.work.name:
        say(STAGE, f"models/{STAGE} is the result of these inputs and settings already; remove it to train again")
        return
    _clear_other_work(job.work)
    _prepare(run, job)
    started = time.monotonic()
    if not job.result.is_file():
        _train(job)
    result = json.loads(job.result.read_text(encoding="utf-8"))
    publish(job.merged, target, _manifest(job, result))
    _record(run, job, result)
    shutil.rmtree(job.work)
    say(STAGE, f"models/{STAGE} is in place after {duration(time.monotonic() - started)}")


def _job(run: Run, settings: SftSettings, seed: int) -> Job:
    import ray

    base = run.root / "models" / "base"
    targets = check_targets(base, settings.lora.targets)
    inputs = {name: digest_path(file) for name, file in _corpora(run).items()}
    asked = settings.model_dump(mode="json", exclude=NOT_IN_RESULT)
    code = [digest_path(file) for file in sorted(Path(__file__).parent.glob("*.py"))]
    digest = digest_json({"in": inputs, "base": digest_path(base), "settings": asked, "seed": seed, "code": code})
    return Job(
        work=run.path("checkpoints", STAGE, digest[:16]),
        base=base,
        log=run.path("logs", f"{STAGE}.jsonl"),
        settings=settings,
        placement=place(settings.worker, ray.cluster_resources()),
        targets=targets,
        seed=seed,
    )


def _corpora(run: Run) -> dict[str, Path]:
    files = {name: run.root / "corpora" / STAGE / f"{name}.parquet" for name in (TRAIN, HELDOUT, PUBLIC_HELDOUT)}
    return {name: file for name, file in files.items() if name != PUBLIC_HELDOUT or file.is_file()}


def _digest_of(model: Path) -> str | None:
    """What the model in this folder was made from, as its manifest says; None where there is none."""
    manifest = model / MANIFEST
    return str(json.loads(manifest.read_text(encoding="utf-8"))["digest"]) if manifest.is_file() else None


def _clear_other_work(work: Path) -> None:
    """Remove what a run with other inputs or settings left unfinished."""
    for other in work.parent.iterdir() if work.parent.is_dir() else ():
        if other != work:
            say(STAGE, f"inputs or settings changed: removing the unfinished checkpoints/{STAGE}/{other.name}")
            shutil.rmtree(other)


def _prepare(run: Run, job: Job) -> None:
    """Tokenise every corpus into the work folder, say what was found, and take a fixed sample of held-out rows."""
    if (job.work / "rows").is_dir():
        return
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job.base, local_files_only=True)
    settings = job.settings
    with atomic_dir(job.work / "rows") as folder:
        for name, file in _corpora(run).items():
            rows, report = tokenise(file, tokenizer, settings.max_length, settings.overflow)
            say(STAGE, f"{name}: {report.text()}")
            run.record(f"train.{STAGE}.{name}_rows", report.kept, n=report.rows)
            run.record(f"train.{STAGE}.{name}_dropped", report.over, n=report.rows)
            if name != TRAIN and len(rows) > settings.heldout_rows:
                draw = np.random.default_rng(job.seed).choice(len(rows), settings.heldout_rows, replace=False)
                rows = rows.take(sorted(int(i) for i in draw))
            rows.save(folder / name)


def _train(job: Job) -> None:
    lengths = TokenRows.load(job.sets[TRAIN]).lengths
    plan = job.plan(lengths)
    tokens = job.step_tokens(lengths, plan)
    padding = 1 - sum(tokens) / padded_tokens(lengths, plan)
    say(
        STAGE,
        f"{len(tokens)} steps of about {sum(tokens) // len(tokens):,} tokens ({padding:.1%} padding beside them), "
        f"{job.settings.worker.workers} workers x {job.placement.threads} threads, {job.placement.precision} on "
        f"{job.placement.device}, ZeRO {job.settings.worker.zero_stage}, LoRA rank {job.settings.lora.rank} on "
        f"{', '.join(job.targets)}",
    )
    if not (job.work / CHECKPOINTS).is_dir():
        job.log.unlink(missing_ok=True)
    with watched(STAGE, len(tokens), lambda: _last_step(job.log)):
        launch(
            _loop,
            {"job": job},
            name=CHECKPOINTS,
            storage=job.work,
            settings=job.settings.worker,
            placement=job.placement,
            keep_checkpoints=job.settings.keep_checkpoints,
        )


def _loop(config: dict[str, Any]) -> None:
    from raytrain.finetune import finetune

    finetune(config["job"])


def _last_step(log: Path) -> tuple[int, dict[str, object]]:
    rows = read_steps(log)
    if not rows:
        return 0, {}
    return int(rows[-1]["step"]), {"loss": rows[-1]["loss"], "tokens/s": rows[-1]["tokens_per_s"]}


def _manifest(job: Job, result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "stage": STAGE,
        "digest": job.work.name,
        "base": {"digest": digest_path(job.base)},
        "settings": job.settings.model_dump(mode="json"),
        "seed": job.seed,
        "lora_modules": list(job.targets),
        "steps": result["steps"],
        "losses": result["losses"],
        "versions": package_versions(),
    }


def _record(run: Run, job: Job, result: Mapping[str, Any]) -> None:
    steps = read_steps(job.log)
    last, tail = steps[-1], steps[-max(1, len(steps) // 20) :]
    prefix = f"train.{STAGE}"
    run.record(f"{prefix}.steps", result["steps"], unit="steps")
    run.record(f"{prefix}.loss", sum(row["loss"] for row in tail) / len(tail), n=len(tail), unit="nats/token")
    run.record(f"{prefix}.seconds", last["seconds"], unit="s")
    run.record(f"{prefix}.tokens", last["tokens"], unit="tokens")
    run.record(f"{prefix}.tokens_per_s", last["tokens"] / last["seconds"], n=last["tokens"], unit="tokens/s")
    run.record(f"{prefix}.peak_gib", max(row["memory_gib"] for row in steps), unit="GiB a worker")
    for model, sets in result["losses"].items():
        for name, groups in sets.items():
            _record_loss(run, f"train.{model}.{name}_loss", list(groups.values()))
        for group, sums in sets[HELDOUT].items():
            _record_loss(run, f"train.{model}.{group}.{HELDOUT}_loss", [sums])


def _record_loss(run: Run, name: str, sums: list[list[float]]) -> None:
    total, tokens = (sum(column) for column in zip(*sums, strict=True))
    run.record(name, total / tokens, n=int(tokens), unit="nats/token")
    say(STAGE, f"{name} {total / tokens:.4f} nats a token over {int(tokens):,} tokens")
