"""Reading the step log that the workers write (see raytrain.callbacks), without importing torch."""

import json
import os
from pathlib import Path
from typing import Any, BinaryIO

Row = dict[str, Any]
WAITED = "draft/waited_s"  # seconds since the row before in which a worker waited for a student's states, their mean


def read_steps(file: Path) -> list[Row]:
    """The rows of a step log; a last line that a kill cut short is left out."""
    if not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


class Tail:
    """Reads what was added to a step log since the last look. Where training went back to a checkpoint the log was
    written anew: it is read from its beginning again, and steps that were seen already come a second time."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._inode, self._offset = 0, 0

    def rows(self) -> list[Row]:
        """The rows that are new; a line that is not finished stays for the next look."""
        try:
            with self._file.open("rb") as stream:
                return self._read(stream)
        except FileNotFoundError:
            return []

    def _read(self, stream: BinaryIO) -> list[Row]:
        status = os.fstat(stream.fileno())
        if status.st_ino != self._inode or status.st_size < self._offset:
            self._inode, self._offset = status.st_ino, 0
        stream.seek(self._offset)
        whole, end, _ = stream.read().rpartition(b"\n")
        self._offset += len(whole) + len(end)
        return [json.loads(line) for line in whole.split(b"\n") if line]
