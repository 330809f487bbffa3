"""The stage sft (stage 2 of the paper): LoRA fine-tuning on corpora/sft, the agents' prompts and what the judge left.

The loss counts completions alone. Everything around it is `raytrain.stage`.
"""

from pathlib import Path
from typing import Any

from agentmill.runs import Run
from raytrain.data import TokenRows, tokenise
from raytrain.inputs import Stage
from raytrain.lengths import LengthReport
from raytrain.settings import SftSettings, StageSettings
from raytrain.site import DEFAULT_SITE, Site
from raytrain.stage import train_stage

NAME = "sft"


def run(run: Run, settings: SftSettings, *, start: str = "base", seed: int, site: Site = DEFAULT_SITE) -> None:
    """Train models/sft from models/<start>. Ray must be initialised.

    Raises:
        UserError: when an input is missing or cannot be trained on, or training failed for good.
    """
    train_stage(run, Stage(NAME, tokenise_completions), settings, start=start, seed=seed, site=site)


def tokenise_completions(file: Path, tokenizer: Any, settings: StageSettings) -> tuple[TokenRows, LengthReport]:
    """Token rows of a file of corpora/sft, by the limit and overflow policy of the stage that asks."""
    return tokenise(NAME, file, tokenizer, settings.max_length, settings.overflow)
