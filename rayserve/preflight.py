"""What is checked on this machine before anything is started: the port, the worlds, the model folder, the hardware.

Each check returns what is to be used, or raises UserError with the remedy. None starts anything, and the only thing
that one changes is an empty shared world, which gets its tables and rows.
"""

import json
import os
import random
import socket
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from agentmill.config import ConfigError, UserError
from agentmill.domains.base import WorldSettings, load_domain
from agentmill.domains.database import check_database, first_line
from agentmill.log import say
from rayserve.drift import checked_ranges
from rayserve.settings import LOOPBACK, EngineSettings, Speculative

_MODEL_FILES = ("config.json", "tokenizer_config.json")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
FREE_PORTS = range(20_000, 32_000)


def free_port(port: int) -> int:
    """`port` if nothing listens on it, any free one for 0.

    A free one is taken from below those that the system gives to outgoing connections: Serve binds it some seconds
    later, when one of those might have it.

    Raises:
        UserError: when the port is busy or may not be used.
    """
    if port == 0:
        return next(drawn for drawn in random.sample(FREE_PORTS, len(FREE_PORTS)) if _problem(drawn) is None)
    problem = _problem(port)
    if problem is not None:
        raise UserError(
            f"serve.port={port} cannot be used on {LOOPBACK}: {problem.strerror}; stop the program that listens "
            f"there (see `ss -ltnp`) or choose another with --set serve.port=PORT, 0 for any free one"
        ) from problem
    return port


def _problem(port: int) -> OSError | None:
    """What keeps a port from being listened on."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            return error
    return None


def check_worlds(worlds: WorldSettings, domain: str) -> None:
    """Look that the worlds' database answers, and make a shared world's tables where they are missing.

    Raises:
        ConfigError: when the URL cannot be used, the server does not answer, or its tables are of another version.
    """
    check_database(worlds)
    if not worlds.shared:
        return
    try:
        load_domain(domain).open_world(0, "", worlds).close()
    except SQLAlchemyError as error:
        raise ConfigError(
            f"system.world.url={worlds.url}: the tables cannot be made or filled ({first_line(error)}); see that "
            "it may be written, or name another database"
        ) from error


def checked_model(model_dir: Path | str | None) -> Path:
    """The model folder, if it looks like a whole Hugging Face model.

    Raises:
        UserError: when it is missing, or a file that is needed is missing or broken.
    """
    if model_dir is None:
        raise UserError("serve.model.kind=engine needs a model folder; give one, or set serve.model.kind=expert")
    remedy = "run the pipeline to its stage sft first, or name another folder"
    return _whole("model folder", Path(model_dir).resolve(), _MODEL_FILES, remedy)


def checked_drafter(speculative: Speculative) -> Speculative:
    """The same settings with the drafter's folder in full, if there is one and it looks whole.

    Raises:
        UserError: when a file of the drafter is missing or broken.
    """
    if not speculative.model:
        return speculative
    remedy = "train a drafter for this model first, or set serve.engine.speculative.method=ngram, which needs none"
    folder = _whole("serve.engine.speculative.model", Path(speculative.model).resolve(), ("config.json",), remedy)
    return speculative.model_copy(update={"model": str(folder)})


def _whole(what: str, folder: Path, names: Sequence[str], remedy: str) -> Path:
    """The folder, if the files `names` are JSON and the weights can be read."""
    if not folder.is_dir():
        raise UserError(f"{what} {folder} does not exist; {remedy}")
    missing = [name for name in names if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in _WEIGHTS):
        missing.append(_WEIGHTS[0])
    if missing:
        raise UserError(f"{what} {folder} is not whole: {', '.join(missing)} missing; {remedy}")
    for name in names:
        try:
            json.loads((folder / name).read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{what} {folder}: {name} is not JSON ({error}); {remedy}") from error
    _check_weights(what, folder, remedy)
    return folder


def _check_weights(what: str, folder: Path, remedy: str) -> None:
    """Read the headers of the weights: a file that was cut short is found here and not minutes later."""
    from safetensors import SafetensorError, safe_open

    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="numpy") as weights:
                weights.keys()
        except (SafetensorError, OSError) as error:
            raise UserError(f"{what} {folder}: {file.name} is broken ({error}); {remedy}") from error


def fitted(engine: EngineSettings, folder: Path) -> EngineSettings:
    """The engine's settings for this machine and model: its threads, its drafter, and a context that the model has.

    vLLM refuses to start with a longer context than that.

    Raises:
        UserError: when a file of the drafter is missing or broken, or ranges are sampled and the model has none.
    """
    if engine.sample_ranges:
        checked_ranges(folder, engine.sample_ranges)
    if engine.speculative is not None:
        engine = engine.model_copy(update={"speculative": checked_drafter(engine.speculative)})
    if engine.cpu_threads is None:
        threads = max(1, len(os.sched_getaffinity(0)) - 1)
        engine = engine.model_copy(update={"cpu_threads": threads})
    limit = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings")
    if not isinstance(limit, int) or engine.max_model_len <= limit:
        return engine
    say("serve", f"serve.engine.max_model_len={engine.max_model_len} lowered to {limit}, which is what the model has")
    return engine.model_copy(update={"max_model_len": limit})


def wants_gpu(engine: EngineSettings) -> bool:
    """Whether the engine will run on a GPU. Ray is initialised.

    Raises:
        UserError: when a GPU is asked for and Ray's cluster has none.
    """
    import ray

    gpus = ray.cluster_resources().get("GPU", 0)
    if engine.accelerator == "gpu" and not gpus:
        raise UserError(
            "serve.engine.accelerator=gpu, and Ray's cluster has no GPU; set it to auto or cpu, or start Ray on a "
            "machine with one"
        )
    return engine.accelerator != "cpu" and gpus > 0
