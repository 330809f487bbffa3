"""Models that a run starts itself: only here the engines of rayserve and the settings of the simulation meet.

`playing` starts the engines that some of the models name, gives the models back as endpoints, and stops the engines
when the stage ends. Two roles that name the same engine share it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentmill.lineage import require_memory
from agentmill.runs import digest_json
from rayserve.settings import ModelEngine
from simulation.models import ModelSettings

ENGINE_GIB = 3.0


@contextmanager
def playing(engines: Mapping[str, ModelEngine], *models: ModelSettings) -> Iterator[list[ModelSettings]]:
    """The models, in order, those of kind=engine as endpoints that answer while the block runs.

    Raises:
        UserError: when an engine cannot be started.
    """
    wanted = {model.name: engines[model.name] for model in models if model.kind == "engine"}
    if not wanted:
        yield list(models)
        return
    from rayserve.engines import engines as start

    need = sum(ENGINE_GIB * one.replicas for one in wanted.values() if one.accelerator != "gpu")
    require_memory(need, f"the engines {', '.join(wanted)}", "lower their replicas or cpu_kv_cache_gib")
    with start(wanted) as urls:
        yield [
            model.started(urls[model.name], served_as(wanted[model.name])) if model.kind == "engine" else model
            for model in models
        ]


def served_as(engine: ModelEngine) -> str:
    """What tells the answers of an engine from another's: its settings that decide them, and the model's files.

    Of a folder's weights only names and sizes count: reading them all would take minutes.
    """
    folder = Path(engine.model)
    files = (
        sorted([file.name, file.stat().st_size] for file in folder.iterdir() if file.is_file())
        if folder.is_dir()
        else []
    )
    return f"engine/{digest_json([engine.answering, files])[:16]}"


def engine_inputs(engines: Mapping[str, ModelEngine], *models: ModelSettings) -> dict[str, Any]:
    """What a stage's result depends on, where its models are engines: an entry for each of them."""
    names = sorted({model.name for model in models if model.kind == "engine"})
    return {"engines": {name: served_as(engines[name]) for name in names}} if names else {}
