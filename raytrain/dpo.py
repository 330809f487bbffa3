"""The stage dpo (stage 3 of the paper): LoRA DPO on corpora/dpo, what the judge left against what the teacher said.

The reference is the model that the stage starts from, which is the trained one with its adapter off. Held-out rows of
corpora/sft are looked at as well: preference tuning should not cost what fine-tuning taught. The objective is in
`raytrain.preference`, everything around it is `raytrain.stage`.

Records, beside what every stage does, for held-out pairs (`raytrain.preference.pair_sums`) train.dpo.heldout_{ranking,
chosen_logp, rejected_logp} of both models and of the trained one heldout_{loss, margin, accuracy, chosen_change,
rejected_change}, by agent as well; and train.dpo.sft_heldout_loss.
"""

from pathlib import Path
from typing import Any

from agentmill.runs import Run
from raytrain.data import TokenRows
from raytrain.inputs import Stage
from raytrain.job import SFT_HELDOUT
from raytrain.lengths import LengthReport
from raytrain.pairs import tokenise_pairs
from raytrain.settings import DpoSettings, StageSettings
from raytrain.sft import tokenise_completions
from raytrain.site import DEFAULT_SITE, Site
from raytrain.stage import train_stage

NAME = "dpo"
UNITS = {
    "loss": "nats/pair",
    "margin": "nats",
    "chosen_logp": "nats/answer",
    "rejected_logp": "nats/answer",
    "chosen_change": "nats/answer",
    "rejected_change": "nats/answer",
}


def run(run: Run, settings: DpoSettings, *, start: str, seed: int, site: Site = DEFAULT_SITE) -> None:
    """Train models/dpo from models/<start>. Ray must be initialised.

    Raises:
        UserError: when an input is missing or cannot be trained on, or training failed for good.
    """
    beside = {SFT_HELDOUT: ("sft/heldout.parquet", tokenise_completions)}
    train_stage(run, Stage(NAME, _tokenise, beside, UNITS), settings, start=start, seed=seed, site=site)


def _tokenise(file: Path, tokenizer: Any, settings: StageSettings) -> tuple[TokenRows, LengthReport]:
    return tokenise_pairs(NAME, file, tokenizer, settings.max_length, settings.overflow)
