"""Rows on disk, scattered into buckets by a key and gathered bucket by bucket: memory holds one bucket, never all.

Rows with equal keys land in the same bucket, in the order in which they came; a sort inside each bucket then sorts the
whole. The files are JSON lines in a scratch folder that belongs to the caller.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

MAX_BUCKETS = 128  # open files of one spill: several are written at a time, and a process may open about a thousand
_KEYS = 2**64


class Spill:
    """A writer of scattered rows; read them with `buckets` once it is closed."""

    def __init__(self, folder: Path, buckets: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._paths = [folder / f"{number:04d}.jsonl" for number in range(buckets)]
        self._files: list[IO[str]] = [path.open("w", encoding="utf-8") for path in self._paths]

    def add(self, key: int, value: Any) -> None:
        """Put a JSON value into the bucket of a 64-bit key: buckets are ranges of keys, in order."""
        self._files[key * len(self._files) // _KEYS].write(json.dumps(value, ensure_ascii=False) + "\n")

    def close(self) -> None:
        for file in self._files:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def buckets(self) -> Iterator[list[Any]]:
        """The rows of each bucket; its list is emptied and its file removed when the next is asked for."""
        for path in self._paths:
            rows = list(read_lines(path))
            yield rows
            rows.clear()
            path.unlink()


def read_lines(path: Path) -> Iterator[Any]:
    """The JSON values of a file, one by one."""
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)


def buckets_for(rows: int, bucket_rows: int) -> int:
    """How many buckets so many rows need."""
    return max(1, min(MAX_BUCKETS, -(-rows // bucket_rows)))
