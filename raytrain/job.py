"""What the driver tells every worker of a training stage, and where things stand in its work folder.

Imports nothing heavy: the driver makes it, the workers read it. Work folder: rows/<set> (tokenised rows), ray/
(checkpoints), untrained/ (a drafter as it begins), stop (left by a driver that was told to stop), notes.txt (what the
workers have to say to the user), trained/ (the trained model, adapters merged) with trained.json beside it (written
last: what it stands for is whole), merged/ (trained/ merged with the start, where that is asked for) and
result-<digest>.json (written after it). rows, trained and the step log stay after the stage, so that another merge
needs no training.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from raytrain.batches import Plan, plan_batches
from raytrain.data import Int64, TokenRows
from raytrain.hardware import Placement
from raytrain.packing import plan_packs
from raytrain.resize import redeal, rounds
from raytrain.settings import StageSettings

TRAIN, HELDOUT, PUBLIC_HELDOUT, SFT_HELDOUT, GENERAL = "train", "heldout", "public_heldout", "sft_heldout", "general"
HELDOUT_BARE = "heldout_without_context"
DRAFTER = "drafter"  # the stage whose model is no language model
CHECKPOINTS = "ray"
SETS = (TRAIN, HELDOUT, HELDOUT_BARE, PUBLIC_HELDOUT, SFT_HELDOUT, GENERAL)


@dataclass(frozen=True)
class Job:
    """One run of a training stage. `start` is the model folder that it starts from; `targets` are the module names
    that get an adapter, none where the weights themselves are trained. The name of `work` is the digest of all that
    decides the training; `digest` is of the model that is published, the merge included. `begun_with` is the number of
    workers that the run was begun with: it decides what a step is, and `settings.worker.workers` only who computes it.
    """

    stage: str
    digest: str
    work: Path
    start: Path
    log: Path
    settings: StageSettings
    placement: Placement
    targets: tuple[str, ...]
    seed: int
    begun_with: int

    @property
    def sets(self) -> dict[str, Path]:
        """Folders of tokenised rows by name; public_heldout is there only with public data, sft_heldout in cpt and dpo,
        heldout_without_context only where the rows are documents with a context."""
        folders = {name: self.work / "rows" / name for name in SETS}
        return {name: folder for name, folder in folders.items() if folder.is_dir()}

    @property
    def trained(self) -> Path:
        return self.work / "trained"

    @property
    def untrained(self) -> Path:
        """The drafter before training, made by the driver."""
        return self.work / "untrained"

    @property
    def begin(self) -> Path:
        """The model that is trained, before training: a drafter's own beginning, else the start."""
        return self.untrained if self.stage == DRAFTER else self.start

    @property
    def finished(self) -> Path:
        """Steps and scores of the trained model."""
        return self.work / "trained.json"

    @property
    def steps(self) -> Path:
        """A copy of the finished training's step log."""
        return self.work / "steps.jsonl"

    @property
    def merged(self) -> Path:
        return self.work / "merged"

    @property
    def model(self) -> Path:
        """What is published."""
        return self.merged if self.settings.merge else self.trained

    @property
    def result(self) -> Path:
        """Steps and scores of what is published and what it was made from."""
        return self.work / f"result-{self.digest}.json"

    @property
    def storage(self) -> Path:
        """Where the checkpoints are; all nodes see it."""
        return self.work / CHECKPOINTS

    @property
    def stop(self) -> Path:
        """The file that tells the workers to save and end."""
        return self.work / "stop"

    @property
    def notes(self) -> Path:
        return self.work / "notes.txt"

    def note(self, sentence: str) -> None:
        """Tell the user something from a worker; the driver shows it."""
        with open(self.notes, "a", encoding="utf-8") as file:
            file.write(sentence + os.linesep)

    @property
    def accumulate(self) -> int:
        """Batches that each worker takes for a step."""
        return rounds(self.settings.step_batches(self.begun_with), self.settings.worker.workers)

    def plan(self, rows: TokenRows) -> Plan:
        """The batches of the whole run over these rows' items, cut to `max_steps`."""
        settings, begun_with = self.settings, self.begun_with
        batches = settings.step_batches(begun_with)
        spread = settings.tokens_per_batch, begun_with, settings.epochs, self.seed
        if settings.packing:
            plan = plan_packs(rows.lengths, *spread, rows.phases)
        else:
            plan = plan_batches(rows.item_costs, *spread)
        plan = plan if settings.max_steps is None else plan[: settings.max_steps * batches]
        return plan if settings.worker.workers == begun_with else redeal(plan, batches, settings.worker.workers)

    def step_tokens(self, tokens: Int64, plan: Plan) -> list[int]:
        """Real tokens of each step, over all ranks and accumulated batches, from the real tokens of each item."""
        each = [int(tokens[batch].sum()) if batch else 0 for batch in plan]
        size = self._batches_per_step
        return [sum(each[i : i + size]) for i in range(0, len(each), size)]

    @property
    def _batches_per_step(self) -> int:
        return self.settings.worker.workers * self.accumulate
