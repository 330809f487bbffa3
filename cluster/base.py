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
from raytrain.shards import INDEX, WEIGHTS, Weights

REQUIRED = ("config.json", "tokenizer.json")


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
        WeightsError: when the weights are not whole.
    """
    source = model_folder(settings)
    missing = missing_files(source)
    if missing:
        remedy = "give base.model=FOLDER" if settings.model else "make the shipped base with `agentmill base`"
        raise ConfigError(f"base.model={source} lacks {', '.join(missing)}; {remedy}")
    weights = Weights(source)
    with atomic_dir(run.path("models", "base")) as part:
        for file in sorted(p for p in source.iterdir() if p.is_file() and p.suffix != ".py"):
            shutil.copyfile(file, part / file.name)
    run.record("base.parameters", weights.parameters, unit="parameters")
    run.record("base.mib", round(weights.size / 2**20, 2), unit="MiB")
    say("base", f"{weights.parameters:,} parameters from {source.name if settings.model else 'the shipped base'}")


def missing_files(folder: Path) -> list[str]:
    """What a base model lacks; weights are one file, or shards with their index."""
    lacking = [name for name in REQUIRED if not (folder / name).is_file()]
    return lacking if any((folder / name).is_file() for name in (WEIGHTS, INDEX)) else [*lacking, WEIGHTS]
