"""What a training stage leaves beside the model: its manifest and its figures.

train.<stage>.{steps,loss,seconds,tokens_per_s,tokens,peak_gib} (estimate_gib was recorded before: the same, as it was
computed), and what the objective measures of held-out rows:
train.<stage>.<set>_<measure>, by group as well, train.<stage>.<group>.<set>_<measure>, for the set heldout and where a
set has several groups; of the model that the stage started from the same under train.<stage>.start, and of the trained
one before a merge under train.<stage>.trained.
"""

import json
from collections.abc import Mapping
from typing import Any

from agentmill.lineage import package_versions
from agentmill.log import say
from agentmill.runs import Run, digest_path
from raytrain.inputs import LENGTHS, UNITS, Stage
from raytrain.job import HELDOUT, Job
from raytrain.positions import MEASURE as BY_POSITION
from raytrain.steplog import read_steps


def manifest(job: Job, result: Mapping[str, Any]) -> dict[str, Any]:
    """manifest.json of the model: what it was made from and how, and how it scores."""
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


def record(run: Run, stage: Stage, job: Job, result: Mapping[str, Any]) -> None:
    """Record the stage's figures, and say those of the held-out rows."""
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
