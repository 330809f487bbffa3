"""Training a drafter with a transformers Trainer: the student's states come first, then speculators' model gives the
loss.

The loss is theirs (kl_div: the divergence of the drafter's distribution from the student's over the drafter's
vocabulary), summed over the steps of training-time test; here each counted token of a step weighs alike, whatever rank
and batch it lies in. How many guesses were right at each place is logged beside it, and where the states come from
elsewhere (raytrain.drafter.sources) how long was waited for them.

A batch that the data loader gives is only its place in the plan and its labels, which the Trainer counts: the row is
packed where its states are asked for, some batches before.
"""

import json
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed
from speculators.losses import resolve_loss_config
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from agentmill.runs import atomic_write_text
from raytrain.data import TokenRows
from raytrain.drafter.acceptance import acceptance_sums, mgl
from raytrain.drafter.model import drafter_settings, load_drafter, load_drafter_for_scoring
from raytrain.drafter.sources import Row, Source, source_of
from raytrain.drafter.states import States, draft_inputs
from raytrain.job import HELDOUT, Job
from raytrain.objectives import Objective
from raytrain.packing import PackedCollator
from raytrain.steplog import WAITED
from raytrain.upkeep import LightUpkeep

CHECKS = "checks.jsonl"


class PlaceCollator(PackedCollator):
    """Gives of a planned batch its `place` in the plan and its labels."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Of the only feature {"rows": [...], "place": n}."""
        (feature,) = features
        return {"labels": self.tensors(feature["rows"])["labels"], "place": feature["place"]}


class DraftTrainer(LightUpkeep, Trainer):
    """Trains on the packed rows (raytrain.packing) of a plan. `equip` gives it the job, and with it the states."""

    job: Job
    _source: Source
    _coming: Iterator[tuple[Row, States]] | None = None
    _place = 0
    _waited_s = 0.0

    def equip(self, job: Job) -> None:
        """What this trainer needs beside a Trainer's own arguments, once it is made."""
        settings = drafter_settings(job)
        self.job, self._source = job, source_of(job, self.model)
        self._losses = resolve_loss_config(settings.loss, "eager" if job.placement.device == "cpu" else "fused")
        self._seen = torch.zeros(settings.draft_tokens, 2, dtype=torch.float64, device=self.accelerator.device)
        if settings.patience is not None:
            self.add_callback(EarlyStop(self, job))

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The rank's share of the step's mean, times the number of ranks, over which gradients are averaged."""
        assert not return_outputs, "there are no logits to return"
        given = draft_inputs(*self._seen_at(inputs["place"]))
        settings = drafter_settings(self.job)
        _, loss, measured = model(
            **given,
            ttt_steps=settings.draft_tokens,
            ttt_step_loss_decay=settings.step_decay,
            loss_config=self._losses,
        )
        for place in range(settings.draft_tokens):
            right, asked = (measured[f"full_acc_{place}_{what}"] for what in ("sum", "total"))
            self._seen[place] += torch.stack([right.double(), torch.as_tensor(asked).double()])
        counted = given["loss_mask"].sum()
        return loss * counted / num_items_in_batch.clamp(min=1) * self.accelerator.num_processes

    def _seen_at(self, place: int) -> tuple[Row, States]:
        """The batch at this place of the plan with its states. The places follow each other as the ranks take them."""
        if self._coming is None:
            places = range(place, len(self.train_dataset), self.accelerator.num_processes)
            rows = (self.data_collator.tensors(self.train_dataset[n]["rows"]) for n in places)
            self._coming, self._place = self._source.each(rows), place
        assert place == self._place, f"batch {place} of the plan was taken, and {self._place} is what comes next"
        self._place += self.accelerator.num_processes
        return next(self._coming)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log how many guesses were right at each place since the last log, given the true tokens before."""
        if "loss" in logs:
            if drafter_settings(self.job).states == "engine":
                waited = torch.tensor(self._source.waited_s, device=self._seen.device)
                total = float(self.accelerator.reduce(waited, "mean"))
                logs[WAITED], self._waited_s = total - self._waited_s, total
            seen = self.accelerator.reduce(self._seen)
            logs |= {f"draft/right_at_{n + 1}": right / max(asked, 1) for n, (right, asked) in enumerate(seen.tolist())}
            self._seen.zero_()
        super().log(logs, start_time)


class EarlyStop(TrainerCallback):
    """Stops when held-out acceptance has not risen for `patience` checks; what was measured is in checks.jsonl of the
    work folder, so that a run that goes on knows it."""

    def __init__(self, trainer: DraftTrainer, job: Job) -> None:
        self._trainer, self._job = trainer, job
        self._settings = drafter_settings(job)
        self._rows = TokenRows.load(job.sets[HELDOUT])
        self._file = job.work / CHECKS
        self._measured: dict[int, float] = {}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Keep what was measured up to the step that training goes on from."""
        if self._file.is_file():
            rows = [json.loads(line) for line in self._file.read_text(encoding="utf-8").splitlines()]
            self._measured = {row["step"]: row["mgl"] for row in rows if row["step"] <= state.global_step}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Measure where it is time, on all ranks alike."""
        if state.global_step % self._settings.check_every_steps or state.global_step >= state.max_steps:
            return
        self._measured[state.global_step] = self._measure()
        if state.is_world_process_zero:
            text = "".join(json.dumps({"step": step, "mgl": value}) + "\n" for step, value in self._measured.items())
            atomic_write_text(self._file, text)
        if stalled([self._measured[step] for step in sorted(self._measured)], self._settings.patience or 1):
            control.should_training_stop = True
            if state.is_world_process_zero:
                self._job.note(
                    f"stopping after step {state.global_step}: held-out MGL {max(self._measured.values()):.3f} has not "
                    f"risen for {self._settings.patience} checks"
                )

    @torch.no_grad()
    def _measure(self) -> float:
        rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
        model = self._trainer.model
        model.eval()
        sums = acceptance_sums(model, self._rows, self._job, lambda plan: plan[rank::ranks])
        model.train()
        totals = {}
        for name, one in sums.items():
            torch.distributed.all_reduce(one)
            totals[name] = one.sum(dim=0).tolist()
        return mgl(totals)[0]


LEAST_RISE = 0.005  # of MGL, that counts as one


def stalled(measured: list[float], patience: int) -> bool:
    """Whether the last `patience` values have not risen above the best before them."""
    if len(measured) <= patience:
        return False
    return max(measured[-patience:]) < max(measured[:-patience]) + LEAST_RISE


DRAFTS = Objective(
    trainer=DraftTrainer,
    config=TrainingArguments,
    fields=lambda job: {},
    collator=lambda job, rows, pad_id: PlaceCollator(rows, pad_id),
    measure=acceptance_sums,
    others=acceptance_sums,
    build=lambda job: load_drafter(job.untrained, job.placement),
    load=load_drafter_for_scoring,
    equip=lambda trainer, job: trainer.equip(job),
)
