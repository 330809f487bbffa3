"""Calibration sets for quantisation: in-domain rows, real dialogues, and both mixed, drawn evenly over their lengths.

Activations depend on what is said and on how long it is, so every set has its rows from every length bucket, as far as
there are such rows. Invariants: only training rows; no row twice in a set; the draw depends on the rows and the seed.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from simulation.corpora.rows import PUBLIC, TRACES, Candidate, Row, key64, schema_of
from simulation.corpora.settings import CalibrationSettings, Mixture
from simulation.tables import write_table

SETS = {"in_domain": TRACES, "public": PUBLIC}
MIXED = "mixed"
_Drawn = tuple[int, int, Row]  # (minus the draw, characters, row): the largest draw leaves first


class Calibration:
    """Keeps of every origin and length bucket the rows with the smallest draws, as many as a whole set needs."""

    def __init__(self, settings: CalibrationSettings, mixture: Mixture, seed: int) -> None:
        self._settings = settings
        self._mixture = mixture
        self._seed = seed
        self._heaps: dict[tuple[str, int], list[_Drawn]] = defaultdict(list)
        self._held: dict[tuple[str, int], set[int]] = defaultdict(set)

    def add(self, candidate: Candidate) -> None:
        """Take a row into account."""
        if candidate.split != "train":
            return
        draw, characters = -key64(f"{self._seed}/{candidate.row_key}"), candidate.characters
        place = (candidate.origin, self._bucket(characters))
        heap, held = self._heaps[place], self._held[place]
        if draw in held or (len(heap) == self._settings.rows and draw < heap[0][0]):
            return
        held.add(draw)
        row = {**candidate.row, "length": self._label(place[1])}
        if len(heap) < self._settings.rows:
            heapq.heappush(heap, (draw, characters, row))
        else:
            held.discard(heapq.heappushpop(heap, (draw, characters, row))[0])

    def write(self, folder: Path) -> dict[str, dict[str, int]]:
        """Write the sets that have rows; returns how many rows of each length each of them has."""
        sets = {name: self._drawn(origin) for name, origin in SETS.items()}
        if sets["public"]:
            sets[MIXED] = [*sets["in_domain"], *self._share(sets["in_domain"], sets["public"])]
        counts: dict[str, dict[str, int]] = {}
        for name, drawn in sets.items():
            if drawn or name == "in_domain":
                rows = [row for _, _, row in sorted(drawn, key=lambda one: -one[0])]
                write_table(pa.Table.from_pylist(rows, schema=schema_of("calibration")), folder / f"{name}.parquet")
                counts[name] = _by_length(rows)
        return counts

    def _drawn(self, origin: str) -> list[_Drawn]:
        """The set of one origin: bucket after bucket gives its next row until there are enough."""
        places = range(len(self._settings.edges) + 1)
        queues = [sorted(self._heaps.get((origin, place), []), key=lambda one: -one[0])[::-1] for place in places]
        chosen: list[_Drawn] = []
        while len(chosen) < self._settings.rows and any(queues):
            for queue in queues:
                if queue and len(chosen) < self._settings.rows:
                    chosen.append(queue.pop())
        return chosen

    def _share(self, in_domain: list[_Drawn], public: list[_Drawn]) -> list[_Drawn]:
        """So many of the public rows that they have their share beside all in-domain ones."""
        share, by_rows = self._mixture.calibration.public, self._mixture.by == "rows"

        def weight(drawn: Iterable[_Drawn]) -> int:
            return sum(1 if by_rows else characters for _, characters, _ in drawn)

        wanted = share * weight(in_domain) / (1.0 - share)
        chosen: list[_Drawn] = []
        for one in public:
            if weight([*chosen, one]) > wanted:
                break
            chosen.append(one)
        return chosen

    def _bucket(self, characters: int) -> int:
        return sum(characters > edge for edge in self._settings.edges)

    def _label(self, bucket: int) -> str:
        edges = self._settings.edges
        return f"over {edges[-1]}" if bucket == len(edges) else f"up to {edges[bucket]}"


def _by_length(rows: list[Row]) -> dict[str, int]:
    counts: dict[str, int] = defaultdict(int)
    for row in rows:
        counts[row["length"]] += 1
    return dict(counts)
