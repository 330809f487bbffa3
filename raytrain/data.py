"""From rows of a corpus to token arrays on disk: tokenised once, in the driver, before any worker starts.

A row is a prompt and a completion (chat messages). Its tokens are the chat template's text of both; the loss counts
only what follows the prompt, up to and including the end-of-sequence token. Invariant: no row is ever cut silently. A
row over the limit is dropped and counted, stops the stage or is split (see raytrain.pieces), by the overflow policy,
and the report says which before training (see raytrain.lengths). What is dealt out to batches is an item: one row, or
the two sides of a preference pair.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from agentmill.config import UserError
from raytrain.lengths import LengthReport, measure_lengths
from raytrain.pieces import Int32, split_row
from raytrain.settings import Overflow

Int64 = np.ndarray[Any, np.dtype[np.int64]]

COLUMNS = ("prompt", "completion", "agent", "source")
TOKENISED_AT_ONCE = 2048


class CorpusError(UserError):
    """A corpus or tokenizer that cannot be trained on. The message names the file, the rule and the remedy."""


@dataclass(frozen=True)
class TokenRows:
    """Rows as one flat array: row i is tokens[offsets[i]:offsets[i+1]], its completion begins at starts[i] in it.

    `groups[i]` names whose output the row is: the agent, or `public` for rows of a public corpus. Item i is the rows
    i * sides to (i + 1) * sides: one row, or with `sides` 2 the chosen and the rejected answer to one prompt.
    `phases[i]` is the phase of a curriculum that row i is trained in; empty where there is but one.
    """

    tokens: Int32
    offsets: Int64
    starts: Int32
    groups: tuple[str, ...]
    sides: int = 1
    phases: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def items(self) -> int:
        """How many items there are to deal out."""
        return len(self) // self.sides

    @property
    def item_groups(self) -> tuple[str, ...]:
        """Whose output each item is."""
        return self.groups[:: self.sides]

    @property
    def item_tokens(self) -> Int64:
        """Tokens of each item, all sides together."""
        return np.asarray(self.lengths.reshape(-1, self.sides).sum(axis=1))

    @property
    def item_costs(self) -> Int64:
        """Tokens of each item with its sides padded to the longest of them, which is what a batch pays for it."""
        return np.asarray(self.lengths.reshape(-1, self.sides).max(axis=1, initial=0) * self.sides)

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

    def take(self, items: Sequence[int]) -> "TokenRows":
        """A copy with only these items, in this order."""
        rows = [item * self.sides + side for item in items for side in range(self.sides)]
        return join([(*self.row(i), self.groups[i]) for i in rows], self.sides)

    def save(self, folder: Path) -> None:
        """Write the arrays into an empty folder."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "tokens.npy", self.tokens)
        np.save(folder / "offsets.npy", self.offsets)
        np.save(folder / "starts.npy", self.starts)
        np.save(folder / "groups.npy", np.array(self.groups, dtype=np.str_))
        np.save(folder / "sides.npy", self.sides)
        np.save(folder / "phases.npy", np.array(self.phases, dtype=np.int64))

    @classmethod
    def load(cls, folder: Path) -> "TokenRows":
        """Map the arrays of `save` into memory; several processes on a node share the pages."""
        groups, phases = np.load(folder / "groups.npy"), np.load(folder / "phases.npy")
        tokens, offsets, starts = (np.load(folder / f"{n}.npy", mmap_mode="r") for n in ("tokens", "offsets", "starts"))
        names, sides = tuple(str(g) for g in groups), int(np.load(folder / "sides.npy"))
        return cls(tokens, offsets, starts, names, sides, tuple(phases.tolist()))


def join(rows: Sequence[tuple[Int32, int, str]], sides: int = 1) -> TokenRows:
    """Rows of (tokens, start of the completion, group) as one TokenRows; `sides` rows in a row are one item."""
    lengths = np.array([len(tokens) for tokens, _, _ in rows], dtype=np.int64)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    tokens = np.concatenate([t for t, _, _ in rows]) if rows else np.zeros(0, np.int32)
    starts = np.array([start for _, start, _ in rows], dtype=np.int32)
    return TokenRows(tokens.astype(np.int32), offsets, starts, tuple(group for _, _, group in rows), sides)


def tokenise(
    stage: str, file: Path, tokenizer: Any, max_length: int, overflow: Overflow
) -> tuple[TokenRows, LengthReport]:
    """Read one corpus file of `stage` and tokenise it with the chat template of `tokenizer`.

    Raises:
        CorpusError: when the file lacks a column or a usable row, when the template does not keep the prompt as a
            prefix or ends without the end-of-sequence token, or when a row is over the limit and `overflow` is error.
    """
    rows, sources = [], list[str]()
    for part in read_corpus(file, COLUMNS):
        rows += list(tokenise_rows(part, tokenizer, file))
        sources += [row["source"] for row in part]
    return within(join(rows), sources, stage, file, max_length, overflow)


def within(
    rows: TokenRows, sources: Sequence[str], stage: str, file: Path, max_length: int, overflow: Overflow
) -> tuple[TokenRows, LengthReport]:
    """The items with no row over `max_length` tokens, and the report on all of them; `sources` has one name an item.

    Raises:
        CorpusError: when an item is over the limit and `overflow` is error, or none is left.
    """
    report = measure_lengths(rows.lengths, rows.starts, rows.item_groups, sources, rows.sides, max_length)
    if overflow == "split":
        rows, report = _split(rows, report, max_length)
    if report.over and overflow == "error":
        raise CorpusError(
            f"{stage}.overflow=error and {report.over:,} of {report.rows:,} {report.noun} of {file.name} are longer "
            f"than {stage}.max_length={max_length} (longest {report.longest}); raise {stage}.max_length or set "
            f"{stage}.overflow=drop"
        )
    if not report.kept:
        raise CorpusError(
            f"{file} has none of its {report.rows:,} {report.noun} within {stage}.max_length={max_length} tokens; "
            f"raise {stage}.max_length or make the corpus again"
        )
    if not report.over or overflow == "split":
        return rows, report
    return rows.take([i for i, cost in enumerate(rows.item_costs) if cost <= max_length * rows.sides]), report


def _split(rows: TokenRows, report: LengthReport, max_length: int) -> tuple[TokenRows, LengthReport]:
    """The rows with those over the limit in pieces, and the report on what became of them."""
    pieces = [split_row(*rows.row(i), rows.groups[i], max_length) for i in range(len(rows))]
    result = join([piece for part in pieces for piece in part])
    lost = Counter(rows.groups[i] for i, part in enumerate(pieces) if not part)
    return result, replace(
        report,
        kept=len(result),
        over=lost.total(),
        over_by_group=dict(lost),
        split=sum(len(part) > 1 for part in pieces),
        tokens=len(result.tokens),
        completion_tokens=result.completion_tokens,
    )


def read_corpus(file: Path, columns: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
    """The rows of a corpus file, some at a time.

    Raises:
        CorpusError: when there is no such file or it lacks a column.
    """
    if not file.is_file():
        raise CorpusError(f"{file}: there is no such corpus; run the stage corpora first")
    parquet = pq.ParquetFile(file)
    missing = [name for name in columns if name not in parquet.schema_arrow.names]
    if missing:
        raise CorpusError(f"{file} has no column {', '.join(missing)}; make it with the stage corpora")
    for batch in parquet.iter_batches(batch_size=TOKENISED_AT_ONCE, columns=list(columns)):
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
