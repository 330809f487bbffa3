"""The stage quantize on a local Ray, for the shipped base and a drafter: INT8 here, and the serving engine answers with
both.

FP8, which no engine runs on a CPU, is made of a tiny model and judged by its clip rate.
"""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from agentmill.errors import UserError
from agentmill.runs import Run
from raytrain.folders import read_manifest
from raytrain.quantize import stage
from raytrain.settings import QuantizeSettings
from tests.drafted import SETTINGS as DRAFTER
from tests.drafted import ask
from tests.practice import practice_rows
from tests.tiny_llama import write_tiny_llama

SETTINGS = QuantizeSettings(rows=40)


def write_corpora(run: Run, calibration: list[dict[str, object]] | None = None) -> None:
    for corpus, rows in (
        ("calibration/in_domain", calibration or practice_rows(40, 1)),
        ("sft/heldout", practice_rows(40, 2)),
    ):
        pq.write_table(pa.Table.from_pylist(rows), run.path("corpora", f"{corpus}.parquet"))


def new_run(folder: Path, model: Path, calibration: list[dict[str, object]] | None = None) -> Run:
    run = Run.create(folder, {}, "test")
    write_corpora(run, calibration)
    run.path("models").mkdir(exist_ok=True)
    run.path("models", "base").symlink_to(model, target_is_directory=True)
    return run


@pytest.fixture(scope="module")
def quantized(drafted_run: Run) -> Run:
    """The run of a student and its drafter, with both in 8 bits."""
    write_corpora(drafted_run)
    stage.run(drafted_run, SETTINGS, start="base", drafter=DRAFTER)
    return drafted_run


def test_the_base_and_its_drafter_are_quantised_and_lose_little(quantized: Run) -> None:
    value = {name: figure.value for name, figure in quantized.figures("quantize").items()}
    assert value["quantize.scheme"] == "int8"
    assert "quantize.clip_rate" not in value  # every token has a scale of its own
    assert float(value["quantize.quantized_loss"]) < float(value["quantize.bf16_loss"]) + 0.02
    before, after = (float(value[f"quantize.drafter_{name}_mgl"]) for name in ("bf16", "quantized"))
    assert before == pytest.approx(float(quantized.figures()["drafter.synthetic.mgl"].value), rel=0.03)
    assert after == pytest.approx(before, rel=0.03)
    assert float(value["quantize.drafter_peak_gib"]) < 1.1 * float(value["quantize.drafter_estimate_gib"])
    for name, start in (("quantized", "base"), ("drafter_quantized", "drafter")):
        manifest = read_manifest(quantized.path("models", name))
        assert (manifest["scheme"], manifest["start"]["model"]) == ("int8", start)


def test_the_engine_answers_the_same_with_a_drafter_in_8_bits(quantized: Run) -> None:
    asked, models = practice_rows(20, 3), quantized.root / "models"
    drafters = None, str(models / "drafter_quantized")
    engines = [ask(str(models / "quantized"), drafter, [row["prompt"] for row in asked]) for drafter in drafters]
    (said, _), (drafted, mgl) = ray.get(engines)
    assert sum(text == row["completion"][0]["content"] for text, row in zip(said, asked, strict=True)) >= 10
    assert drafted == said
    assert mgl > 1.7


def test_a_set_that_is_not_there_is_told(ray_local: None, tiny_model_dir: Path, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", tiny_model_dir)
    with pytest.raises(UserError, match=r"quantize\.calibration=public: there is no .*public\.parquet"):
        stage.run(run, SETTINGS.model_copy(update={"calibration": "public"}), start="base")


def test_fp8_is_served_only_where_little_is_clipped(ray_local: None, tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "model", positions=2048)
    fp8 = SETTINGS.model_copy(update={"scheme": "fp8"})
    good = new_run(tmp_path / "good", model)
    stage.run(good, fp8, start="base")
    figure = good.figures("quantize")["quantize.clip_rate"]
    assert float(figure.value) <= 1e-3  # the bound, unless it is set
    ranges = json.loads((good.root / "models" / "quantized" / "ranges.json").read_text())
    assert len(ranges) == 2 * 7 and min(ranges.values()) > 0

    short = [
        {**row, "prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]}
        for row in practice_rows(1, 1)
    ]
    bad = new_run(tmp_path / "bad", model, short)
    told = (
        r"quantize\.clip_rate=\S+ is above quantize\.max_clip_rate=0: .*by layer: .*clipped\.json\); calibrate on more"
    )
    with pytest.raises(UserError, match=told):
        stage.run(bad, fp8.model_copy(update={"max_clip_rate": 0.0}), start="base")
    assert not (bad.root / "models" / "quantized").exists()
    clipped = bad.figures("quantize")["quantize.clip_rate"]
    assert float(clipped.value) > 1e-3 > float(figure.value)
    by_layer = json.loads((bad.root / "quantize" / "clipped.json").read_text())["by_layer"]
    assert set(by_layer) == set(ranges)
