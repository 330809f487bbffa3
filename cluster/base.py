"""The stage `base`: the model that fine-tuning starts from, as a plain Hugging Face folder in the run.

In goes the model that ships as package data, or a folder of the user's own; out comes `models/base`, whole or not at
all, and the figures `base.parameters` and `base.mib`.
"""

import shutil
from pathlib import Path

from pydantic import field_validator

from agentmill.config import ConfigError, Strict
from agentmill.log import say
from agentmill.runs import Run, atomic_dir

REQUIRED = ("config.json", "tokenizer.json", "model.safetensors")


class BaseSettings(Strict):
    """`model` is a Hugging Face model folder with safetensors; none: the small Llama that ships with the project."""

    model: Path | None = None

    @field_validator("model")
    @classmethod
    def _exists(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_dir():
            raise ValueError("there is no such folder; give a Hugging Face model folder, or leave it out")
        return value


def model_folder(settings: BaseSettings) -> Path:
    """The folder that the base is copied from."""
    if settings.model is not None:
        return settings.model
    from importlib.resources import files

    return Path(str(files("raytrain.base") / "weights"))


def run(run: Run, settings: BaseSettings) -> None:
    """Copy the base model into the run.

    Raises:
        ConfigError: when the folder is no model with safetensors and a tokenizer.
    """
    source = model_folder(settings)
    missing = [name for name in REQUIRED if not (source / name).is_file()]
    if missing:
        remedy = "give base.model=FOLDER" if settings.model else "make the shipped base with `agentmill base`"
        raise ConfigError(f"base.model={source} lacks {', '.join(missing)}; {remedy}")
    with atomic_dir(run.path("models", "base")) as part:
        for file in sorted(p for p in source.iterdir() if p.is_file() and p.suffix != ".py"):
            shutil.copyfile(file, part / file.name)
    weights = source / "model.safetensors"
    parameters = count_parameters(weights)
    run.record("base.parameters", parameters, unit="parameters")
    run.record("base.mib", round(weights.stat().st_size / 2**20, 2), unit="MiB")
    say("base", f"{parameters:,} parameters from {source.name if settings.model else 'the shipped base'}")


def count_parameters(weights: Path) -> int:
    """Parameters in a safetensors file, read from its header alone."""
    import json
    import math

    with weights.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
