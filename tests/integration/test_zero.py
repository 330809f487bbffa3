"""ZeRO loses no tensor: two real workers train, save and load, and compare everything (see `tests.zero`)."""

from pathlib import Path
from typing import Any

from raytrain import sft
from raytrain.inputs import Stage, prepare
from raytrain.job import Job
from raytrain.settings import LoraSettings, SftSettings, WorkerSettings
from raytrain.site import DEFAULT_SITE
from raytrain.stage import job_of
from raytrain.worker import launch
from tests.integration.test_sft import new_run

ADAPTER = LoraSettings(rank=8, alpha=16)
STEPS = 4


def prepared(folder: Path, lora: LoraSettings | None, **worker: Any) -> Job:
    """A job with its rows, as the driver of the stage makes it."""
    settings = SftSettings(
        worker=WorkerSettings(workers=2, threads=1, device="cpu", max_failures=0, **worker),
        lora=lora,
        learning_rate=1e-2,
        max_steps=STEPS,
        tokens_per_batch=512,
        max_length=256,
        save_every_steps=STEPS,
    )
    run = new_run(folder)
    of = Stage(sft.NAME, sft.tokenise_completions)
    made = job_of(run, of, settings, "base", 1, DEFAULT_SITE)
    prepare(run, of, made)
    return made


def test_no_tensor_is_lost_under_any_zero_stage(ray_local: None, tmp_path: Path) -> None:
    jobs = [
        prepared(tmp_path / "3-lora", ADAPTER, zero_stage=3),
        prepared(tmp_path / "3-lora-offload", ADAPTER, zero_stage=3, offload="parameters"),
        prepared(tmp_path / "3-all", None, zero_stage=3),
        prepared(tmp_path / "2-lora-offload", ADAPTER, zero_stage=2, offload="optimizer"),
        prepared(tmp_path / "1-all", None, zero_stage=1),
    ]
    first = jobs[0]
    launch(
        _round_trips,
        {"jobs": jobs},
        label="zero",
        storage=tmp_path,  # above the checkpoints of all jobs
        stop=first.stop,
        settings=first.settings.worker,
        placement=first.placement,
    )
    assert all((job.trained / "model.safetensors").is_file() for job in jobs)


def _round_trips(config: dict[str, Any]) -> dict[str, Any]:
    from tests.zero import round_trips

    return round_trips(config)
