"""The stage sft on a local Ray with two real workers: what it leaves behind, and that kills change nothing."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agentmill.runs import Run
from raytrain import sft
from raytrain.merge import MergeError
from raytrain.settings import LoraSettings, MergeSettings, SftSettings, WorkerSettings
from raytrain.shards import Weights
from raytrain.steplog import read_steps
from raytrain.worker import TrainingFailed
from tests.tiny_llama import write_tiny_llama

STEPS, SAVE_EVERY = 16, 4
SETTINGS = SftSettings(
    worker=WorkerSettings(workers=2, threads=1, device="cpu"),
    lora=LoraSettings(rank=8, alpha=16),
    learning_rate=1e-2,
    max_steps=STEPS,
    tokens_per_batch=2048,
    max_length=256,
    save_every_steps=SAVE_EVERY,
)
DRIVER = """
import os, sys, ray
from agentmill.runs import Run
from raytrain import sft
from raytrain.settings import SftSettings
ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
sft.run(Run.open(sys.argv[1]), SftSettings.model_validate_json(sys.argv[2]), seed=1)
"""


def rows(count: int, seed: int, source: str = "expert") -> list[dict[str, Any]]:
    draw = random.Random(seed)
    result = []
    for i in range(count):
        name = "".join(draw.choice("abcdefgh") for _ in range(draw.randint(3, 12)))
        agent = draw.choice(["understander", "planner"])
        user = f"customer: my name is {name}" + " please" * draw.randint(0, 12)
        result.append(
            {
                "prompt": [{"role": "system", "content": agent}, {"role": "user", "content": user}],
                "completion": [{"role": "assistant", "content": json.dumps({"name": name})}],
                "agent": agent,
                "call_id": f"c{i}",
                "sid": f"s{i // 4}",
                "source": source,
            }
        )
    return result


def new_run(folder: Path) -> Run:
    """A run directory as the stages before sft leave it."""
    run = Run.create(folder, {}, "test")
    for name, count, seed, source in (
        ("train", 900, 1, "expert"),
        ("heldout", 60, 2, "expert"),
        ("public_heldout", 20, 3, "public"),
    ):
        pq.write_table(pa.Table.from_pylist(rows(count, seed, source)), run.path("corpora", "sft", f"{name}.parquet"))
    write_tiny_llama(run.path("models", "base"))
    return run


def losses(run: Run) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in read_steps(run.root / "logs" / "sft.jsonl")]


def wait_for_step(run: Run, step: int, alive: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and alive():
        steps = read_steps(run.root / "logs" / "sft.jsonl")
        if steps and steps[-1]["step"] >= step:
            return
        time.sleep(0.05)
    raise AssertionError(f"training did not reach step {step}")


@pytest.fixture(scope="module")
def finished(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nothing disturbed."""
    run = new_run(tmp_path_factory.mktemp("undisturbed") / "run")
    sft.run(run, SETTINGS, seed=1)
    return run


def test_the_model_is_a_plain_folder_that_answers(finished: Run) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = finished.root / "models" / "sft"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer.apply_chat_template(rows(1, 9)[0]["prompt"], add_generation_prompt=True, return_tensors="pt")
    with torch.no_grad():
        reply = model.generate(**prompt, max_new_tokens=4, do_sample=False)
    assert reply.shape[1] > prompt["input_ids"].shape[1]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["steps"] == STEPS
    assert manifest["versions"]["trl"]


def test_figures_and_log_agree(finished: Run) -> None:
    steps = read_steps(finished.root / "logs" / "sft.jsonl")
    assert [row["step"] for row in steps] == list(range(1, STEPS + 1))
    assert all(row["grad_norm"] > 0 and row["tokens_per_s"] > 0 for row in steps)
    figures = finished.figures("train")
    assert figures["train.sft.steps"].value == STEPS
    assert figures["train.sft.tokens"].value == steps[-1]["tokens"]
    assert figures["train.sft.tokens_per_s"].value == pytest.approx(steps[-1]["tokens"] / steps[-1]["seconds"])


def test_training_lowers_the_heldout_loss_of_every_agent(finished: Run) -> None:
    value = {name: float(figure.value) for name, figure in finished.figures("train").items()}
    assert value["train.sft.heldout_loss"] < 0.9 * value["train.sft.start.heldout_loss"]
    for agent in ("understander", "planner"):
        assert value[f"train.sft.{agent}.heldout_loss"] < value[f"train.sft.start.{agent}.heldout_loss"]
    assert value["train.sft.public_heldout_loss"] < value["train.sft.start.public_heldout_loss"]


def test_the_first_loss_is_that_of_the_base(finished: Run) -> None:
    """The loss as transformers computes it, row by row and without padding, is the loss of step 1."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from raytrain.batches import plan_batches
    from raytrain.data import tokenise

    base = finished.root / "models" / "base"
    tokens, _ = tokenise(
        "sft", finished.root / "corpora" / "sft" / "train.parquet", AutoTokenizer.from_pretrained(base), 256, "error"
    )
    plan = plan_batches(tokens.lengths, SETTINGS.tokens_per_batch, 2, 1, seed=1)
    model, total, count = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), 0.0, 0
    for index in plan[0] + plan[1]:
        ids, start = tokens.row(index)
        labels = torch.tensor(ids.tolist())
        with torch.no_grad():
            logits = model(labels[None].long()).logits[0]
        part = torch.nn.functional.cross_entropy(logits[start - 1 : -1], labels[start:].long(), reduction="sum")
        total, count = total + float(part), count + len(ids) - start
    assert losses(finished)[0][1] == pytest.approx(total / count, rel=0.005)


def test_what_another_merge_needs_is_left_and_no_checkpoint(finished: Run) -> None:
    (work,) = (finished.root / "checkpoints" / "sft").iterdir()
    left = sorted(file.name for file in work.iterdir())
    assert left == ["begun.json", "rows", "steps.jsonl", "trained", "trained.json"]


def test_the_same_inputs_are_not_trained_on_twice(finished: Run) -> None:
    before = (finished.root / "models" / "sft" / "manifest.json").stat().st_mtime_ns
    sft.run(finished, SETTINGS, seed=1)
    assert (finished.root / "models" / "sft" / "manifest.json").stat().st_mtime_ns == before


def test_another_merge_needs_no_training(finished: Run, tmp_path: Path) -> None:
    """The kept model is merged with its start, what is published is scored, and nothing is trained."""
    shutil.copytree(finished.root, tmp_path / "run")
    run, trained = Run.open(tmp_path / "run"), finished.root / "models" / "sft"
    shutil.rmtree(run.root / "logs")
    sft.run(run, SETTINGS.model_copy(update={"merge": MergeSettings(weight=0.25)}), seed=1)
    assert losses(run) == losses(finished)
    assert not list(run.root.glob("checkpoints/sft/*/ray"))
    before, after, between = (Weights(f) for f in (run.root / "models" / "base", trained, run.root / "models" / "sft"))
    name = "model.layers.1.mlp.down_proj.weight"
    want = before[name].load().float().lerp(after[name].load().float(), 0.25).bfloat16()
    assert between[name].load().equal(want)
    value = {name: float(figure.value) for name, figure in run.figures("train").items()}
    once = {name: float(figure.value) for name, figure in finished.figures("train").items()}
    assert value["train.sft.trained.heldout_loss"] == once["train.sft.heldout_loss"]
    assert once["train.sft.heldout_loss"] < value["train.sft.heldout_loss"] < once["train.sft.start.heldout_loss"]
    sft.run(run, SETTINGS, seed=1)
    assert Weights(run.root / "models" / "sft")[name].load().equal(after[name].load())


def test_a_killed_worker_changes_no_loss(finished: Run, tmp_path: Path) -> None:
    run, killed = new_run(tmp_path / "run"), []

    def kill_one() -> None:
        wait_for_step(run, SAVE_EVERY + 2, lambda: True)
        worker = training_workers()[-1]
        worker.kill()
        killed.append(worker.pid)

    killer = threading.Thread(target=kill_one)
    killer.start()
    sft.run(run, SETTINGS, seed=1)
    killer.join()
    assert killed
    assert losses(run) == losses(finished)
    assert run.figures()["train.sft.heldout_loss"].value == finished.figures()["train.sft.heldout_loss"].value


def training_workers() -> list[psutil.Process]:
    """The train workers of this test's Ray: descendants of this process by name."""
    found = [p for p in psutil.Process().children(recursive=True) if "RayTrainWorker" in " ".join(p.cmdline())]
    assert found
    return found


def test_a_killed_driver_goes_on_where_it_was(finished: Run, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    command = [sys.executable, "-c", DRIVER, str(run.root), SETTINGS.model_dump_json()]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    driver = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        wait_for_step(run, 2 * SAVE_EVERY + 1, lambda: driver.poll() is None)
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    before = read_steps(run.root / "logs" / "sft.jsonl")
    assert not (run.root / "models" / "sft").exists()
    sft.run(run, SETTINGS, seed=1)
    after = read_steps(run.root / "logs" / "sft.jsonl")
    assert losses(run) == losses(finished)
    assert after[:SAVE_EVERY] == before[:SAVE_EVERY]  # kept, not trained again


def test_an_unknown_target_stops_before_training(finished: Run) -> None:
    wrong = SETTINGS.model_copy(update={"lora": LoraSettings(targets=("qproj",))})
    with pytest.raises(MergeError, match="qproj matches no linear module"):
        sft.run(finished, wrong, seed=1)


def test_a_loop_that_fails_for_good_says_why(ray_local: None, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    config = run.root / "models" / "base" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "hidden_size": 128}))
    once = SETTINGS.model_copy(update={"worker": WorkerSettings(workers=2, device="cpu", max_failures=0)})
    with pytest.raises(TrainingFailed, match=r"training failed 1 times.*size"):
        sft.run(run, once, seed=1)
