"""From candidates to one corpus on disk: duplicates out, held-out prompts out of training, mixed, in an even shuffle.

    add() -> buckets by prompt -> exact duplicates and held-out prompts out -> near-duplicates out
          -> each source drawn down to its share -> buckets by a digest, sorted -> <split>.parquet

Invariants: no held-out row has the prompt of a training row, nor one that is near to it; which rows are drawn and in
which order they stand depends on the rows and the seed alone; memory holds one bucket and some bytes for each row.
"""

import json
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simulation.corpora.near import NearDuplicates
from simulation.corpora.rows import PUBLIC, SPLITS, TOLD, Candidate, Row, Split, key64, schema_of
from simulation.corpora.settings import CorporaSettings, Shares
from simulation.corpora.spill import Spill, read_lines

_TOP = 2**64


@dataclass
class Sieved:
    """What a corpus holds: rows by split, training rows by agent and by source, what was left out, shares by origin.

    `wanted` is what a source should have given by its share where it had less, in the mixture's unit.
    """

    rows: Counter[str] = field(default_factory=Counter)
    agents: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    shares: dict[str, float] = field(default_factory=dict)
    short: dict[str, tuple[int, int]] = field(default_factory=dict)


class Sieve:
    """One corpus in the making. `folder` is where its files come to be, `scratch` an empty folder of its own."""

    def __init__(
        self, corpus: str, shares: Shares, settings: CorporaSettings, *, folder: Path, scratch: Path, buckets: int,
        seed: int, max_duplicates: int | None = None,
    ) -> None:  # fmt: skip
        self.corpus = corpus
        self.result = Sieved()
        self._shares = shares.asked
        self._told = TOLD[corpus]
        self._settings = settings
        self._folder = folder
        self._scratch = scratch
        self._buckets = buckets
        self._seed = seed
        self._most = max_duplicates or settings.max_duplicates
        self._incoming = Spill(scratch / "prompts", buckets)
        self._marks = _Marks()

    def add(self, candidate: Candidate) -> None:
        """Take a row on its way into the corpus."""
        packed = [candidate.row, SPLITS.index(candidate.split), candidate.origin]
        self._incoming.add(candidate.key(self._told), packed)

    def close(self) -> None:
        """Close what is open; a finished corpus has nothing open."""
        self._incoming.close()

    def finish(self) -> Sieved:
        """Write the corpus."""
        self._incoming.close()
        kept = self._scratch / "kept.jsonl"
        self._mark(kept)
        bounds = self._bounds()
        with Spill(self._scratch / "order", self._buckets) as ordered:
            for number, (row, split, origin) in enumerate(read_lines(kept)):
                draw = self._marks.draws[number]
                if not self._marks.dropped[number] and draw <= bounds.get((split, origin), _TOP):
                    ordered.add(draw, [row, split, draw])
        kept.unlink()
        self._write(ordered)
        return self.result

    def _mark(self, kept: Path) -> None:
        """Write the rows that are no exact duplicates, and mark what is a near-duplicate among them."""
        settings = self._settings.near_duplicates
        near = NearDuplicates(settings, self._scratch / "signatures") if settings.threshold else None
        agents: list[str] = []  # names of agents are few and shared: eight bytes each
        with kept.open("w", encoding="utf-8") as stream:
            for line, candidate in self._distinct():
                stream.write(line)
                self._marks.add(candidate, self._seed)
                if near is not None:
                    agent = str(candidate.row["agent"])
                    agents.append(agent)
                    near.add(candidate.varying(self._told), agent, held=candidate.split != "train")
        self._marks.dropped = bytearray(len(self._marks.draws))
        if near is None:
            return
        found = near.find()
        self._marks.dropped = bytearray(found.drop.tobytes())
        for place in np.flatnonzero(found.drop):
            why = "near a training row" if found.leak[place] else "near duplicate"
            self.result.left_out[why] += 1
            self.result.left_out[f"{why}.{agents[place]}"] += 1

    def _distinct(self) -> Iterator[tuple[str, Candidate]]:
        """The rows without those that came too often, and without held-out rows whose prompt is a training row's."""
        for packed in self._incoming.buckets():
            yield from self._distinct_of([Candidate(row, SPLITS[split], origin) for row, split, origin in packed])

    def _distinct_of(self, bucket: list[Candidate]) -> Iterator[tuple[str, Candidate]]:
        """The same for one bucket, which holds every row of its prompts."""
        trained = {found.key(self._told) for found in bucket if found.split == "train"}
        seen: Counter[tuple[Split, int]] = Counter()
        for found in bucket:
            if found.split != "train" and found.key(self._told) in trained:
                self.result.left_out[f"heldout {self._told} in train"] += 1
                continue
            key = (found.split, found.row_key)
            seen[key] += 1
            if seen[key] > self._most:
                self.result.left_out["duplicate"] += 1
                continue
            packed = [found.row, SPLITS.index(found.split), found.origin]
            yield json.dumps(packed, ensure_ascii=False) + "\n", found

    def _bounds(self) -> dict[tuple[int, str], int]:
        """Up to which draw the rows of a (split, origin) are taken, where not all of them are."""
        marks, by = self._marks, self._settings.mixture.by
        weights = {origin: marks.weights("train", origin, by) for origin in marks.origins}
        fixed = {name: share for name, share in self._shares.items() if share is not None}
        whole = sum(int(w[1].sum()) for name, w in weights.items() if name not in fixed)
        total = whole / (1.0 - sum(share for name, share in fixed.items() if name in weights))
        bounds: dict[tuple[int, str], int] = {}
        taken = {name: int(w[1].sum()) for name, w in weights.items()}
        for name, share in fixed.items():
            if name in weights:
                bound, got = _bound(*weights[name], wanted := round(share * total))
                bounds[(0, name)], taken[name] = bound, got
                if got < wanted and taken[name] == int(weights[name][1].sum()):
                    self.result.short[name] = (got, wanted)
        everything = sum(taken.values())
        self.result.shares = {name: amount / everything for name, amount in taken.items()} if everything else {}
        held = marks.weights("public_heldout", PUBLIC, "rows")
        bounds[(SPLITS.index("public_heldout"), PUBLIC)] = _bound(*held, self._settings.public_heldout_rows)[0]
        return bounds

    def _write(self, ordered: Spill) -> None:
        """The files of the splits, each in the order of the draws."""
        schema = schema_of(self.corpus)
        self._folder.mkdir(parents=True, exist_ok=True)
        has_public = PUBLIC in self._marks.origins
        names = [name for name in SPLITS if name != "public_heldout" or has_public]
        writers = {n: pq.ParquetWriter(self._folder / f"{n}.parquet", schema, compression="zstd") for n in names}
        try:
            for bucket in ordered.buckets():
                bucket.sort(key=lambda packed: packed[2])
                for place, name in enumerate(SPLITS):
                    rows = [row for row, split, _ in bucket if split == place]
                    if rows:
                        writers[name].write_table(pa.Table.from_pylist(rows, schema=schema))
                        self._count(name, rows)
        finally:
            for writer in writers.values():
                writer.close()
        for name in names:
            self.result.rows[name] += 0

    def _count(self, split: Split, rows: list[Row]) -> None:
        self.result.rows[split] += len(rows)
        if split == "train":
            self.result.agents.update(row["agent"] for row in rows)
            self.result.sources.update(row["source"] for row in rows)


class _Marks:
    """Some bytes for each row that is no exact duplicate: its draw, length, split and origin, and if it is dropped."""

    def __init__(self) -> None:
        self.draws = array("Q")
        self.origins: dict[str, int] = {}
        self.dropped = bytearray()
        self._characters = array("L")
        self._splits = bytearray()
        self._origins = bytearray()

    def add(self, candidate: Candidate, seed: int) -> None:
        row = candidate.row
        self.draws.append(key64(f"{seed}/{row['call_id']}/{candidate.row_key}"))
        self._characters.append(candidate.characters)
        self._splits.append(SPLITS.index(candidate.split))
        self._origins.append(self.origins.setdefault(candidate.origin, len(self.origins)))

    def weights(self, split: Split, origin: str, by: str) -> tuple[Any, Any]:
        """Draws of the rows of a split and origin that are not dropped, and how much each of them counts."""
        chosen = np.frombuffer(self._splits, np.uint8) == SPLITS.index(split)
        chosen &= np.frombuffer(self._origins, np.uint8) == self.origins.get(origin, 255)
        chosen &= np.frombuffer(self.dropped, np.uint8) == 0
        draws = np.frombuffer(self.draws, np.uint64)[chosen]
        lengths = np.frombuffer(self._characters, f"u{self._characters.itemsize}")[chosen]
        return draws, lengths if by == "characters" else np.ones(len(draws), dtype=np.uint64)


def _bound(draws: Any, weights: Any, wanted: int) -> tuple[int, int]:
    """The largest draw that is taken so that the weights come nearest below `wanted`, and what they come to."""
    order = np.argsort(draws, kind="stable")
    sums = np.cumsum(weights[order])
    count = int(np.searchsorted(sums, wanted, side="right"))
    if count == 0:
        return -1, 0
    return int(draws[order[count - 1]]), int(sums[count - 1])
