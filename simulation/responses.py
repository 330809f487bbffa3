"""The stage `responses`: the model that a drafter is trained for answers the drafter's prompts itself.

Reads corpora/drafter/<split>.parquet, whose completions are empty, and writes responses/<split>.parquet with the same
columns and what the model said, greedily, as the agents ask it. Rows are drawn beforehand, so that the same seed asks
the same prompts; they are answered in parts of PART rows, each kept as soon as it is whole, so that a stage that was
killed goes on with the next. Rows without an answer, or whose answer did not come to an end, are left out and counted.
Figures: responses.<split>_{rows,failed,unfinished,answers_per_s}.
"""

import asyncio
import random
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from agentmill.config import Strict, UserError
from agentmill.domains.base import load_domain
from agentmill.log import progress, say
from agentmill.models.chat import ChatModel, Sampling
from agentmill.runs import Run
from simulation.corpora.drafter import ERROR, OK, UNFINISHED, regenerate
from simulation.corpora.rows import Row, schema_of
from simulation.models import ModelSettings, build_model, closing
from simulation.tables import write_table

STAGE = "responses"
PART = 512
CORPUS = "drafter"


class ResponsesSettings(Strict):
    """How many prompts of each split are answered, and how many at a time. A run stops where more than
    `max_error_share` of the answers fail: a drafter learns nothing from prompts alone."""

    OPERATIONAL: ClassVar[frozenset[str]] = frozenset({"in_flight", "max_error_share"})

    rows: int = Field(8000, ge=1)
    heldout_rows: int = Field(600, ge=1)
    max_tokens: int = Field(256, ge=1)
    in_flight: int = Field(64, ge=1)
    max_error_share: float = Field(0.1, ge=0.0, le=1.0)


def run(run: Run, settings: ResponsesSettings, *, domain: str, seed: int, model: ModelSettings) -> None:
    """Answer the prompts of every split that the corpus has.

    Raises:
        UserError: when the corpus is missing or too many answers fail.
    """
    corpus = run.path("corpora", CORPUS)
    splits = {file.stem: file for file in sorted(corpus.glob("*.parquet"))}
    if "train" not in splits:
        raise UserError(f"{corpus} has no train.parquet; run the stage corpora first (--from corpora)")
    answering = build_model(model, load_domain(domain))
    asyncio.run(_all(run, splits, settings, seed, answering))
    shutil.rmtree(run.path(STAGE, ".work"), ignore_errors=True)


async def _all(run: Run, splits: dict[str, Path], settings: ResponsesSettings, seed: int, model: ChatModel) -> None:
    async with closing(model):
        for split, file in splits.items():
            if not run.path(STAGE, f"{split}.parquet").is_file():
                await _split(run, split, _drawn(split, file, settings, seed), settings, seed, model)


async def _split(
    run: Run, split: str, rows: list[Row], settings: ResponsesSettings, seed: int, model: ChatModel
) -> None:
    """Answer one split part by part, and put the parts together."""
    began, parts = time.monotonic(), run.path(STAGE, ".work", split)
    parts.mkdir(parents=True, exist_ok=True)
    sampling = Sampling(temperature=0.0, max_tokens=settings.max_tokens, seed=seed)
    characters = 0
    with progress(f"{STAGE} {split}", len(rows), "answers") as bar:
        for start in range(0, len(rows), PART):
            part = rows[start : start + PART]
            file = parts / f"{start:08d}.parquet"
            if not file.is_file():
                asked = regenerate(part, model, sampling=sampling, in_flight=settings.in_flight)
                answered = [row async for row in asked]
                characters += sum(len(message["content"]) for row in answered for message in row["completion"])
                write_table(pa.Table.from_pylist(answered, schema=schema_of(CORPUS)), file)
            bar.advance(len(part))
    table = pa.concat_tables([pq.read_table(file) for file in sorted(parts.glob("*.parquet"))])
    good = table.filter(pa.compute.equal(table["status"], OK))
    counts = Counter(table["status"].to_pylist())
    run.record(f"{STAGE}.{split}_rows", good.num_rows, n=table.num_rows)
    run.record(f"{STAGE}.{split}_failed", counts[ERROR], n=table.num_rows)
    run.record(f"{STAGE}.{split}_unfinished", counts[UNFINISHED], n=table.num_rows)
    failed = counts[ERROR] if good.num_rows else table.num_rows
    if failed > settings.max_error_share * table.num_rows:
        why = next(row["error"] for row in table.to_pylist() if row["status"] != OK)
        raise UserError(
            f"{failed:,} of {table.num_rows:,} prompts of {split} got no answer, more than responses.max_error_share="
            f"{settings.max_error_share:g}; the first because: {why}; what was answered is kept in {parts}"
        )
    write_table(good, run.path(STAGE, f"{split}.parquet"))
    seconds = time.monotonic() - began
    if characters:
        run.record(f"{STAGE}.{split}_answers_per_s", len(rows) / seconds, n=len(rows), unit="answers/s")
    left = f", {counts[UNFINISHED]:,} left out that did not come to an end" if counts[UNFINISHED] else ""
    say(STAGE, f"{split}: {good.num_rows:,} of {table.num_rows:,} prompts answered{left}")


def _drawn(split: str, file: Path, settings: ResponsesSettings, seed: int) -> list[Row]:
    """The rows of a split that are asked, in the order of the file."""
    table = pq.read_table(file)
    most = settings.rows if split == "train" else settings.heldout_rows
    if table.num_rows > most:
        chosen = sorted(random.Random(f"{seed}/{split}").sample(range(table.num_rows), most))
        table = table.take(chosen)
    rows: list[Row] = table.to_pylist()
    return rows
