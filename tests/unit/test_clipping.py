"""`agentmill clip-rate` on a small run: the table, the figures, the page, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agentmill.config import ConfigError
from agentmill.errors import UserError
from agentmill.runs import Run
from cluster.clipping import Measured, clip_run, lengths_of, table
from cluster.config import RunConfig
from tests.tiny_llama import write_tiny_llama


def call(text: str, agent: str) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": text}],
        "completion": [{"role": "assistant", "content": f"re: {text}"}],
        "agent": agent,
        "source": "teacher",
    }


def small_run(folder: Path, *sets: str) -> Run:
    run = Run.create(folder, RunConfig().resolved(), "test")
    write_tiny_llama(run.path("models", "sft"), positions=256)
    for name, words in (("in_domain", "car sofa lamp"), ("public", "rain wind snow"), ("mixed", "car rain sofa wind")):
        rows = [call(f"{word} {n}" * 3, "planner") for n in range(12) for word in words.split()]
        if name in sets:
            pq.write_table(pa.Table.from_pylist(rows), run.path("corpora", "calibration", f"{name}.parquet"))
    held = [call(f"boat {n}" * 4, "ab"[n % 2]) for n in range(8)]
    pq.write_table(pa.Table.from_pylist(held), run.path("corpora", "sft", "heldout.parquet"))
    return run


def test_rates_of_every_set_and_length_are_recorded_and_drawn(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", "in_domain", "public", "mixed")
    lines = clip_run(run, None, "16,128", 3, 8)
    figures = {name: one for name, one in run.figures("quantize").items() if "clip_rate." in name}
    names = {f"quantize.clip_rate.{name}@{length}" for name in ("in_domain", "public", "mixed") for length in (16, 128)}
    assert set(figures) == names
    for name in ("in_domain", "public", "mixed"):
        short, long = (float(figures[f"quantize.clip_rate.{name}@{length}"].value) for length in (16, 128))
        assert 0 <= long < short < 1
    assert lines[0].split() == ["length", "public", "in_domain", "mixed", "public/mixed", "in_domain/mixed"]
    assert "<svg" in (run.root / "quantize" / "clip.html").read_text()
    details = json.loads((run.root / "quantize" / "clip.json").read_text())
    assert set(details["mixed"]["by_group"]) == {"a", "b"}
    assert "model.layers.0.self_attn.q_proj" in details["mixed"]["by_layer"]


def test_a_set_that_is_not_there_is_left_out(tmp_path: Path) -> None:
    lines = clip_run(small_run(tmp_path / "run", "in_domain"), None, "16", 2, 4)
    assert lines[0].split() == ["length", "in_domain"]


def test_the_others_are_told_as_multiples_of_mixed() -> None:
    rates = {("public", 32): 6e-4, ("in_domain", 32): 3e-4, ("mixed", 32): 2e-4}
    found = table(Measured(rates, 100, rates, {}))
    assert found[1].split() == ["32", "6.000e-04", "3.000e-04", "2.000e-04", "3.00", "1.50"]


def test_what_cannot_be_measured_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no calibration set; run the stage corpora"):
        clip_run(small_run(tmp_path / "none"), None, "16", 2, 4)
    with pytest.raises(ConfigError, match="reads 256 tokens at most and 512 are asked for"):
        clip_run(small_run(tmp_path / "long", "in_domain"), None, "16,512", 2, 4)
    with pytest.raises(ConfigError, match="a sequence of 4 tokens says nothing"):
        lengths_of("4,32")
    with pytest.raises(ConfigError, match="no list of numbers"):
        lengths_of("32;64")
