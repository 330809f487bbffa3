"""The reference's log-probabilities, computed once by the workers and kept in the work folder.

DPO compares with the model that the stage started from (the adapter-off model). Its log-probabilities of fixed rows
never change, so that they can be computed before training; what is measured of held-out pairs needs them anyway.
Kept in reference/<set>.npy of the work folder, whose name covers the inputs and the model: one fp32 number a row, NaN
where it is still to be computed. Invariant: after a kill, only rows without a number are computed.
"""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from transformers import AutoModelForCausalLM, PreTrainedModel

from agentmill.runs import atomic_write_bytes
from raytrain.batches import Plan, in_order
from raytrain.data import TokenRows
from raytrain.folders import from_folder
from raytrain.hardware import Placement
from raytrain.job import Job
from raytrain.trainer import losses_of

Float32 = np.ndarray[Any, np.dtype[np.float32]]
BATCHES_AT_ONCE = 256  # of each rank, between two writes


def load_model(folder: Path, placement: Placement) -> PreTrainedModel:
    """The model in `folder`, in this placement's type and attention, on the CPU."""
    model: PreTrainedModel = from_folder(
        AutoModelForCausalLM, folder, dtype=placement.dtype, attn_implementation=placement.attention
    )
    return model


def load_for_scoring(folder: Path, placement: Placement) -> PreTrainedModel:
    """The model in `folder`, on this worker's device, for looking only."""
    return load_model(folder, placement).eval().to(device_of(placement))


def reference_file(job: Job, name: str) -> Path:
    """Where the log-probabilities of the set `name` are kept."""
    return job.work / "reference" / f"{name}.npy"


def load_reference(job: Job, name: str) -> Float32:
    """What `compute_reference` left: [rows], the log-probability of each row's completion."""
    values: Float32 = np.load(reference_file(job, name))
    return values


def compute_reference(job: Job, names: list[str]) -> None:
    """Compute the reference's log-probabilities of these sets, as far as they are not there. On every rank."""
    model = None
    for name in names:
        rows = TokenRows.load(job.sets[name])
        values = _known(job, name, len(rows))
        missing = torch.isnan(values).nonzero().flatten().tolist()
        if not missing:
            continue
        model = model or load_for_scoring(job.start, job.placement)
        lengths = rows.lengths[missing]
        plan = [[missing[i] for i in batch] for batch in in_order(lengths, job.settings.tokens_per_batch)]
        at_once = BATCHES_AT_ONCE * job.settings.worker.workers
        for part in (plan[i : i + at_once] for i in range(0, len(plan), at_once)):
            _compute(job, model, rows, part, values)
            _keep(job, name, values)


@torch.no_grad()
def log_probabilities(model: PreTrainedModel, rows: TokenRows, plan: Plan) -> dict[int, float]:
    """The summed log-probability of the completion of each row in these batches, by row."""
    return {row: -float(losses.sum()) for row, losses in losses_of(model, rows, plan)}


def device_of(placement: Placement) -> torch.device:
    """This worker's device."""
    return torch.device("cuda", torch.cuda.current_device()) if placement.device == "gpu" else torch.device("cpu")


def _known(job: Job, name: str, count: int) -> torch.Tensor:
    """What rank 0 finds in the work folder, on every rank alike: [rows] fp32 on the worker's device."""
    values, file = torch.full((count,), float("nan")), reference_file(job, name)
    if _rank() == 0 and file.is_file():
        values = torch.from_numpy(np.load(file))
    values = values.to(device_of(job.placement))
    torch.distributed.broadcast(values, src=0)
    return values


def _compute(job: Job, model: PreTrainedModel, rows: TokenRows, part: Plan, values: torch.Tensor) -> None:
    """Fill in the values of the rows in `part`, each rank its share of the batches."""
    found = log_probabilities(model, rows, part[_rank() :: job.settings.worker.workers])
    new = torch.zeros_like(values)
    if found:
        new[list(found)] = torch.tensor(list(found.values()), dtype=values.dtype, device=values.device)
    torch.distributed.all_reduce(new)
    done = [row for batch in part for row in batch]
    values[done] = new[done]


def _keep(job: Job, name: str, values: torch.Tensor) -> None:
    if _rank() == 0:
        stream = BytesIO()
        np.save(stream, values.cpu().numpy())
        atomic_write_bytes(reference_file(job, name), stream.getvalue())
    torch.distributed.barrier()


def _rank() -> int:
    return int(torch.distributed.get_rank())
