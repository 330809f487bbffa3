"""What a training stage reads: the files of its corpus, tokenised once into the work folder and told before training.

Work folder: rows/<set> (see raytrain.data) and rows/lengths.json, how long the rows of each set are. Invariant: what is
in rows/ is whole, and decided by the inputs and settings that the work folder's name stands for.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from agentmill.log import say
from agentmill.runs import Run, atomic_dir, atomic_write_text
from raytrain.data import TokenRows
from raytrain.general import general_rows
from raytrain.job import GENERAL, HELDOUT, PUBLIC_HELDOUT, TRAIN, Job
from raytrain.lengths import LengthReport
from raytrain.settings import StageSettings

LENGTHS = "lengths.json"
GENERAL_ROWS = 300
UNITS = {"loss": "nats/token"}

Tokenise = Callable[[Path, Any, StageSettings], tuple[TokenRows, LengthReport]]
Arrange = Callable[[str, TokenRows, Any, StageSettings, int], dict[str, TokenRows]]


@dataclass(frozen=True)
class Stage:
    """What the driver has to know of one stage: its name and how a file of its corpus becomes token rows.

    `beside` are held-out files of other corpora, set -> (path in corpora/, how it becomes token rows), looked at where
    the run has them. `units` are those of what is measured of the stage's own pairs or rows.

    `arrange(set, rows, tokenizer, settings, seed)` says what is trained on or measured in place of a set: itself, or
    others by name. `folder` is where its corpus lies in the run, by default corpora/<name>; `general` says whether
    general rows are looked at, `trains` what is trained where it is no adapter. `ready(run, job)` is called before
    workers are started, with the rows in place; `beside_workers(job)` is there while they train.
    """

    name: str
    tokenise: Tokenise
    beside: Mapping[str, tuple[str, Tokenise]] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=lambda: UNITS)
    arrange: Arrange = lambda name, rows, tokenizer, settings, seed: {name: rows}
    folder: str | None = None
    general: bool = True
    trains: str = "all weights"
    ready: Callable[[Run, Job], None] = lambda run, job: None
    beside_workers: Callable[[Job], AbstractContextManager[None]] = lambda job: nullcontext()


def corpora(run: Run, stage: Stage) -> dict[str, tuple[Path, Tokenise]]:
    """The files that the stage reads by set, and how each becomes token rows."""
    folder = run.root / (stage.folder or f"corpora/{stage.name}")
    files = {name: (folder / f"{name}.parquet", stage.tokenise) for name in (TRAIN, HELDOUT, PUBLIC_HELDOUT)}
    files |= {name: (run.root / "corpora" / file, how) for name, (file, how) in stage.beside.items()}
    return {name: one for name, one in files.items() if name in (TRAIN, HELDOUT) or one[0].is_file()}


def prepare(run: Run, stage: Stage, job: Job) -> None:
    """Tokenise every corpus into the work folder, once, and record what was found."""
    folder = job.work / "rows"
    if not folder.is_dir():
        _tokenise(run, stage, job, folder)
    prefix = f"train.{job.stage}"
    for name, report in json.loads((folder / LENGTHS).read_text(encoding="utf-8")).items():
        run.record(f"{prefix}.{name}_rows", report["kept"], n=report["rows"])
        run.record(f"{prefix}.{name}_dropped", report["over"], n=report["rows"])
        for source, count in report["sources"].items():
            run.record(f"{prefix}.{name}_rows.{source}", count, n=report["rows"])
        if job.settings.overflow == "split":
            run.record(f"{prefix}.{name}_split", report["split"], n=report["rows"])


def _tokenise(run: Run, stage: Stage, job: Job, target: Path) -> None:
    """Tokenise, say what was found, and take a fixed sample of held-out rows."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job.start, local_files_only=True)
    settings = job.settings
    lengths: dict[str, Any] = {}
    with atomic_dir(target) as folder:
        for name, (file, tokenise) in corpora(run, stage).items():
            rows, report = tokenise(file, tokenizer, settings)
            _tell(job.stage, name, report)
            lengths[name] = report.as_dict()
            if name != TRAIN and rows.items > settings.heldout_rows:
                draw = np.random.default_rng(job.seed).choice(rows.items, settings.heldout_rows, replace=False)
                rows = rows.take(sorted(int(i) for i in draw))
            for part, arranged in stage.arrange(name, rows, tokenizer, settings, job.seed).items():
                arranged.save(folder / part)
        if stage.general:
            general_rows(tokenizer, GENERAL_ROWS, settings.max_length).save(folder / GENERAL)
        atomic_write_text(folder / LENGTHS, json.dumps(lengths))


def _tell(stage: str, name: str, report: LengthReport) -> None:
    """Say how long the rows of a set are, by group for what is trained on."""
    say(stage, f"{name}: {report.text()}")
    for line in report.lines() if name == TRAIN else ():
        say(stage, f"  {line}")
