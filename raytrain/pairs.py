"""Preference pairs as token rows: row 2i is the chosen and row 2i + 1 the rejected answer to one prompt.

A pair is one item: it is drawn, batched, dropped or refused as a whole, and both sides lie in one batch. In the
tensors of a batch the chosen sides come first, as in TRL's DataCollatorForPreference.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from raytrain.batches import IGNORED, Collator
from raytrain.data import TokenRows, join, read_corpus, tokenise_rows, within
from raytrain.lengths import LengthReport
from raytrain.settings import Overflow

COLUMNS = ("prompt", "chosen", "rejected", "agent", "source")
SIDES = 2


def tokenise_pairs(
    stage: str, file: Path, tokenizer: Any, max_length: int, overflow: Overflow
) -> tuple[TokenRows, LengthReport]:
    """Read a file of pairs and tokenise both sides with the chat template of `tokenizer`; the group is the agent.

    A pair is over the limit when either side is.

    Raises:
        CorpusError: as `raytrain.data.tokenise`.
    """
    rows, sources = [], list[str]()
    for part in read_corpus(file, COLUMNS):
        sides = [
            tokenise_rows([{**row, "completion": row[side]} for row in part], tokenizer, file)
            for side in ("chosen", "rejected")
        ]
        rows += [row for pair in zip(*sides, strict=True) for row in pair]
        sources += [row["source"] for row in part]
    return within(join(rows, SIDES), sources, stage, file, max_length, overflow)


@dataclass(frozen=True)
class PairCollator:
    """Turns one planned batch of n pairs into tensors: input_ids and completion_mask [2n, longest], chosen sides first.

    `groups` [n] is the index of each pair's agent in `names`. With `reference`, the log-probabilities of every row of
    `rows` under the reference, there are ref_chosen_logps and ref_rejected_logps [n].
    """

    rows: TokenRows
    pad_id: int
    reference: np.ndarray[Any, np.dtype[np.float32]] | None = None

    @cached_property
    def names(self) -> list[str]:
        """The agents that there are."""
        return sorted(set(self.rows.groups))

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate the only feature {"rows": [...]}: a planned batch is one item of the dataset."""
        (feature,) = features
        return self.tensors(feature["rows"])

    def tensors(self, pairs: list[int]) -> dict[str, Any]:
        """The tensors of these pairs; an empty list gives one pair that counts for nothing and has no group."""
        import torch

        chosen = [pair * SIDES for pair in pairs]
        rejected = [row + 1 for row in chosen]
        batch = Collator(self.rows, self.pad_id).tensors(chosen + rejected)
        mask = (batch["labels"] != IGNORED).long()
        ids = batch["input_ids"]
        if not pairs:
            ids, mask = ids.repeat(SIDES, 1), mask.repeat(SIDES, 1)
        names = self.names
        groups = torch.tensor([names.index(self.rows.groups[row]) for row in chosen], dtype=torch.long)
        tensors = {"input_ids": ids, "completion_mask": mask, "groups": groups}
        if self.reference is not None:
            for name, side in (("ref_chosen_logps", chosen), ("ref_rejected_logps", rejected)):
                tensors[name] = torch.from_numpy(self.reference[side] if pairs else np.zeros(1, np.float32))
        return tensors
