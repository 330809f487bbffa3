"""The stage sft on a local Ray with two real workers: what it leaves behind, and that kills change nothing."""

import io
import json
import os
import random
import re
import shutil
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agentmill.runs import Run
from raytrain import sft
from raytrain.checkpoints import find
from raytrain.hardware import HardwareSettings
from raytrain.merge import MergeError
from raytrain.preflight import MemoryRefused
from raytrain.settings import LoraSettings, MergeSettings, SftSettings, WorkerSettings
from raytrain.shards import Weights
from raytrain.site import Site
from raytrain.steplog import read_steps
from raytrain.sweep import sweep
from raytrain.worker import TrainingFailed
from tests.events import scalars
from tests.survival import driver, largest_difference, losses
from tests.tiny_llama import write_tiny_llama

STEPS, SAVE_EVERY = 120, 8
SETTINGS = SftSettings(
    worker=WorkerSettings(workers=2, threads=1, device="cpu"),
    lora=LoraSettings(rank=8, alpha=16),
    learning_rate=1e-2,
    max_steps=STEPS,
    tokens_per_batch=320,
    max_length=256,
    save_every_steps=SAVE_EVERY,
)


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


@pytest.fixture(scope="module")
def finished(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nothing disturbed."""
    run = new_run(tmp_path_factory.mktemp("undisturbed") / "run")
    sft.run(run, SETTINGS, seed=1, site=Site(HardwareSettings(peak_tflops=0.2)))
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
    assert all(row["mfu"] > 0 and row["memory_gib"] > 0.1 for row in steps)
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
    assert losses(finished, "sft")[1] == pytest.approx(total / count, rel=0.005)


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
    assert losses(run, "sft") == losses(finished, "sft")
    assert not list(run.root.glob("checkpoints/sft/*/ray"))
    before, after, between = (Weights(f) for f in (run.root / "models" / "base", trained, run.root / "models" / "sft"))
    name = "model.layers.1.mlp.down_proj.weight"
    want = before[name].load().float().lerp(after[name].load().float(), 0.25).bfloat16()
    assert between[name].load().equal(want)
    value = {name: float(figure.value) for name, figure in run.figures("train").items()}
    once = {name: float(figure.value) for name, figure in finished.figures("train").items()}
    assert value["train.sft.trained.heldout_loss"] == once["train.sft.heldout_loss"]
    assert once["train.sft.heldout_loss"] < value["train.sft.heldout_loss"] < once["train.sft.start.heldout_loss"]
    points = sweep(run, "sft", [MergeSettings(weight=weight) for weight in (0, 0.25, 0.5, 1)])
    domain = [point.domain for point in points]
    assert domain == sorted(domain, reverse=True)
    assert (domain[0], domain[3]) == (once["train.sft.start.heldout_loss"], once["train.sft.heldout_loss"])
    assert domain[1] == value["train.sft.heldout_loss"]
    results = {file.name: file.stat().st_mtime_ns for file in run.root.glob("merge/sft/*/*.json")}
    assert sorted(results) == ["linear-0.25.json", "linear-0.5.json"]
    assert sweep(run, "sft", [MergeSettings(weight=0.25)])[0] == points[1]  # kept, not measured again
    sft.run(run, SETTINGS, seed=1)
    assert Weights(run.root / "models" / "sft")[name].load().equal(after[name].load())


@dataclass(frozen=True)
class Disturbed:
    """A run that was disturbed in every way, what its drivers said, and how the one that was told to stop ended."""

    run: Run
    said: tuple[str, str, str]
    code: int
    passed_over: str


@pytest.fixture(scope="module")
def disturbed(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Disturbed:
    """A worker is told to stop, the driver is killed, the newest checkpoint loses half a file, the driver is told to
    stop, and one worker in place of two finishes the run."""
    folder = tmp_path_factory.mktemp("disturbed")
    run = new_run(folder / "run")
    with driver(run, "sft", SETTINGS, folder / "first") as first:
        worker = first.newest_worker()
        first.wait_for_step(1)
        worker.terminate()
        first.wait_for_line("going on after step")
        first.wait_for_step(2 * SAVE_EVERY + 2)
        first.kill()
    storage = next((run.root / "checkpoints" / "sft").iterdir()) / "ray"
    newest = find(storage).newest
    assert newest is not None
    shard = next(newest.folder.glob("global_step*/*optim_states.pt"))
    os.truncate(shard, shard.stat().st_size // 2)
    with driver(run, "sft", SETTINGS, folder / "second") as second:
        second.wait_for_line("going on after step")
        second.wait_for_step(second.going_on_after() + 1)
        second.process.terminate()
        code = second.end()
    alone = SETTINGS.model_copy(update={"worker": SETTINGS.worker.model_copy(update={"workers": 1})})
    with redirect_stderr(io.StringIO()) as third:
        sft.run(run, alone, seed=1)
    return Disturbed(run, (first.said, second.said, third.getvalue()), code, newest.folder.name)


def test_whatever_happens_no_loss_changes(finished: Run, disturbed: Disturbed) -> None:
    assert largest_difference(losses(finished, "sft"), losses(disturbed.run, "sft")) < 1e-4
    value = [float(run.figures()["train.sft.heldout_loss"].value) for run in (finished, disturbed.run)]
    assert value[0] == pytest.approx(value[1], abs=1e-3)


def test_whatever_happens_tensorboard_has_each_step_once(finished: Run, disturbed: Disturbed) -> None:
    for run in (finished, disturbed.run):
        found = scalars(run.root / "logs" / "tensorboard" / "sft")
        assert found["loss"] == found["learning_rate"] == list(range(1, STEPS + 1))
        assert found["heldout_loss"] == found["start/heldout_loss"] == [STEPS]


def test_a_worker_that_is_told_to_stop_saves_its_very_step(disturbed: Disturbed) -> None:
    (step,) = re.findall(r"a worker was told to stop \(SIGTERM\): step (\d+) is saved", disturbed.said[0])
    assert f"going on after step {step}\n" in disturbed.said[0]


def test_a_driver_that_is_told_to_stop_saves_its_very_step(disturbed: Disturbed) -> None:
    assert disturbed.code == 130
    (step,) = re.findall(r"stopped: step (\d+) is saved", disturbed.said[1])
    assert f"going on after step {step}, saved by 2 workers and taken over by 1" in disturbed.said[2]


def test_a_checkpoint_that_is_not_whole_is_passed_over_aloud(disturbed: Disturbed) -> None:
    assert re.search(rf"the checkpoint {disturbed.passed_over} does not count: \S+ has [\d,]+ bytes", disturbed.said[1])


def test_what_does_not_fit_stops_before_training(ray_local: None, tmp_path: Path) -> None:
    small = Site(HardwareSettings(name="a watch", host_memory_gib=0.5))
    with pytest.raises(MemoryRefused, match=r"sft\.worker: 2 workers .* do not fit on this machine's memory"):
        sft.run(new_run(tmp_path / "run"), SETTINGS, seed=1, site=small)


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
