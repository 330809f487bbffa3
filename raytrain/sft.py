"""The stage sft (stage 2 of the paper): LoRA fine-tuning on corpora/sft, the agents' prompts and what the judge left.

The loss counts completions alone. Everything around it is `raytrain.stage`.
"""

from pathlib import Path
from typing import Any

from agentmill.runs import Run
from raytrain.data import LengthReport, TokenRows, tokenise
from raytrain.settings import SftSettings, StageSettings
from raytrain.site import DEFAULT_SITE, Site
from raytrain.stage import Stage, train_stage

NAME = "sft"


def run(run: Run, settings: SftSettings, *, start: str = "base", seed: int, site: Site = DEFAULT_SITE) -> None:
    """Train models/sft from models/<start>. Ray must be initialised.

    Raises:
        UserError: when an input is missing or cannot be trained on, or training failed for good.
    """
    train_stage(run, Stage(NAME, _tokenise), settings, start=start, seed=seed, site=site)


def _tokenise(file: Path, tokenizer: Any, settings: StageSettings) -> tuple[TokenRows, LengthReport]:
    return tokenise(NAME, file, tokenizer, settings.max_length, settings.overflow)
