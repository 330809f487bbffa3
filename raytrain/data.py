"""From rows of a corpus to token arrays on disk: tokenised once, in the driver, before any worker starts.

A row is a prompt and a completion (chat messages). Its tokens are the chat template's text of both; the loss counts
only what follows the prompt, up to and including the end-of-sequence token. Invariant: no row is ever cut silently. A
row over the limit is dropped and counted, stops the stage or is split (see raytrain.pieces), by the overflow policy,
and the report says which before training.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from agentmill.config import UserError
from raytrain.pieces import Int32, Row, split_row
from raytrain.settings import Overflow

Int64 = np.ndarray[Any, np.dtype[np.int64]]

COLUMNS = ("prompt", "completion", "agent", "source")
TOKENISED_AT_ONCE = 2048


class CorpusError(UserError):
    """A corpus or tokenizer that cannot be trained on. The message names the file, the rule and the remedy."""


@dataclass(frozen=True)
class TokenRows:
    """Rows as one flat array: row i is tokens[offsets[i]:offsets[i+1]], its completion begins at starts[i] in it.

    `groups[i]` names whose output the row is: the agent, or `public` for rows of a public corpus. `phases[i]` is the
    phase of a curriculum that row i is trained in; empty where there is but one.
    """

    tokens: Int32
    offsets: Int64
    starts: Int32
    groups: tuple[str, ...]
    phases: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def lengths(self) -> Int64:
        """Tokens of each row, prompt and completion."""
        return np.diff(self.offsets)

    @property
    def completion_tokens(self) -> int:
        """Tokens that the loss counts, over all rows."""
        return int((self.lengths - self.starts).sum())

    def row(self, index: int) -> tuple[Int32, int]:
        """Tokens of one row and where its completion begins."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]], int(self.starts[index])

    def take(self, indices: Sequence[int]) -> "TokenRows":
        """A copy with only these rows, in this order."""
        return join([(*self.row(i), self.groups[i]) for i in indices])

    def save(self, folder: Path) -> None:
        """Write the arrays into an empty folder."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "tokens.npy", self.tokens)
        np.save(folder / "offsets.npy", self.offsets)
        np.save(folder / "starts.npy", self.starts)
        np.save(folder / "groups.npy", np.array(self.groups, dtype=np.str_))
        np.save(folder / "phases.npy", np.array(self.phases, dtype=np.int64))

    @classmethod
    def load(cls, folder: Path) -> "TokenRows":
        """Map the arrays of `save` into memory; several processes on a node share the pages."""
        groups, phases = np.load(folder / "groups.npy"), np.load(folder / "phases.npy")
        tokens, offsets, starts = (np.load(folder / f"{n}.npy", mmap_mode="r") for n in ("tokens", "offsets", "starts"))
        return cls(tokens, offsets, starts, tuple(str(g) for g in groups), tuple(phases.tolist()))


@dataclass(frozen=True)
class LengthReport:
    """What tokenising found: how many rows, how many over the limit, and how lengths are spread.

    `kept` counts rows that are trained on or measured, the pieces of those that were split included; `over` those that
    were left out, `split` those that were split.
    """

    rows: int
    kept: int
    over: int
    split: int
    over_by_group: dict[str, int]
    tokens: int
    completion_tokens: int
    percentiles: dict[int, int]
    limit: int

    def text(self) -> str:
        """One line for a person."""
        spread = ", ".join(f"p{p} {n}" for p, n in self.percentiles.items())
        over = ", ".join(f"{name} {n}" for name, n in sorted(self.over_by_group.items()))
        return (
            f"{self.kept:,} rows, {self.tokens:,} tokens ({self.completion_tokens:,} of them in completions); "
            f"lengths {spread}; over {self.limit}: {self.over:,}"
            + (f" ({over})" if over else "")
            + (f", split with their context again: {self.split:,}" if self.split else "")
        )


def join(rows: Sequence[tuple[Int32, int, str]]) -> TokenRows:
    """Rows of (tokens, start of the completion, group) as one TokenRows."""
    lengths = np.array([len(tokens) for tokens, _, _ in rows], dtype=np.int64)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    tokens = np.concatenate([t for t, _, _ in rows]) if rows else np.zeros(0, np.int32)
    starts = np.array([start for _, start, _ in rows], dtype=np.int32)
    return TokenRows(tokens.astype(np.int32), offsets, starts, tuple(group for _, _, group in rows))


def tokenise(
    stage: str, file: Path, tokenizer: Any, max_length: int, overflow: Overflow
) -> tuple[TokenRows, LengthReport]:
    """Read one corpus file of `stage` and tokenise it with the chat template of `tokenizer`.

    Raises:
        CorpusError: when the file lacks a column or a usable row, when the template does not keep the prompt as a
            prefix or ends without the end-of-sequence token, or when a row is over the limit and `overflow` is error.
    """
    rows = [row for part in _batches(file) for row in tokenise_rows(part, tokenizer, file)]
    lengths = np.array([len(tokens) for tokens, _, _ in rows], dtype=np.int64)
    pieces = [split_row(*row, max_length) if overflow == "split" else _whole(row, max_length) for row in rows]
    kept = [piece for part in pieces for piece in part]
    over: dict[str, int] = {}
    for (_, _, group), part in zip(rows, pieces, strict=True):
        if not part:
            over[group] = over.get(group, 0) + 1
    result = join(kept)
    report = LengthReport(
        rows=len(rows),
        kept=len(kept),
        over=sum(over.values()),
        split=sum(len(part) > 1 for part in pieces),
        over_by_group=over,
        tokens=len(result.tokens),
        completion_tokens=result.completion_tokens,
        percentiles={p: int(np.percentile(lengths, p)) for p in (50, 90, 99, 100)} if rows else {},
        limit=max_length,
    )
    if report.over and overflow == "error":
        raise CorpusError(
            f"{stage}.overflow=error and {report.over:,} of {report.rows:,} rows of {file.name} are longer than "
            f"{stage}.max_length={max_length} (longest {report.percentiles[100]}); raise {stage}.max_length or set "
            f"{stage}.overflow=drop"
        )
    if not kept:
        raise CorpusError(f"{file} has no row of at most {stage}.max_length={max_length} tokens; make the corpus again")
    return result, report


def _whole(row: Row, max_length: int) -> list[Row]:
    return [row] if len(row[0]) <= max_length else []


def _batches(file: Path) -> Iterator[list[dict[str, Any]]]:
    if not file.is_file():
        raise CorpusError(f"{file}: there is no such corpus; run the stage corpora first")
    parquet = pq.ParquetFile(file)
    missing = [name for name in COLUMNS if name not in parquet.schema_arrow.names]
    if missing:
        raise CorpusError(f"{file} has no column {', '.join(missing)}; make it with the stage corpora")
    for batch in parquet.iter_batches(batch_size=TOKENISED_AT_ONCE, columns=list(COLUMNS)):
        yield batch.to_pylist()


def tokenise_rows(rows: list[dict[str, Any]], tokenizer: Any, file: Path) -> Iterator[tuple[Int32, int, str]]:
    """The tokens of each row, where in them the completion begins, and whose output it is; `file` names the corpus.

    Raises:
        CorpusError: when the chat template does not keep the prompt as a prefix, or ends without an end of sequence.
    """
    prompts = tokenizer.apply_chat_template([r["prompt"] for r in rows], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([r["prompt"] + r["completion"] for r in rows], tokenize=False)
    prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    whole_ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    eos = tokenizer.eos_token_id
    for row, prompt, ids in zip(rows, prompt_ids, whole_ids, strict=True):
        if ids[: len(prompt)] != prompt:
            raise CorpusError(
                f"{file}: the chat template of the base model does not keep the prompt as the beginning of prompt and "
                f"completion (agent {row['agent']}), so the loss cannot be limited to the completion; mend the template"
            )
        end = len(ids) - 1 - ids[::-1].index(eos) if eos in ids[len(prompt) :] else None
        if end is None:
            raise CorpusError(
                f"{file}: the chat template of the base model does not end a completion with {tokenizer.eos_token!r} "
                f"(agent {row['agent']}), so a student would never stop; mend the template or the tokenizer's eos_token"
            )
        group = "public" if row["source"] == "public" else row["agent"]
        yield np.array(ids[: end + 1], dtype=np.int32), len(prompt), group
