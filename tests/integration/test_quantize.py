"""The stage quantize on a local Ray, for the shipped base: INT8 here, and the serving engine answers with it."""

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
from tests.practice import practice_rows

SETTINGS = QuantizeSettings(rows=40)
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_LOGGING_LEVEL": "ERROR"}


def new_run(folder: Path, model: Path) -> Run:
    run = Run.create(folder, {}, "test")
    for corpus, seed in (("calibration/in_domain", 1), ("sft/heldout", 2)):
        pq.write_table(pa.Table.from_pylist(practice_rows(40, seed)), run.path("corpora", f"{corpus}.parquet"))
    run.path("models").mkdir(exist_ok=True)
    run.path("models", "base").symlink_to(model, target_is_directory=True)
    return run


def answers(model: str, prompts: list[list[dict[str, str]]]) -> list[str]:
    from vllm import LLM, SamplingParams

    llm = LLM(model=model, max_model_len=512, enforce_eager=True)
    outputs = llm.chat(prompts, SamplingParams(temperature=0.0, max_tokens=96), use_tqdm=False)
    return [output.outputs[0].text for output in outputs]


def test_the_base_is_quantised_and_the_engine_answers_with_it(
    ray_local: None, tiny_model_dir: Path, tmp_path: Path
) -> None:
    run = new_run(tmp_path / "run", tiny_model_dir)
    stage.run(run, SETTINGS, start="base")
    value = {name: figure.value for name, figure in run.figures("quantize").items()}
    assert value["quantize.scheme"] == "int8"
    assert float(value["quantize.quantized_loss"]) < float(value["quantize.bf16_loss"]) + 0.02
    assert read_manifest(run.path("models", "quantized"))["scheme"] == "int8"
    asked = practice_rows(20, 3)
    task = ray.remote(num_cpus=1, max_retries=0, runtime_env={"env_vars": ENVIRONMENT})(answers)
    said = ray.get(task.remote(str(run.path("models", "quantized")), [row["prompt"] for row in asked]))
    assert sum(text == row["completion"][0]["content"] for text, row in zip(said, asked, strict=True)) >= 10


def test_a_set_that_is_not_there_is_told(ray_local: None, tiny_model_dir: Path, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", tiny_model_dir)
    with pytest.raises(UserError, match=r"quantize\.calibration=public: there is no .*public\.parquet"):
        stage.run(run, SETTINGS.model_copy(update={"calibration": "public"}), start="base")
