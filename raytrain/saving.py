"""Saved steps leave the machine beside training: each checkpoint is handed to Ray Train, uploaded in the background.

A checkpoint's local folder is removed by Ray once it is uploaded and at no other time: the trainer rotates nothing.
Invariant: at most two wait for their upload on a node; training waits before it saves a third, so that a storage
slower than training slows it down and does not fill the disk.
"""

import time
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
import torch.distributed
from ray.train import Checkpoint, CheckpointUploadMode
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from raytrain import checkpoints

WAITING_AT_MOST = 2
LOOK_EVERY_S = 0.1


class ReportCheckpoint(TrainerCallback):
    """Hands each saved checkpoint to Ray Train, once a node.

    `storage` is the folder of the run's checkpoints, which all nodes see; `attempt` names this start of the workers,
    who are on so many `nodes`; the `keep` newest whole checkpoints stay.
    """

    def __init__(self, storage: Path, attempt: str, nodes: int, keep: int) -> None:
        self._storage, self._attempt, self._nodes, self._keep = storage, attempt, nodes, keep

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Report `checkpoint-<step>` of the output folder; every rank takes part, which makes it a barrier."""
        torch.distributed.barrier()  # the ranks' random states are written after DeepSpeed's own barrier
        context = ray.train.get_context()
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        first_here = context.get_local_rank() == 0
        if first_here:
            _wait_for_uploads(folder.parent)
        ray.train.report(
            {"step": state.global_step},
            checkpoint=Checkpoint.from_directory(str(folder)) if first_here else None,
            checkpoint_dir_name=checkpoints.folder_name(state.global_step, self._attempt),
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=partial(
                _upload,
                storage=self._storage,
                keep=self._keep,
                step=state.global_step,
                workers=context.get_world_size(),
                node=context.get_node_rank(),
                nodes=self._nodes,
            ),
        )


def _upload(local: Checkpoint, name: str, *, storage: Path, keep: int, node: int, **marker: int) -> Checkpoint:
    target = storage / name
    checkpoints.upload(Path(local.path), target, node=node, **marker)
    if node == 0:
        checkpoints.prune(storage, keep)
    return Checkpoint.from_directory(str(target))


def _wait_for_uploads(output: Path) -> None:
    while len(list(output.glob("checkpoint-*"))) > WAITING_AT_MOST:
        time.sleep(LOOK_EVERY_S)
