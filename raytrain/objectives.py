"""What differs between the stages inside a worker: the trainer's class, how a planned batch becomes tensors, and how
held-out rows are scored. Everything else is `raytrain.loop`.

Scores are sums by group, so that ranks and sets add up: {group: [sum, count]} for each named measure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.sft_config import SFTConfig

from raytrain.batches import Collator, Share, in_order
from raytrain.data import TokenRows
from raytrain.job import Job
from raytrain.preference import (
    PreferenceTrainer,
    compute_references,
    pair_sums,
    preference_collator,
    preference_fields,
)
from raytrain.trainer import CompletionTrainer, completion_losses, score_completions

Sums = dict[str, torch.Tensor]
Measure = Callable[[PreTrainedModel, TokenRows, Job, Share], Sums]


@dataclass(frozen=True)
class Objective:
    """One stage's part of the loop.

    `before` is called on every rank before there is a trainer. `config` is the class of the trainer's arguments and
    `fields` what it is told beyond what every stage is told. `prepare` changes a loaded model before adapters are put
    on; `measure` looks at the held-out rows of the stage's own corpus (other sets are measured by their loss) and
    returns, for this rank's share of the batches, the sums [number of groups, 2] (total, count) of each measure.
    """

    trainer: type[Any]
    config: type[Any]
    fields: Callable[[Job], dict[str, Any]]
    collator: Callable[[Job, TokenRows, int], Any]
    measure: Measure
    prepare: Callable[[PreTrainedModel], None] = lambda model: None
    before: Callable[[Job], None] = lambda job: None


def loss_sums(model: PreTrainedModel, rows: TokenRows, job: Job, share: Share) -> Sums:
    """Summed loss and number of completion tokens by group, in the order of `sorted(set(rows.groups))`."""
    names = sorted(set(rows.groups))
    number = [names.index(group) for group in rows.groups]
    sums = torch.zeros(len(names), 2, dtype=torch.float64, device=model.device)
    collate = Collator(rows, 0)
    for batch in share(in_order(rows.lengths, 2 * job.settings.tokens_per_batch)):
        tensors = {key: value.to(model.device) for key, value in collate.tensors(batch).items()}
        losses = completion_losses(model, **tensors).double()
        counts = [int(rows.lengths[row] - rows.starts[row]) for row in batch]
        for row, part in zip(batch, losses.split(counts), strict=True):
            sums[number[row], 0] += part.sum()
            sums[number[row], 1] += len(part)
    return {"loss": sums}


COMPLETIONS = Objective(
    trainer=CompletionTrainer,
    config=SFTConfig,
    fields=lambda job: {"dataset_kwargs": {"skip_prepare_dataset": True}, "max_length": None},
    collator=lambda job, rows, pad_id: Collator(rows, pad_id),
    measure=loss_sums,
    prepare=score_completions,
)
PREFERENCES = Objective(
    trainer=PreferenceTrainer,
    config=DPOConfig,
    fields=preference_fields,
    collator=preference_collator,
    measure=pair_sums,
    before=compute_references,
)
OBJECTIVES = {"sft": COMPLETIONS, "cpt": COMPLETIONS, "dpo": PREFERENCES}
