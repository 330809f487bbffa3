"""Where a worker gets the student's states from: it holds the student and runs it, or asks an engine beside it.

Either way it gives packed rows and takes each back with its states, in order. An engine (raytrain.drafter.extractor) is
asked for the rows that come next while the worker computes. Invariant: a worker has asked for at most `engine.ahead`
rows more than it has taken, and their states lie in Ray's object store, never in a file of ours.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle, islice
from typing import Any, Protocol

import ray
import ray.train
from transformers import PreTrainedModel

from raytrain.drafter.extractor import engines
from raytrain.drafter.model import drafter_settings, student_of
from raytrain.drafter.states import States, student_states
from raytrain.drafter.watch import from_array
from raytrain.hardware import Placement
from raytrain.job import Job
from raytrain.reference import device_of

Row = dict[str, Any]  # as raytrain.packing.PackedCollator makes it


class Source(Protocol):
    """`waited_s` are the seconds that were spent waiting for another process."""

    waited_s: float

    def each(self, rows: Iterable[Row]) -> Iterator[tuple[Row, States]]:
        """The rows on this worker's device, each with its states."""
        ...


class Online:
    """Runs the student here, row by row."""

    waited_s = 0.0

    def __init__(self, drafter: PreTrainedModel, placement: Placement) -> None:
        self._student, self._layers = student_of(drafter, placement), drafter.target_layer_ids

    def each(self, rows: Iterable[Row]) -> Iterator[tuple[Row, States]]:
        """The rows on the student's device, each with its states."""
        for row in rows:
            here = _on(row, self._student.device)
            yield here, student_states(self._student, self._layers, here)


class Streamed:
    """Asks `engines` in turn, `ahead` rows before they are taken."""

    def __init__(self, engines: Sequence[Any], ahead: int, width: int, device: Any) -> None:
        self.waited_s = 0.0
        self._engines, self._ahead, self._width, self._device = cycle(engines), ahead, width, device

    def each(self, rows: Iterable[Row]) -> Iterator[tuple[Row, States]]:
        """The rows on the worker's device, each with its states."""
        coming, asked = iter(rows), deque[tuple[Row, Any]]()
        while True:
            for row in islice(coming, self._ahead + 1 - len(asked)):
                asked.append((row, next(self._engines).states.remote(documents(row))))
            if not asked:
                return
            row, reference = asked.popleft()
            begun = time.monotonic()
            found = ray.get(reference)
            self.waited_s += time.monotonic() - begun
            states = from_array(found).to(self._device)[None]
            del found, reference  # its place in the object store is free before the next is waited for
            yield _on(row, self._device), States(states[..., : -self._width], states[..., -self._width :])


def documents(row: Row) -> list[list[int]]:
    """The token ids of a packed row's documents."""
    return [part.tolist() for part in row["input_ids"][0].split(row["cu_seq_lens_q"].diff().tolist())]


def source_of(job: Job, drafter: PreTrainedModel) -> Source:
    """Where this worker gets the states of the drafter's student from, as the job's settings say."""
    settings = drafter_settings(job)
    if settings.states == "online":
        return Online(drafter, job.placement)
    rank, handles = ray.train.get_context().get_world_rank(), engines(job)
    turned = [handles[(rank + n) % len(handles)] for n in range(len(handles))]
    width = drafter.config.transformer_layer_config.hidden_size
    return Streamed(turned, settings.engine.ahead, width, device_of(job.placement))


def _on(row: Row, device: Any) -> Row:
    return {name: value.to(device) if hasattr(value, "to") else value for name, value in row.items()}
