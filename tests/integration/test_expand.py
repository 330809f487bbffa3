"""The stage expand on a local Ray: a plain folder, its figures, and nothing half-made."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from agentmill.runs import Run
from raytrain import expand
from raytrain.settings import ExpandSettings
from tests.tiny_llama import write_tiny_llama

EVERY = ExpandSettings(every=2)


@pytest.fixture(scope="module")
def run(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run.create(tmp_path_factory.mktemp("expand") / "run", {}, "test")
    write_tiny_llama(run.path("models", "base"), layers=4)
    expand.run(run, EVERY)
    return run


def test_the_model_is_a_plain_folder_that_computes_the_same(run: Run) -> None:
    base, expanded = run.root / "models" / "base", run.root / "models" / "expanded"
    ids = torch.tensor(AutoTokenizer.from_pretrained(expanded)("what does it cost?")["input_ids"])[None]
    models = [AutoModelForCausalLM.from_pretrained(folder, dtype="auto") for folder in (base, expanded)]
    assert [model.config.num_hidden_layers for model in models] == [4, 6]
    with torch.no_grad():
        before, after = (model(ids).logits for model in models)
    assert torch.equal(before, after)
    assert expand.new_blocks(expanded) == (2, 5)


def test_parameters_and_memory_are_recorded(run: Run) -> None:
    figures = run.figures("train.expand")
    model = AutoModelForCausalLM.from_pretrained(run.root / "models" / "expanded")
    assert figures["train.expand.parameters"].value == sum(p.numel() for p in model.parameters())
    assert float(figures["train.expand.start.parameters"].value) < float(figures["train.expand.parameters"].value)
    assert 0 <= float(figures["train.expand.peak_mib"].value) < 200
    manifest = json.loads((run.root / "models" / "expanded" / "manifest.json").read_text())
    assert manifest["start"]["model"] == "base"


def test_the_same_model_is_not_expanded_twice(run: Run) -> None:
    file = run.root / "models" / "expanded" / "manifest.json"
    before = file.stat().st_mtime_ns
    expand.run(run, EVERY)
    assert file.stat().st_mtime_ns == before
    expand.run(run, ExpandSettings(every=4))
    assert expand.new_blocks(run.root / "models" / "expanded") == (4,)
    expand.run(run, EVERY)


def test_a_wrong_divisor_leaves_the_older_model_in_place(run: Run) -> None:
    with pytest.raises(expand.ExpandError, match=r"expand.every=3 does not divide"):
        expand.run(run, ExpandSettings(every=3))
    assert expand.new_blocks(run.root / "models" / "expanded") == (2, 5)
    assert not list(Path(run.root / "models").glob(".*"))
