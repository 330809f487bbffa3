"""What a resumable job is: its rows, its folder, what counts as a failure, and the pool of workers that do it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from agentmill.config import Strict


class ActorRange(Strict):
    """An actor pool that grows from `min` to `max` workers while rows wait and the cluster has room, and shrinks."""

    min: int = Field(1, ge=1)
    max: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _in_order(self) -> "ActorRange":
        if self.max < self.min:
            raise ValueError(f"max={self.max} is less than min={self.min}; a pool grows from min to max")
        return self


@dataclass(frozen=True)
class Pool:
    """How many actors, and how many rows each has in flight: `calls` blocks of at most `block_rows` rows."""

    actors: int | ActorRange
    block_rows: int
    calls: int

    @property
    def most(self) -> int:
        """The largest number of actors."""
        return self.actors if isinstance(self.actors, int) else self.actors.max

    @property
    def least(self) -> int:
        return self.actors if isinstance(self.actors, int) else self.actors.min


@dataclass(frozen=True)
class Job:
    """What to run. `errors` says of an output table with `columns` which of its rows failed, as a list of messages.

    Where a row stands for several `unit`s, its column `weight` says for how many; `errors` gives a message for each.
    """

    label: str
    unit: str
    rows: Path
    work: Path
    id_column: str
    max_error_share: float
    errors: Callable[[pa.Table], list[str]]
    columns: tuple[str, ...]
    weight: str = ""

    @property
    def out(self) -> Path:
        return self.work / "out"

    @property
    def stop(self) -> Path:
        return self.work / "stop"

    @property
    def total(self) -> int:
        return self.units(self.rows)

    def units(self, path: Path) -> int:
        """How many units the rows of a file stand for."""
        if not self.weight:
            return int(pq.read_metadata(path).num_rows)
        return int(pc.sum(pq.read_table(path, columns=[self.weight])[self.weight]).as_py() or 0)


def output_files(job: Job) -> list[Path]:
    """The output files, by name."""
    return sorted(path for path in job.out.glob("*.parquet"))


def errors_in(job: Job, path: Path) -> list[str]:
    return job.errors(pq.read_table(path, columns=list(job.columns)))
