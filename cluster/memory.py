"""What the training stages of a configuration would take of memory, computed before a run is begun."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from agentmill.lineage import gpu_memory_gib
from cluster.base import model_folder
from cluster.chain import FITTED, left_out
from cluster.config import RunConfig
from raytrain.footprint import largest_batch, trained_parameters
from raytrain.preflight import SHOWN, Verdict, remedies, weigh
from raytrain.settings import StageSettings
from raytrain.shape import ModelShape, read_shape


@dataclass(frozen=True)
class Forecast:
    """One stage: parameters of its model, those that are trained, the verdict, and what would fit where it does not."""

    stage: str
    parameters: int
    trained: int
    verdict: Verdict
    remedies: list[str]


def forecasts(config: RunConfig, models: Path | None = None) -> Iterator[Forecast]:
    """The stages that train, each at the largest batch that its settings allow, with a loss at every position.

    `models` is the run's folder of models, where there is one; else the base is read from where it comes from.

    Raises:
        ShapeError: when the base is of a family whose memory cannot be computed.
    """
    there = models is not None and (models / "base").is_dir()
    shape = read_shape(models / "base" if models is not None and there else model_folder(config.base))
    if config.expand is not None:
        shape = shape.expanded(config.expand.every)
    for stage in FITTED:
        if not left_out(config, stage):
            yield _forecast(stage, shape, getattr(config, stage), config)


def memory_table(found: list[Forecast], hardware: str) -> Table:
    """The forecasts as a table."""
    title = f"memory of one worker on {hardware}, at most"
    table = Table("stage", "parameters", "trained", "takes", "fits", title=title, title_justify="left")
    for one in found:
        fits = "yes" if one.verdict.fits else "[bold red]no[/]; " + "; or ".join(one.remedies or ["nothing here would"])
        table.add_row(one.stage, f"{one.parameters:,}", f"{one.trained:,}", one.verdict.text, fits)
    return table


def _forecast(stage: str, shape: ModelShape, settings: StageSettings, config: RunConfig) -> Forecast:
    on_gpu = settings.worker.device == "gpu" or (settings.worker.device == "auto" and gpu_memory_gib() is not None)
    batch, hardware = largest_batch(settings), config.hardware
    verdict = weigh(shape, settings, batch, hardware, on_gpu=on_gpu)
    found = [] if verdict.fits else remedies(shape, settings, batch, hardware, on_gpu=on_gpu)[:SHOWN]
    told = [f"{what} ({gib:.1f} GiB)" for what, gib in found]
    return Forecast(stage, shape.parameters, trained_parameters(shape, settings), verdict, told)
