"""The rows that a model is calibrated and judged on, as token rows in the stage's work folder.

Calibration rows are a set of corpora/calibration, by preference the mixed one. Of every file the first rows count, so
many at most.
"""

import shutil
from pathlib import Path

from transformers import AutoTokenizer

from agentmill.errors import UserError
from agentmill.log import say
from agentmill.runs import Run
from raytrain.data import tokenise
from raytrain.settings import QuantizeSettings

STAGE = "quantize"


def calibration_file(run: Run, settings: QuantizeSettings) -> Path:
    """The calibration set that is asked for, or the in-domain one where there are no public rows to mix in.

    Raises:
        UserError: when it is not there.
    """
    folder = run.path("corpora", "calibration")
    asked = folder / f"{settings.calibration}.parquet"
    if asked.is_file():
        return asked
    instead = folder / "in_domain.parquet"
    if settings.calibration == "mixed" and instead.is_file():
        say(STAGE, "calibrating on in-domain rows alone: this run has no real dialogues to mix in (data.public)")
        return instead
    raise UserError(
        f"quantize.calibration={settings.calibration}: there is no {asked}; give real dialogues with "
        f"--set data.public=FILE, or set quantize.calibration=in_domain"
    )


def token_rows(file: Path, stage: str, model: Path, folder: Path, longest: int, most: int) -> Path:
    """Write the first `most` rows of a file of the stage `stage`, none over `longest` tokens of the tokenizer of
    `model`, into `folder`, which is named for what they are; returns it.

    Raises:
        UserError: when the file is missing.
    """
    if not file.is_file():
        raise UserError(f"{file} is missing; run the stage {stage} first (--from {stage})")
    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    rows, report = tokenise(STAGE, file, tokenizer, longest, "drop")
    say(STAGE, f"{folder.name}: {report.text()}")
    shutil.rmtree(folder, ignore_errors=True)
    rows.take(list(range(min(len(rows), most)))).save(folder)
    return folder
