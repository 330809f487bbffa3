"""The stage cpt (stage 1 of the paper): continual pretraining on corpora/cpt, each document given its context.

Equation 4 of the paper: the loss is that of a document's tokens, -log p(x_t | C_x, x_<t); the context C_x is masked.
The context stands where a prompt stands and the document where an answer stands, in the chat template of the base, as
in sft: a student that is served with the template learns to use what stands in that place, the end of sequence closes a
document as it closes an answer, and neither needs a format of its own.

Documents are packed into rows without attention from one to the next (raytrain.packing), in the phases of a length
curriculum (raytrain.curriculum). Beside the loss, the stage measures it by position with and without context
(raytrain.positions). Everything around it is `raytrain.stage`.
"""

from pathlib import Path
from typing import Any

from agentmill.log import say
from agentmill.runs import Run
from raytrain.curriculum import in_phases
from raytrain.data import TokenRows, tokenise
from raytrain.expand import new_blocks
from raytrain.inputs import Stage
from raytrain.job import HELDOUT, HELDOUT_BARE, SFT_HELDOUT, TRAIN
from raytrain.lengths import LengthReport
from raytrain.positions import without_context
from raytrain.settings import CptSettings, StageSettings
from raytrain.site import DEFAULT_SITE, Site
from raytrain.stage import train_stage

NAME = "cpt"


def run(run: Run, settings: CptSettings, *, start: str = "base", seed: int, site: Site = DEFAULT_SITE) -> None:
    """Train models/cpt from models/<start>. Ray must be initialised.

    Raises:
        UserError: when an input is missing or cannot be trained on, the new blocks are to be trained and there are
            none, or training failed for good.
    """
    if settings.train == "new_blocks":
        blocks = new_blocks(run.root / "models" / start)
        say(NAME, f"only the new blocks {', '.join(map(str, blocks))} are trained")
    stage = Stage(NAME, _tokenise, {SFT_HELDOUT: ("sft/heldout.parquet", _agents_rows)}, arrange=_arrange)
    train_stage(run, stage, settings, start=start, seed=seed, site=site)


def _tokenise(file: Path, tokenizer: Any, settings: StageSettings) -> tuple[TokenRows, LengthReport]:
    return tokenise(NAME, file, tokenizer, settings.max_length, settings.overflow)


def _agents_rows(file: Path, tokenizer: Any, settings: StageSettings) -> tuple[TokenRows, LengthReport]:
    """Held-out rows of the agents' work, to see what reading alone is worth to it; an answer is never split."""
    return tokenise("sft", file, tokenizer, settings.max_length, "drop")


def _arrange(name: str, rows: TokenRows, tokenizer: Any, settings: StageSettings, seed: int) -> dict[str, TokenRows]:
    assert isinstance(settings, CptSettings)
    if name == HELDOUT:
        return {HELDOUT: rows, HELDOUT_BARE: without_context(rows, tokenizer)}
    if name == TRAIN and settings.curriculum:
        rows, lines = in_phases(rows, settings.curriculum, seed)
        for line in lines:
            say(NAME, line)
    return {name: rows}
