"""What `agentmill bench training`, `resume`, `adaptation`, `drafter` and `trees` need: stage settings, a model, and Ray
where something is trained."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from agentmill.config import ConfigError, nearest
from agentmill.runs import Run
from cluster import chain
from cluster.base import model_folder
from cluster.config import RunConfig, config_of
from cluster.session import ray_session
from raytrain.hardware import under
from raytrain.settings import CptSettings, DpoSettings, DrafterSettings, SftSettings, StageSettings
from raytrain.site import Site

if TYPE_CHECKING:
    from benchmarks.adaptation import Extent
    from benchmarks.training import Sizes

Device = Literal["auto", "cpu", "gpu"]
DEFAULTS: Mapping[str, type[CptSettings] | type[SftSettings] | type[DpoSettings]] = {
    "cpt": CptSettings,
    "sft": SftSettings,
    "dpo": DpoSettings,
}


def settings_of(config: RunConfig, stage: str, device: Device | None) -> StageSettings:
    """A stage's settings of a configuration, the defaults where it leaves the stage out; `device` takes their place.

    Raises:
        ConfigError: when there is no such stage of training.
    """
    if stage not in DEFAULTS:
        guess = nearest(stage, DEFAULTS)
        meant = f"did you mean {guess}?" if guess else f"there are {', '.join(DEFAULTS)}"
        raise ConfigError(f"--stage {stage}: no stage of training has this name; {meant}")
    settings: StageSettings = getattr(config, stage) or DEFAULTS[stage].model_validate(
        under(config.hardware, stage, {})
    )
    if device is None:
        return settings
    return settings.model_copy(update={"worker": settings.worker.model_copy(update={"device": device})})


def training(
    folder: Path,
    source: Run | None,
    config: RunConfig,
    stages: Sequence[str],
    device: Device | None,
    sizes: "Sizes",
    model: str,
    results: Path | None,
) -> Run:
    """Run the bench of training in `folder`, with a Ray session of its own; see `benchmarks.training`."""
    from benchmarks.throughput import bench_training
    from benchmarks.training import Subject

    settings = {stage: settings_of(config, stage, device) for stage in stages}
    subject = Subject(model, config.expand, Site(config.hardware))
    return bench_training(folder, source, settings, sizes, subject, results, lambda: ray_session(folder / "ray.json"))


def resume(
    folder: Path,
    source: Run | None,
    config: RunConfig,
    stages: Sequence[str],
    device: Device | None,
    *,
    model: str,
    steps: int,
    kills: int,
    seed: int,
) -> tuple[Run, bool]:
    """Run the bench of resuming in `folder`; see `benchmarks.resume`, whose processes have a Ray session each."""
    from benchmarks.resume import bench_resume

    settings = {stage: settings_of(config, stage, device) for stage in stages}
    return bench_resume(folder, source, settings, model=model, steps=steps, kills=kills, seed=seed)


def adaptation(folder: Path, config: RunConfig, device: Device | None, extent: "Extent") -> Run:
    """Run the bench of adaptation from the configuration's base, with a Ray session of its own."""
    from benchmarks.adaptation import bench_adaptation

    settings = settings_of(config, "sft", device)
    assert isinstance(settings, SftSettings)
    with ray_session(folder / "ray.json"):
        return bench_adaptation(folder, model_folder(config.base), settings, extent, Site(config.hardware))


def drafters(
    folder: Path, source: Run, assignments: Sequence[str], device: Device | None, epochs: int, seed: int
) -> Run:
    """Run the bench of drafters for the newest model of a run, by the run's own settings with `assignments` applied."""
    from benchmarks.drafters import Extent, bench_drafters

    config = config_of(source, assignments)
    settings = _drafter_settings(config)
    if device is not None:
        settings = settings.model_copy(update={"worker": settings.worker.model_copy(update={"device": device})})
    with ray_session(folder / "ray.json"):
        student, extent = chain.model_of(source, config), Extent(epochs, seed)
        return bench_drafters(folder, source, student, settings, extent, Site(config.hardware))


def trees(source: Run, answers: int, *, depth: int, top_k: int, tokens: int) -> Run:
    """Run the bench of draft trees on a run's own drafter, in this process and without Ray."""
    from benchmarks.trees import bench_trees
    from raytrain.drafter.trees import TreeShape

    config = config_of(source)
    return bench_trees(source, _drafter_settings(config), config.hardware, TreeShape(depth, top_k, tokens), answers)


def _drafter_settings(config: RunConfig) -> DrafterSettings:
    """The drafter's settings of a configuration, the defaults where it leaves the drafter out."""
    return config.drafter or DrafterSettings.model_validate(under(config.hardware, "drafter", {}))
