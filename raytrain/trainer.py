"""TRL's SFTTrainer with the loss computed where it counts, and the DeepSpeed configuration.

Two differences from TRL's own loss, none in its value: logits are made only for positions whose label counts (TRL
does so on GPUs only; on the CPU it scores every position of the prompt as well), and its per-batch metrics (entropy,
accuracy), which synchronise the ranks four times a batch, are left out.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput
from trl.trainer.sft_trainer import SFTTrainer

from raytrain.batches import IGNORED, SCORED_AT_ONCE, Collator, Plan
from raytrain.data import TokenRows
from raytrain.settings import WorkerSettings
from raytrain.upkeep import LightUpkeep

LAYOUT = ("position_ids", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")
SHARED_MEMORY_OP = "deepspeed_shm_comm"


def completion_losses(
    model: PreTrainedModel, input_ids: torch.Tensor, labels: torch.Tensor, **layout: Any
) -> torch.Tensor:
    """Negative log-likelihood of each label that counts, in row order: [number of labels that are not IGNORED], fp32.

    `input_ids` and `labels` are [rows, length], labels not shifted. Rows are right-padded, or packed, with `layout` as
    `raytrain.packing.PackedCollator` makes it. Without gradients, logits of SCORED_AT_ONCE positions are there at a
    time: looking at a model takes little beside its weights.
    """
    hidden = model.base_model(input_ids=input_ids, use_cache=False, **layout).last_hidden_state[:, :-1]
    targets = labels[:, 1:]
    counted = targets != IGNORED
    head, rows, wanted = model.get_output_embeddings(), hidden[counted], targets[counted]
    at_once = max(1, len(wanted)) if torch.is_grad_enabled() else SCORED_AT_ONCE
    parts = zip(rows.split(at_once), wanted.split(at_once), strict=True)
    return torch.cat([functional.cross_entropy(head(part).float(), ids, reduction="none") for part, ids in parts])


def losses_of(model: PreTrainedModel, rows: TokenRows, plan: Plan) -> Iterator[tuple[int, torch.Tensor]]:
    """Each row of the batches in `plan` with the losses of its completion's tokens, [tokens], float64."""
    collate = Collator(rows, 0)
    for batch in plan:
        tensors = {key: value.to(model.device) for key, value in collate.tensors(batch).items()}
        losses = completion_losses(model, **tensors).double()
        counts = [int(rows.lengths[row] - rows.starts[row]) for row in batch]
        yield from zip(batch, losses.split(counts), strict=True)


def score_completions(model: PreTrainedModel) -> None:
    """Replace the forward pass of `model` by one that gives the summed loss over completions and no logits."""

    def forward(input_ids: torch.Tensor, labels: torch.Tensor, **inputs: Any) -> CausalLMOutput:
        layout = {name: value for name, value in inputs.items() if name in LAYOUT}
        return CausalLMOutput(loss=completion_losses(model, input_ids, labels, **layout).sum())

    model.forward = forward


class CompletionTrainer(LightUpkeep, SFTTrainer):
    """Mean loss over the completion tokens of a whole step: all ranks, all accumulated batches, each token alike."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The rank's share of the step's mean, times the number of ranks, over which DeepSpeed averages gradients."""
        output = model(**inputs)
        loss = output.loss / num_items_in_batch.clamp(min=1) * self.accelerator.num_processes
        return (loss, output) if return_outputs else loss


def deepspeed_config(worker: WorkerSettings, precision: str, *, resized: bool = False) -> dict[str, Any]:
    """ZeRO for Accelerate, which fills in what is `auto`. Gradients are summed over ranks in fp32.

    `resized` loads a checkpoint of another number of workers, made ready by raytrain.resize; saving stays the same.

    The optimizer is torch's fused AdamW on this rank's fp32 shard, so no DeepSpeed operator has to be compiled.
    """
    zero: dict[str, Any] = {"stage": worker.zero_stage, "overlap_comm": False, "contiguous_gradients": True}
    if worker.zero_stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    if worker.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": False}
    if worker.offload == "parameters":
        zero["offload_param"] = {"device": "cpu", "pin_memory": False}
    return {
        "bf16": {"enabled": precision == "bf16"},
        "communication_data_type": "fp32",
        "zero_optimization": zero,
        "checkpoint": {"load_universal": resized},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "steps_per_print": 10**9,
    }


def skip_shared_memory_op() -> None:
    """Keep DeepSpeed from compiling its shared-memory operator on the CPU (about 20 s with a C++ compiler).

    Symptom: the first use on a machine compiles `deepspeed_shm_comm` when the communication backend is made. It serves
    `inference_all_reduce` only (deepspeed/comm/torch.py, 0.19); training's collectives go through gloo either way.
    To be removed when DeepSpeed builds it at its first use.
    """
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__[SHARED_MEMORY_OP] = False
