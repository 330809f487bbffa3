"""Near-duplicates by MinHash and banding (Broder 1997; Leskovec et al., Mining of Massive Datasets, chapter 3).

Each text gives a signature of `permutations` minima over its three-word shingles (datasketch); the share of equal
minima estimates the Jaccard similarity of the shingle sets. Rows that agree in a whole band of their signatures are
compared with the first of them, training rows before held-out ones. What differs from an index held in memory: the
signatures lie in a file and one band is looked at after another, so that a million rows cost some tens of MiB.

Invariants: a row that is left out is as similar as `threshold` to a row before it of the same group; the same rows in
the same order give the same result; a pair at the threshold or above is compared with a chance of at least 0.99.
"""

import os
import re
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simulation.corpora.rows import key64
from simulation.corpora.settings import NearSettings

Flags = np.ndarray[Any, np.dtype[np.bool_]]
Numbers = np.ndarray[Any, np.dtype[np.uint64]]
Places = np.ndarray[Any, np.dtype[np.int64]]

_TOKEN = re.compile(r"\w+|[^\w\s]")
_SHINGLE = 3
_SEED = 20260618
_RECALL = 0.99
_ROUNDS = 16
_CHUNK = 8192


@dataclass(frozen=True)
class NearFound:
    """`drop` marks rows to leave out; `leak` those of them that are held out and near to a training row."""

    drop: Flags
    leak: Flags


class NearDuplicates:
    """Takes texts one by one; `find` says which of them to leave out."""

    def __init__(self, settings: NearSettings, file: Path) -> None:
        from datasketch import MinHash

        self._settings = settings
        self._threshold = settings.threshold or 1.0
        self._hash = MinHash(num_perm=settings.permutations, seed=_SEED, hashfunc=zlib.crc32)
        self._path = file
        self._file = file.open("wb")
        self._groups = array("Q")
        self._held = bytearray()

    def add(self, text: str, group: str, *, held: bool) -> None:
        """Take the next text. Only texts of one group are compared."""
        self._hash.clear()
        self._hash.update_batch(shingles(text))
        self._file.write(np.asarray(self._hash.hashvalues, dtype=np.uint32).tobytes())
        self._groups.append(key64(group))
        self._held.append(held)

    def find(self) -> NearFound:
        """Which texts are near-duplicates; removes the file of signatures."""
        self._file.close()
        count = len(self._held)
        held = np.array(self._held, dtype=np.uint8).astype(np.bool_)
        leader = np.full(count, -1, dtype=np.int64)
        if count:
            signatures = _Signatures(self._path, self._settings.permutations)
            rows = rows_of_band(self._threshold, self._settings.permutations)
            for start in range(0, self._settings.permutations - rows + 1, rows):
                self._band(signatures, held, leader, slice(start, start + rows))
        self._path.unlink()
        return _left_out(leader, held, self._settings.keep)

    def _band(self, signatures: "_Signatures", held: Flags, leader: Places, band: slice) -> None:
        """Give rows that agree in a band with an earlier row, and are near to it, that row as their leader."""
        free = np.flatnonzero(leader < 0)
        keys = (self._keys(band) ^ np.array(self._groups, dtype=np.uint64))[free]
        order = np.lexsort((free, held[free], keys))
        places, keys = free[order], keys[order]
        for _ in range(_ROUNDS):
            first = np.concatenate([[True], keys[1:] != keys[:-1]])
            owner = places[np.maximum.accumulate(np.where(first, np.arange(len(first)), 0))]
            members = np.flatnonzero(~first)
            if not len(members):
                return
            near = signatures.similar(places[members], owner[members], self._threshold)
            leader[places[members[near]]] = owner[members[near]]
            places, keys = places[members[~near]], keys[members[~near]]
            if not len(places):
                return

    def _keys(self, band: slice) -> Numbers:
        """One number for the band of each row; rows with different bands may share it and are compared all the same.

        The file is read in pieces: a map of all of it would count as this process's memory.
        """
        odd = np.random.default_rng(_SEED).integers(0, 2**63, band.stop - band.start, dtype=np.uint64) * 2 + 1
        keys = np.empty(len(self._held), dtype=np.uint64)
        done = 0
        for part in self._pieces():
            mixed = (part[:, band].astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)) * odd
            keys[done : done + len(part)] = (mixed ^ (mixed >> np.uint64(29))).sum(axis=1, dtype=np.uint64)
            done += len(part)
        return keys

    def _pieces(self) -> Iterator[Any]:
        """The signatures, some thousand rows at a time, [rows, permutations]."""
        permutations = self._settings.permutations
        with self._path.open("rb") as stream:
            while len(piece := np.fromfile(stream, dtype=np.uint32, count=_CHUNK * permutations)):
                yield piece.reshape(-1, permutations)


class _Signatures:
    """The rows of the file of signatures, compared in pairs. They are read and not mapped: see `_keys`."""

    def __init__(self, path: Path, permutations: int) -> None:
        self._path = path
        self._width = permutations * np.dtype(np.uint32).itemsize

    def similar(self, rows: Places, others: Places, threshold: float) -> Flags:
        """For each pair, whether its estimated similarity is `threshold` or more."""
        found = np.empty(len(rows), dtype=np.bool_)
        with self._path.open("rb") as stream:
            for start in range(0, len(rows), _CHUNK):
                part = slice(start, start + _CHUNK)
                pair = self._read(stream.fileno(), rows[part]), self._read(stream.fileno(), others[part])
                found[part] = (pair[0] == pair[1]).mean(axis=1) >= threshold
        return found

    def _read(self, file: int, rows: Places) -> Any:
        read = b"".join(os.pread(file, self._width, row * self._width) for row in rows.tolist())
        return np.frombuffer(read, dtype=np.uint32).reshape(len(rows), -1)


def shingles(text: str) -> list[bytes]:
    """The runs of three words and signs of a text in lower case; the whole of a shorter text."""
    words = _TOKEN.findall(text.lower())
    last = max(1, len(words) - _SHINGLE + 1)
    return [" ".join(words[start : start + _SHINGLE]).encode() for start in range(last)]


def rows_of_band(threshold: float, permutations: int) -> int:
    """The longest band with which a pair at the threshold shares one with the chance `_RECALL`: 1 - (1 - t^r)^(p/r)."""
    fitting = [
        rows for rows in range(1, permutations + 1)
        if 1.0 - (1.0 - threshold**rows) ** (permutations // rows) >= _RECALL
    ]  # fmt: skip
    return max(fitting, default=1)


def _left_out(leader: Places, held: Flags, keep: int) -> NearFound:
    """Of each leader's followers the first `keep - 1` stay; a held-out follower of a training row never does."""
    followers = np.flatnonzero(leader >= 0)
    leak = np.zeros(len(leader), dtype=np.bool_)
    leak[followers] = held[followers] & ~held[leader[followers]]
    order = followers[np.lexsort((followers, held[followers], leader[followers]))]
    owners = leader[order]
    first = np.concatenate([[True], owners[1:] != owners[:-1]]) if len(order) else np.zeros(0, dtype=np.bool_)
    begins = np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    drop = leak.copy()
    drop[order[np.arange(len(order)) - begins >= keep - 1]] = True
    return NearFound(drop=drop, leak=leak)
