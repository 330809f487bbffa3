"""With `train: new_blocks`, gradients reach the blocks that expansion added and nothing else."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from raytrain import attention
from raytrain.expand import ExpandError
from raytrain.hardware import CPU_ATTENTION
from raytrain.objectives import OBJECTIVES
from raytrain.settings import CptSettings
from tests.tiny_llama import write_tiny_llama


def job(folder: Path, **settings: Any) -> Any:
    """What an objective reads of a job."""
    return SimpleNamespace(start=folder, settings=CptSettings(**settings))


def model(folder: Path) -> Any:
    attention.register()
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=CPU_ATTENTION)
    OBJECTIVES["cpt"].prepare(loaded)
    return loaded


def test_only_the_new_blocks_learn(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "model", layers=3)
    (folder / "manifest.json").write_text(json.dumps({"new_blocks": [1]}))
    trained = model(folder)
    OBJECTIVES["cpt"].freeze(trained, job(folder, train="new_blocks"))
    trained(input_ids=torch.arange(5, 15)[None], labels=torch.arange(5, 15)[None]).loss.backward()
    with_gradient = {name for name, parameter in trained.named_parameters() if parameter.grad is not None}
    assert with_gradient == {name for name, _ in trained.named_parameters() if name.startswith("model.layers.1.")}


def test_all_weights_learn_by_default(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "model")
    trained = model(folder)
    OBJECTIVES["cpt"].freeze(trained, job(folder))
    assert all(parameter.requires_grad for parameter in trained.parameters())


def test_a_model_without_new_blocks_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "model")
    with pytest.raises(ExpandError, match="has no new blocks"):
        OBJECTIVES["cpt"].freeze(model(folder), job(folder, train="new_blocks"))
