"""What a worker looks at to see that training under ZeRO loses no tensor: run by all ranks of a Ray Train group."""

import shutil
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from deepspeed import zero
from deepspeed.utils import safe_get_full_fp32_param
from safetensors.torch import load_file

from raytrain import attention, loop
from raytrain.checkpoints import find
from raytrain.job import Job
from raytrain.merge import merge_adapter
from raytrain.objectives import OBJECTIVES
from raytrain.resume import begin
from raytrain.stopping import StopWhenTold
from raytrain.trainer import skip_shared_memory_op
from raytrain.worker import prepare_process

Tensors = dict[str, torch.Tensor]
UPLOAD_S = 120.0


def round_trip(job: Job) -> None:
    """Train, save, load into a new trainer, and compare every tensor: weights, fp32 masters and both moments.

    Then the saved files: those of an adapter hold what was trained, merged they are the trained model and nothing else
    has changed; without an adapter they are whole weights.
    """
    prepare_process(job.placement)
    attention.register()
    skip_shared_memory_op()
    trained = _run(job)
    _wait_for_upload(job)
    checkpoint = begin(job).checkpoint
    assert checkpoint is not None
    _compare(trained, _run(job), "after loading")
    if torch.distributed.get_rank() == 0:
        _check_files(job, trained, checkpoint)
    torch.distributed.barrier()


def _run(job: Job) -> Tensors:
    """Train from the newest checkpoint to the end, which may be no step at all; everything that was trained."""
    start = begin(job)
    trainer = loop._trainer(job, OBJECTIVES[job.stage], start, StopWhenTold(job.stop, job.note))
    trainer.train(resume_from_checkpoint=str(start.checkpoint) if start.checkpoint else None)
    assert trainer.state.global_step == job.settings.max_steps
    found: Tensors = {}
    for name, parameter in trainer.model.named_parameters():
        with zero.GatheredParameters([parameter]):
            found[name] = parameter.detach().clone()
        if parameter.requires_grad:
            master = safe_get_full_fp32_param(parameter)
            assert master is not None
            found[f"{name} master"] = master.detach().clone()
    inner = trainer.model_wrapped.optimizer.optimizer  # torch's own, on this rank's shard
    for i, (shard, state) in enumerate(inner.state.items()):
        assert {"step", "exp_avg", "exp_avg_sq"} <= state.keys()
        found[f"{i} shard"] = shard.detach().clone()
        found |= {f"{i} {key}": torch.as_tensor(value).clone() for key, value in state.items()}
    assert any(" exp_avg" in name for name in found)
    loop._save(trainer, job)
    return found


def _wait_for_upload(job: Job) -> None:
    """The last step was saved at the end of training, and leaves in the background."""
    deadline = time.monotonic() + UPLOAD_S
    while find(job.storage).newest is None:
        assert time.monotonic() < deadline, "the checkpoint was not uploaded"
        time.sleep(0.05)
    torch.distributed.barrier()


def _compare(one: Tensors, other: Tensors, what: str) -> None:
    assert one.keys() == other.keys(), what
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different, f"{what}, {len(different)} of {len(one)} tensors differ: {different[:5]}"


def _check_files(job: Job, trained: Tensors, checkpoint: Path) -> None:
    start, published = (load_file(folder / "model.safetensors") for folder in (job.start, job.trained))
    assert start.keys() == published.keys()
    for name, tensor in trained.items():
        if name.endswith(" master"):
            weight = trained[name.removesuffix(" master")]
            assert torch.equal(tensor.to(weight.dtype), weight), f"{name} is not what the model computes with"
    if job.settings.lora is None:
        _compare({name: trained[name] for name in published}, published, "whole weights")
        assert not any(torch.equal(start[name], published[name]) for name in start), "every tensor is trained"
        return
    adapter = load_file(checkpoint / "adapter_model.safetensors")
    kept = {_plain(name): tensor for name, tensor in trained.items() if " " not in name}
    _compare({name: kept[_plain(name)] for name in adapter}, adapter, "the adapter's file")
    assert sum("lora_B" in name and bool(tensor.any()) for name, tensor in adapter.items()) == len(adapter) // 2
    frozen = {name: kept[_plain(name)] for name in start if _plain(name) in kept}
    _compare(frozen, {name: start[name] for name in frozen}, "the frozen weights")
    assert len(frozen) == len(start), "every weight of the start is in the trained model"
    again = job.work / "merged-again"
    again.mkdir()
    merge_adapter(job.start, checkpoint, again)
    _compare(load_file(again / "model.safetensors"), published, "the merged weights")
    shutil.rmtree(again)
    changed = {name for name in start if not torch.equal(start[name], published[name])}
    assert changed == {name for name in start if name.split(".")[-2] in job.targets}


def _plain(name: str) -> str:
    """The name of a weight without what PEFT puts in between."""
    return name.removeprefix("base_model.model.").replace(".base_layer", "").replace(".default", "")


def round_trips(config: dict[str, Any]) -> dict[str, Any]:
    """The loop of one worker: the round trip of each of config["jobs"]."""
    for job in config["jobs"]:
        round_trip(job)
    return {}
