"""What is checked on this machine before anything is started: the port, the model folder, the hardware.

Each check returns what is to be used, or raises UserError with the remedy; none starts or changes anything.
"""

import json
import os
import socket
from pathlib import Path

from agentmill.config import UserError
from agentmill.log import say
from rayserve.settings import LOOPBACK, EngineSettings

_MODEL_FILES = ("config.json", "tokenizer_config.json")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def free_port(port: int) -> int:
    """`port` if nothing listens on it, any free one for 0.

    Raises:
        UserError: when the port is busy or may not be used.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise UserError(
                f"serve.port={port} cannot be used on {LOOPBACK}: {error.strerror}; stop the program that listens "
                f"there (see `ss -ltnp`) or choose another with --set serve.port=PORT, 0 for any free one"
            ) from error
        return int(probe.getsockname()[1])


def checked_model(model_dir: Path | str | None) -> Path:
    """The model folder, if it looks like a whole Hugging Face model.

    Raises:
        UserError: when it is missing, or a file that is needed is missing or broken.
    """
    if model_dir is None:
        raise UserError("serve.model.kind=engine needs a model folder; give one, or set serve.model.kind=expert")
    folder = Path(model_dir).resolve()
    remedy = "run the pipeline to its stage sft first, or name another folder"
    if not folder.is_dir():
        raise UserError(f"model folder {folder} does not exist; {remedy}")
    missing = [name for name in _MODEL_FILES if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in _WEIGHTS):
        missing.append(_WEIGHTS[0])
    if missing:
        raise UserError(f"model folder {folder} is not whole: {', '.join(missing)} missing; {remedy}")
    for name in _MODEL_FILES:
        try:
            json.loads((folder / name).read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"model folder {folder}: {name} is not JSON ({error}); {remedy}") from error
    _check_weights(folder, remedy)
    return folder


def _check_weights(folder: Path, remedy: str) -> None:
    """Read the headers of the weights: a file that was cut short is found here and not minutes later."""
    from safetensors import SafetensorError, safe_open

    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="numpy") as weights:
                weights.keys()
        except (SafetensorError, OSError) as error:
            raise UserError(f"model folder {folder}: {file.name} is broken ({error}); {remedy}") from error


def fitted(engine: EngineSettings, folder: Path) -> EngineSettings:
    """The engine's settings for this machine and model: its threads, and a context that the model has.

    vLLM refuses to start with a longer context than that.
    """
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
