"""What trackers are told of a stage: its names and settings, and what was measured of held-out rows at its end."""

import uuid
from collections.abc import Mapping
from typing import Any

from agentmill.runs import Run, atomic_write_text
from raytrain.job import Job
from raytrain.positions import MEASURE as BY_POSITION
from raytrain.tracking import Followed


def followed(run: Run, job: Job) -> Followed:
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


def measured(result: Mapping[str, Any]) -> dict[str, float]:
    """Means over the held-out sets: {"heldout_loss": ..., "start/heldout_loss": ...} for the model before; curves by
    position are left out."""
    found = {}
    for model, sets in result["scores"].items():
        for name, measures in sets.items():
            for measure, groups in measures.items():
                if not measure.startswith(BY_POSITION):
                    total, count = (sum(column) for column in zip(*groups.values(), strict=True))
                    found[f"{'' if model == 'end' else f'{model}/'}{name}_{measure}"] = total / count
    return found
