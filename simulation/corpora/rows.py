"""The rows of the corpora, their Arrow schemas and what identifies them.

A row has its lineage: the call (or document, dialogue, pair) it was made from, the conversation, the source and the
run. A Candidate is a row on its way into a corpus. Invariant: two candidates have the same `row_key` exactly when they
have the same texts, wherever they come from.
"""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

import pyarrow as pa

from agentmill.records import CALL_SCHEMA
from simulation.tables import compact

Row = dict[str, Any]
Messages = list[dict[str, str]]
Split = Literal["train", "heldout", "public_heldout"]
SPLITS: tuple[Split, ...] = ("train", "heldout", "public_heldout")
TRACES = "traces"
PUBLIC = "public"

_MESSAGE = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_LINEAGE = [(name, pa.string()) for name in ("agent", "call_id", "sid", "source", "run")]
_TEXT = {"cpt": ("prompt", "completion"), "sft": ("prompt", "completion"), "dpo": ("prompt", "chosen", "rejected"),
         "drafter": ("prompt", "completion"), "calibration": ("prompt", "completion")}  # fmt: skip
_MORE = {
    "drafter": [(name, pa.string()) for name in ("status", "error", "model")],
    "calibration": [("length", pa.string())],
}


def schema_of(corpus: str) -> pa.Schema:
    """The schema of a corpus of rows, with the schema version in its metadata."""
    text = [(name, _MESSAGE) for name in _TEXT[corpus]]
    return pa.schema([*text, *_LINEAGE, *_MORE.get(corpus, [])], metadata=CALL_SCHEMA.metadata)


SFT_SCHEMA = schema_of("sft")
# What a row of a corpus tells before it is learnt: no held-out row may tell what a training row does. A text for
# pretraining tells itself: its context may be that of many texts.
TOLD = {"cpt": "completion", "sft": "prompt", "dpo": "prompt", "drafter": "prompt"}


@dataclass(frozen=True)
class Candidate:
    """A row that may come into a corpus. `origin` is its source in the mixture, `split` where it belongs."""

    row: Row
    split: Split
    origin: str

    def key(self, told: str) -> int:
        """What rows share that are the same in `told`: their prompt, or their completion where that is the text."""
        return key64(compact(self.row[told]))

    @property
    def row_key(self) -> int:
        """What rows with the same prompt and the same text to learn share."""
        return key64(compact([self.row[name] for name in _texts(self.row)]))

    @property
    def characters(self) -> int:
        """The length of all its messages."""
        return sum(len(message["content"]) for name in _texts(self.row) for message in self.row[name])

    def varying(self, told: str) -> str:
        """What of the row is its own: `told` (of a prompt its last message) and what is learnt; no system text."""
        last = [message["content"] for message in self.row[told][-1:]]
        learnt = [message["content"] for name in _texts(self.row)[1:] if name != told for message in self.row[name]]
        return "\n".join([*last, *learnt])


def key64(text: str) -> int:
    """A 64-bit digest."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def assistant(text: str) -> Messages:
    """The messages of something that is learnt or refused."""
    return [{"role": "assistant", "content": text}]


def lineage(*, agent: str, call_id: str, sid: str, source: str, run: str) -> Row:
    """Where a row comes from, as every corpus states it."""
    return {"agent": agent, "call_id": call_id, "sid": sid, "source": source, "run": run}


def _texts(row: Row) -> tuple[str, ...]:
    return ("prompt", "chosen", "rejected") if "chosen" in row else ("prompt", "completion")
