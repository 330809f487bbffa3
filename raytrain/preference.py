"""TRL's DPOTrainer with the loss computed where it counts and every pair of a step alike; what is measured of pairs.

The loss is DPO's (arXiv 2305.18290, equation 7), -log sigmoid(beta * (d(y*) - d(y))), where d(y) is the log-probability
of an answer under the model less that under the reference, y* the chosen and y the rejected answer. With `sft_weight` w
it is that plus w times the mean negative log-likelihood of the chosen tokens (RPO: arXiv 2404.19733, equation 1, which
weighs DPO's part instead and takes the mean answer by answer; here, as in TRL's loss type `sft`, token by token).

Differences from TRL's own, none in the value of one batch on one rank:
- a step's loss is the mean over its pairs on all ranks and accumulated batches, where TRL takes the mean of the means
  of batches, in which a pair of a small batch weighs more;
- on the CPU, logits are made only for positions that count (TRL does so on GPUs only);
- its twelve metrics, which synchronise the ranks for every batch, are left out; loss and margin by agent are summed on
  each rank and added up when a step is logged;
- the reference is the model with its adapter off, not a frozen copy of the adapter as it began, which adds nothing.
"""

from typing import Any

import torch
from peft import PeftModel
from torch.nn import functional
from transformers import PreTrainedModel
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.utils import FusedCausalLMOutput

from raytrain.batches import IGNORED, Share, in_order
from raytrain.data import TokenRows
from raytrain.job import HELDOUT, TRAIN, Job
from raytrain.pairs import SIDES, PairCollator
from raytrain.reference import compute_reference, load_reference, log_probabilities
from raytrain.settings import DpoSettings
from raytrain.trainer import completion_losses
from raytrain.upkeep import LightUpkeep

REFERENCE_ADAPTER = "ref"
MEASURES = ("ranking", "chosen_logp", "rejected_logp")
GAINS = ("loss", "margin", "accuracy", "chosen_change", "rejected_change")


def preference_fields(job: Job) -> dict[str, Any]:
    """The fields of TRL's DPOConfig that follow from the settings."""
    settings = dpo_settings(job)
    return {
        "beta": settings.beta,
        "loss_type": ["sigmoid", "sft"] if settings.sft_weight else ["sigmoid"],
        "loss_weights": [1.0, settings.sft_weight] if settings.sft_weight else None,
        "precompute_ref_log_probs": settings.precompute_reference,
        "disable_dropout": not (settings.lora and settings.lora.dropout),
        "max_length": None,
    }


def dpo_settings(job: Job) -> DpoSettings:
    """The job's settings, which are those of dpo."""
    assert isinstance(job.settings, DpoSettings)
    return job.settings


def compute_references(job: Job) -> None:
    """What the reference says of held-out pairs, and of training pairs where it is asked for beforehand."""
    compute_reference(job, [HELDOUT, TRAIN] if dpo_settings(job).precompute_reference else [HELDOUT])


def preference_collator(job: Job, rows: TokenRows, pad_id: int) -> PairCollator:
    """The collator of the training pairs, with the reference's log-probabilities where they were computed."""
    precomputed = dpo_settings(job).precompute_reference
    return PairCollator(rows, pad_id, load_reference(job, TRAIN) if precomputed else None)


def score_pairs(model: PreTrainedModel) -> None:
    """Replace the forward pass of `model` by one that gives log-probabilities of labels and no logits."""

    def forward(input_ids: torch.Tensor, labels: torch.Tensor, **_: Any) -> FusedCausalLMOutput:
        counted = labels[:, 1:] != IGNORED
        losses = completion_losses(model, input_ids, labels)
        return FusedCausalLMOutput(log_probs=losses.new_zeros(counted.shape).masked_scatter(counted, -losses))

    model.forward = forward


class PreferenceTrainer(LightUpkeep, DPOTrainer):
    """Takes batches of `PairCollator`. With DPOConfig's precompute_ref_log_probs, they carry the reference's values."""

    loss_is_scaled_for_ga = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if isinstance(self.model, PeftModel) and REFERENCE_ADAPTER in self.model.peft_config:
            self.model.delete_adapter(REFERENCE_ADAPTER)
        if self.accelerator.device.type == "cpu":
            score_pairs(self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model)
        self._weights = dict(zip(self.loss_types, self.loss_weights, strict=True))
        groups = len(self.data_collator.names)
        self._seen = torch.zeros(groups, 4, dtype=torch.float64, device=self.accelerator.device)

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        """Nothing: the rows are tokenised and the batches planned."""
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *_: Any) -> Any:
        """Nothing: the collator has them (see raytrain.reference)."""
        return dataset

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> torch.Tensor:
        """[pairs, chosen tokens] of a step over all ranks."""
        counts = torch.zeros(2, dtype=torch.long)
        for batch in batch_samples:
            chosen, _ = batch["completion_mask"].chunk(SIDES)
            counts += torch.tensor([len(batch["groups"]), int(chosen.sum())])
        return self.accelerator.reduce(counts.to(device))

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The rank's share of the step's mean, times the number of ranks, over which gradients are averaged."""
        assert not return_outputs, "there are no logits to return"
        groups = inputs.pop("groups")
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, IGNORED)
        log_probs = model(input_ids=inputs["input_ids"], labels=labels, use_cache=False, fused_lm_head=True).log_probs
        chosen, rejected = log_probs.sum(dim=1).chunk(SIDES)
        if self.precompute_ref_logps:
            reference = inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
        else:
            reference = self.compute_ref_log_probs(self.model, inputs)
        margins = (self.beta * ((chosen - reference[0]) - (rejected - reference[1])))[: len(groups)]
        losses = -functional.logsigmoid(margins)
        pairs, chosen_tokens = num_items_in_batch
        loss = self._weights["sigmoid"] * losses.sum() / pairs
        if "sft" in self._weights:
            loss = loss - self._weights["sft"] * chosen.sum() / chosen_tokens
        self._note(groups, losses.detach(), margins.detach())
        return loss * self.accelerator.num_processes

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log loss and margin by agent, margin and accuracy over all, of the pairs since the last log."""
        if "loss" in logs:
            seen = self.accelerator.reduce(self._seen)
            names = [name for name, row in zip(self.data_collator.names, seen, strict=True) if row[0]]
            for name, (count, loss, margin, _) in zip(names, seen[seen[:, 0] > 0].tolist(), strict=True):
                logs |= {f"{name}/loss": loss / count, f"{name}/margin": margin / count}
            count, _, margin, right = seen.sum(dim=0).tolist()
            logs |= {"pairs/margin": margin / count, "pairs/accuracy": right / count}
            self._seen.zero_()
        super().log(logs, start_time)

    def _note(self, groups: torch.Tensor, losses: torch.Tensor, margins: torch.Tensor) -> None:
        columns = torch.stack([torch.ones_like(losses), losses, margins, (margins > 0).to(losses.dtype)], dim=1)
        self._seen.index_add_(0, groups, columns.to(self._seen.dtype))


def pair_sums(model: PreTrainedModel, rows: TokenRows, job: Job, share: Share) -> dict[str, torch.Tensor]:
    """What is measured of held-out pairs, as sums by agent [agents, 2] in the order of `sorted(set(rows.groups))`.

    Of any model: `ranking`, the share of pairs whose chosen answer it finds more likely than the rejected one, and the
    log-probabilities of both (`chosen_logp`, `rejected_logp`). Of a trained one also DPO's loss, the reward margin,
    accuracy (the share of pairs with a positive margin) and how the log-probabilities moved (`chosen_change`,
    `rejected_change`).
    """
    names = sorted(set(rows.groups))
    plan = share(in_order(rows.item_costs, 2 * job.settings.tokens_per_batch))
    now = log_probabilities(model, rows, [[pair * SIDES + side for pair in b for side in range(SIDES)] for b in plan])
    before, beta = load_reference(job, HELDOUT).astype(float), dpo_settings(job).beta
    trained = str(model.name_or_path) != str(job.start)
    sums = {name: torch.zeros(len(names), 2, dtype=torch.float64) for name in MEASURES + (GAINS if trained else ())}
    for chosen, rejected in ((pair * SIDES, pair * SIDES + 1) for batch in plan for pair in batch):
        values = [float(now[chosen] > now[rejected]), now[chosen], now[rejected]]
        values += _gains(now[chosen] - before[chosen], now[rejected] - before[rejected], beta) if trained else []
        for totals, value in zip(sums.values(), values, strict=True):
            totals[names.index(rows.groups[chosen])] += torch.tensor([value, 1.0], dtype=torch.float64)
    return {name: totals.to(model.device) for name, totals in sums.items()}


def _gains(chosen: float, rejected: float, beta: float) -> list[float]:
    """GAINS of one pair, whose log-probabilities moved by `chosen` and `rejected`."""
    margin = torch.tensor(beta * (chosen - rejected))
    return [float(-functional.logsigmoid(margin)), float(margin), float(margin > 0), chosen, rejected]
