"""What differs between the stages inside a worker: the trainer's class, how a planned batch becomes tensors, and how
held-out rows are scored. Everything else is `raytrain.loop`.

Scores are sums by group, so that ranks and sets add up: {group: [sum, count]} for each named measure.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.sft_config import SFTConfig

from raytrain.batches import Collator, Share, in_order
from raytrain.data import TokenRows
from raytrain.expand import new_blocks
from raytrain.hardware import Placement
from raytrain.job import DRAFTER, Job
from raytrain.packing import PackedCollator
from raytrain.positions import by_position
from raytrain.preference import (
    PreferenceTrainer,
    compute_references,
    pair_sums,
    preference_collator,
    preference_fields,
)
from raytrain.reference import load_for_scoring, load_model
from raytrain.settings import CptSettings
from raytrain.trainer import CompletionTrainer, losses_of, score_completions

Sums = dict[str, torch.Tensor]
Measure = Callable[[PreTrainedModel, TokenRows, Job, Share], Sums]


def row_losses(
    model: PreTrainedModel, rows: TokenRows, job: Job, share: Share
) -> Iterator[tuple[int, torch.Tensor]]:  # fmt: skip
    """Each row of this rank's share with the losses of its completion's tokens, [tokens], float64."""
    yield from losses_of(model, rows, share(in_order(rows.lengths, 2 * job.settings.tokens_per_batch)))


def loss_sums(model: PreTrainedModel, rows: TokenRows, job: Job, share: Share) -> Sums:
    """Summed loss and number of completion tokens by group, in the order of `sorted(set(rows.groups))`."""
    names = sorted(set(rows.groups))
    sums = torch.zeros(len(names), 2, dtype=torch.float64, device=model.device)
    for row, losses in row_losses(model, rows, job, share):
        number = names.index(rows.groups[row])
        sums[number, 0] += losses.sum()
        sums[number, 1] += len(losses)
    return {"loss": sums}


@dataclass(frozen=True)
class Objective:
    """One stage's part of the loop.

    `before` is called on every rank before there is a trainer. `config` is the class of the trainer's arguments and
    `fields` what it is told beyond what every stage is told; `equip` gives the made trainer what its arguments cannot.
    `build` loads the model that is trained, `prepare` changes it before adapters are put on,
    `freeze` leaves out weights that are not trained. `load` loads one for looking only. `measure` looks at the held-out
    rows of the stage's own corpus, `others` at those of other sets; they return, for this rank's share of the batches,
    the sums [number of groups, 2] (total, count) of each measure.
    """

    trainer: type[Any]
    config: type[Any]
    fields: Callable[[Job], dict[str, Any]]
    collator: Callable[[Job, TokenRows, int], Any]
    measure: Measure
    prepare: Callable[[PreTrainedModel], None] = lambda model: None
    before: Callable[[Job], None] = lambda job: None
    freeze: Callable[[PreTrainedModel, Job], None] = lambda model, job: None
    build: Callable[[Job], PreTrainedModel] = lambda job: load_model(job.start, job.placement)
    equip: Callable[[Any, Job], None] = lambda trainer, job: None
    load: Callable[[Path, Placement], PreTrainedModel] = load_for_scoring
    others: Measure = loss_sums


def freeze_old_blocks(model: PreTrainedModel, job: Job) -> None:
    """With `train: new_blocks`, leave only the blocks that expansion added to be trained (LLaMA Pro,
    arXiv 2401.02415, section 3.2)."""
    settings = job.settings
    if not isinstance(settings, CptSettings) or settings.train == "all":
        return
    added = set(new_blocks(job.start))
    model.requires_grad_(False)
    for number, block in enumerate(model.base_model.layers):
        block.requires_grad_(number in added)


COMPLETIONS = Objective(
    trainer=CompletionTrainer,
    config=SFTConfig,
    fields=lambda job: {"dataset_kwargs": {"skip_prepare_dataset": True}, "max_length": None},
    collator=lambda job, rows, pad_id: (PackedCollator if job.settings.packing else Collator)(rows, pad_id),
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
OBJECTIVES = {
    "cpt": replace(COMPLETIONS, measure=by_position, freeze=freeze_old_blocks),
    "sft": COMPLETIONS,
    "dpo": PREFERENCES,
}


def objective_of(job: Job) -> Objective:
    """The objective of a job's stage; what only the drafter needs is imported for it alone."""
    if job.stage == DRAFTER:
        from raytrain.drafter.training import DRAFTS

        return DRAFTS
    return OBJECTIVES[job.stage]
