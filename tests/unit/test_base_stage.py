"""The stage base takes a model folder as it is, in one file or in shards, and refuses one that is not whole."""

from pathlib import Path

import pytest

from agentmill.config import ConfigError
from agentmill.runs import Run
from cluster import base
from cluster.base import BaseSettings
from raytrain.shards import INDEX, WEIGHTS, Weights, WeightsError, copied, write_weights
from tests.tiny_llama import write_tiny_llama


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    folder = write_tiny_llama(tmp_path / "model")
    whole = (folder / WEIGHTS).rename(tmp_path / WEIGHTS)
    write_weights(folder, [copied(tensor) for tensor in Weights(whole.parent)], 50_000)
    return folder


def test_a_model_of_several_shards_is_taken_whole(tmp_path: Path, sharded: Path) -> None:
    run = Run.create(tmp_path / "run", {}, "test")
    base.run(run, BaseSettings(model=sharded))
    there = Weights(run.root / "models" / "base")
    assert len({tensor.file for tensor in there}) > 1
    assert run.figures()["base.parameters"].value == there.parameters == Weights(tmp_path).parameters


def test_a_model_without_weights_is_refused(tmp_path: Path, sharded: Path) -> None:
    (sharded / INDEX).unlink()
    with pytest.raises(ConfigError, match=r"lacks model\.safetensors; give base\.model=FOLDER"):
        base.run(Run.create(tmp_path / "run", {}, "test"), BaseSettings(model=sharded))


def test_a_model_that_lacks_a_shard_is_refused(tmp_path: Path, sharded: Path) -> None:
    sorted(sharded.glob("*.safetensors"))[0].unlink()
    with pytest.raises(WeightsError, match="is missing"):
        base.run(Run.create(tmp_path / "run", {}, "test"), BaseSettings(model=sharded))
