"""Where the finished rows of a job are, by id: so that they can be read again in any order, a part at a time.

Invariant: an id is found once, however often it was written. Where two attempts wrote the same id, the file with the
first name counts. Memory: the ids and a number for each; rows are read by `read_rows` alone, in whatever process.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq


class MissingRows(AssertionError):
    """Rows that should be finished are not there."""


def finished_ids(out: Path, id_column: str) -> pa.Array:
    """The ids in a job's output, as one array of strings."""
    columns = [pq.read_table(path, columns=[id_column])[id_column] for path in sorted(out.glob("*.parquet"))]
    chunks = [chunk for column in columns for chunk in column.chunks]
    return pa.concat_arrays(chunks) if chunks else pa.array([], pa.string())


class Index:
    """The finished rows of the job whose output is in `out`."""

    def __init__(self, out: Path, id_column: str) -> None:
        self.id_column = id_column
        self.files = sorted(out.glob("*.parquet"))
        counts = [pq.read_metadata(path).num_rows for path in self.files]
        ids = np.asarray(finished_ids(out, id_column).to_pylist(), dtype=np.bytes_)
        numbers = np.repeat(np.arange(len(self.files), dtype=np.int32), counts)
        self._ids, first = np.unique(ids, return_index=True)  # sorted; of equal ids the first
        self._file_of = numbers[first]

    def __len__(self) -> int:
        return len(self._ids)

    def files_of(self, ids: Sequence[str]) -> list[Path]:
        """The files that hold these ids, by name.

        Raises:
            MissingRows: when an id is not there.
        """
        wanted = np.asarray(ids, dtype=np.bytes_)
        if not len(wanted):
            return []
        places = np.minimum(np.searchsorted(self._ids, wanted), max(0, len(self) - 1))
        found = self._ids[places] == wanted if len(self) else np.zeros(len(wanted), bool)
        if not found.all():
            raise MissingRows(
                f"{int((~found).sum())} of {len(wanted)} rows are missing, the first {ids[int(found.argmin())]}"
            )
        return [self.files[number] for number in np.unique(self._file_of[places])]


def read_rows(files: Sequence[Path], id_column: str, ids: Sequence[str], columns: list[str] | None = None) -> pa.Table:
    """The rows of `ids`, in that order, from files that `Index.files_of` named.

    Raises:
        MissingRows: when an id is in none of them.
    """
    wanted = pa.array(ids, pa.string())
    needed = None if columns is None else list(dict.fromkeys([id_column, *columns]))
    parts = []
    for path in files:
        table = pq.read_table(path, columns=needed)
        parts.append(table.filter(pc.is_in(table[id_column], wanted)))
    found = pa.concat_tables(parts)
    places = pc.index_in(wanted, found[id_column].combine_chunks())  # of equal ids the first
    if places.null_count:
        raise MissingRows(f"{places.null_count} of {len(wanted)} rows are in none of the {len(files)} files given")
    return found.take(places)
