"""The stage drafter: an EAGLE-3 drafter for the newest model, on answers that this model gave (`responses/`).

The training itself is `raytrain.stage` with the objective of `raytrain.drafter.training`. Before it, the driver makes
the untrained drafter and shows it to the serving engine.

Records, beside what every stage does, train.drafter.{parameters,vocabulary,contract_drafts} and drafter.<source>.mgl,
by agent as well (drafter.<source>.<agent>.mgl), on held-out answers; by place in the draft
train.drafter.heldout_accepted_at_<place>. Where an engine gives the student's states, train.drafter.waited is the share
of the training in which a worker waited for them.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentmill.config import UserError
from agentmill.log import say
from agentmill.runs import Run, atomic_dir
from raytrain.data import TokenRows, tokenise
from raytrain.drafter.contract import check_contract
from raytrain.drafter.extractor import extractors
from raytrain.inputs import Stage
from raytrain.job import DRAFTER, HELDOUT, PUBLIC_HELDOUT, TRAIN, Job
from raytrain.lengths import LengthReport
from raytrain.settings import DrafterSettings, StageSettings
from raytrain.site import DEFAULT_SITE, Site
from raytrain.stage import train_stage
from raytrain.steplog import WAITED, read_steps

FOLDER = "responses"
PUBLIC = "public"
SOURCES = {"synthetic": lambda group: group != PUBLIC, "external": lambda group: group == PUBLIC}


def run(run: Run, settings: DrafterSettings, *, start: str, seed: int, site: Site = DEFAULT_SITE) -> None:
    """Train models/drafter for models/<start>. Ray must be initialised.

    Raises:
        UserError: when an input is missing or cannot be trained on, the student's family is not known, the engine does
            not take the drafter, or training failed for good.
    """
    train_stage(run, STAGE, settings, start=start, seed=seed, site=site)
    _record(run, settings)
    _record_waiting(run)


def _tokenise(file: Path, tokenizer: Any, settings: StageSettings) -> tuple[TokenRows, LengthReport]:
    return tokenise(DRAFTER, file, tokenizer, settings.max_length, settings.overflow)


def _of_source(name: str, rows: TokenRows, tokenizer: Any, settings: StageSettings, seed: int) -> dict[str, TokenRows]:
    """Of what is trained on, the rows of the source that is asked for; held-out rows are the same for every source."""
    assert isinstance(settings, DrafterSettings)
    wanted = SOURCES.get(settings.source)
    if name != TRAIN or wanted is None:
        return {name: rows}
    chosen = [index for index, group in enumerate(rows.groups) if wanted(group)]
    if not chosen:
        raise UserError(
            f"drafter.source={settings.source} and {FOLDER}/{TRAIN}.parquet has no such rows; give real dialogues with "
            f"--set data.public=FILE, or set drafter.source=synthetic"
        )
    return {name: rows.take(chosen)}


def _make(run: Run, job: Job) -> None:
    """Make the drafter as it begins, once, and have the engine take it."""
    from raytrain.drafter.model import make_drafter

    settings = job.settings
    assert isinstance(settings, DrafterSettings)
    if not job.untrained.is_dir():
        with atomic_dir(job.untrained) as folder:
            size = make_drafter(job.start, settings, TokenRows.load(job.sets[TRAIN]), folder, job.seed)
        parameters = _parameters(job.untrained)
        run.record("train.drafter.vocabulary", size, unit="tokens")
        run.record("train.drafter.parameters", parameters, unit="parameters")
        say(DRAFTER, f"a drafter of {parameters:,} parameters, {size} tokens in its vocabulary")
    taken = check_contract(job, TokenRows.load(job.sets[HELDOUT])) if settings.contract else None
    if taken is not None:
        run.record("train.drafter.contract_drafts", taken[0], n=taken[1], unit="drafts")


STAGE = Stage(
    DRAFTER,
    _tokenise,
    arrange=_of_source,
    folder=FOLDER,
    general=False,
    trains="an EAGLE-3 drafter",
    ready=_make,
    beside_workers=extractors,
)


def _parameters(folder: Path) -> int:
    from safetensors import safe_open

    total = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no mapping
                total += math.prod(tensors.get_slice(name).get_shape())
    return total


def _record(run: Run, settings: DrafterSettings) -> None:
    """The mean generated length over all held-out answers, and by agent."""
    from raytrain.drafter.acceptance import mgl

    scores = json.loads((run.path("models", DRAFTER) / "manifest.json").read_text(encoding="utf-8"))["scores"]["end"]
    prefix = f"drafter.{settings.source}"
    for name, measured in scores.items():
        by_group = _by_group(measured)
        where = prefix if name == HELDOUT else f"{prefix}.{PUBLIC if name == PUBLIC_HELDOUT else name}"
        total = {place: [sum(c) for c in zip(*groups.values(), strict=True)] for place, groups in measured.items()}
        value, drafts = mgl(total)
        run.record(f"{where}.mgl", value, n=drafts, unit="tokens")
        say(DRAFTER, f"{where}.mgl {value:.3f} of {settings.draft_tokens + 1} over {drafts:,} drafts")
        for group, places in by_group.items() if name == HELDOUT else ():
            run.record(f"{where}.{group}.mgl", mgl(places)[0], n=mgl(places)[1], unit="tokens")


def _record_waiting(run: Run) -> None:
    """How much of the training's time a worker waited for states, where it did not compute them itself."""
    steps = read_steps(run.path("logs", f"{DRAFTER}.jsonl"))
    waited = [float(row[WAITED]) for row in steps if WAITED in row]
    if waited:
        run.record(f"train.{DRAFTER}.waited", sum(waited) / float(steps[-1]["seconds"]), n=len(waited), unit="share")
        say(DRAFTER, f"workers waited {sum(waited):.1f} of {steps[-1]['seconds']:.1f} s for the student's states")


def _by_group(measured: Mapping[str, Mapping[str, list[float]]]) -> dict[str, dict[str, list[float]]]:
    groups = sorted({group for of_place in measured.values() for group in of_place})
    return {group: {place: list(of_place[group]) for place, of_place in measured.items()} for group in groups}
