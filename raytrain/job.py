"""What the driver tells every worker of a training stage, and where things stand in its work folder.

Imports nothing heavy: the driver makes it, the workers read it. Work folder: rows/<set> (tokenised rows), ray/
(checkpoints), trained/ (the trained model, adapters merged), result.json (written last: what stands beside it is
whole).
"""

from dataclasses import dataclass
from pathlib import Path

from raytrain.batches import Plan, plan_batches
from raytrain.data import Int64, TokenRows
from raytrain.hardware import Placement
from raytrain.packing import plan_packs
from raytrain.settings import StageSettings

TRAIN, HELDOUT, PUBLIC_HELDOUT, GENERAL = "train", "heldout", "public_heldout", "general"
HELDOUT_BARE = "heldout_without_context"
SETS = (TRAIN, HELDOUT, HELDOUT_BARE, PUBLIC_HELDOUT, GENERAL)


@dataclass(frozen=True)
class Job:
    """One run of a training stage. `start` is the model folder that it starts from; `targets` are the module names
    that get an adapter, none where the weights themselves are trained."""

    stage: str
    work: Path
    start: Path
    log: Path
    settings: StageSettings
    placement: Placement
    targets: tuple[str, ...]
    seed: int

    @property
    def sets(self) -> dict[str, Path]:
        """Folders of tokenised rows by name; public_heldout is there only with public data, heldout_without_context
        only where the rows are documents with a context."""
        folders = {name: self.work / "rows" / name for name in SETS}
        return {name: folder for name, folder in folders.items() if folder.is_dir()}

    @property
    def trained(self) -> Path:
        return self.work / "trained"

    @property
    def result(self) -> Path:
        return self.work / "result.json"

    def plan(self, rows: TokenRows) -> Plan:
        """The batches of the whole run over these rows, cut to `max_steps`."""
        settings, lengths = self.settings, rows.lengths
        spread = settings.tokens_per_batch, settings.worker.workers, settings.epochs, self.seed
        plan = plan_packs(lengths, *spread, rows.phases) if settings.packing else plan_batches(lengths, *spread)
        return plan if settings.max_steps is None else plan[: settings.max_steps * self._batches_per_step]

    def step_tokens(self, lengths: Int64, plan: Plan) -> list[int]:
        """Real tokens of each step, over all ranks and accumulated batches."""
        each = [int(lengths[batch].sum()) if batch else 0 for batch in plan]
        size = self._batches_per_step
        return [sum(each[i : i + size]) for i in range(0, len(each), size)]

    @property
    def _batches_per_step(self) -> int:
        return self.settings.worker.workers * self.settings.batches_per_step
