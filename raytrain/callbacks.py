"""What happens beside the training steps: they are written to a log.

The log is JSON lines, one a logged step: step, loss, learning_rate, grad_norm, tokens (real tokens so far), seconds (of
training so far), tokens_per_s, memory_gib (peak of this worker: of its GPU's memory, else resident), mfu where the
devices' peak is known, and what the stage's trainer adds. Invariant: after a run that was killed and went on, the log
has each step once; rows past the checkpoint are dropped when training goes on from it.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from agentmill.runs import atomic_write_text
from raytrain.hardware import peak_memory_gib
from raytrain.meter import Meter
from raytrain.steplog import read_steps


class StepLog(TrainerCallback):
    """Writes the step log. `step_tokens[n]` is the number of real tokens of step n + 1 over all ranks."""

    def __init__(
        self, file: Path, step_tokens: Sequence[int], *, device: Literal["cpu", "gpu"], meter: Meter | None
    ) -> None:
        self._file, self._device, self._meter = file, device, meter
        self._tokens = [0]
        for count in step_tokens:
            self._tokens.append(self._tokens[-1] + count)
        self._started = 0.0
        self._last = (0, 0.0)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Keep the rows up to the step that training goes on from."""
        if not state.is_world_process_zero:
            return
        rows = [row for row in read_steps(self._file) if row["step"] <= state.global_step]
        atomic_write_text(self._file, "".join(json.dumps(row) + "\n" for row in rows))
        before = float(rows[-1]["seconds"]) if rows else 0.0
        self._started = time.monotonic() - before
        self._last = (state.global_step, before)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
        logs: dict[str, Any] | None = None, **_: Any,
    ) -> None:  # fmt: skip
        """Append one row for a logged step; the trainer's closing summary has no loss and is not a step."""
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        seconds = time.monotonic() - self._started
        step, before = self._last
        tokens = self._tokens[state.global_step] - self._tokens[step]
        speed = tokens / max(seconds - before, 1e-9)
        row = {
            "step": state.global_step,
            "loss": logs["loss"],
            "learning_rate": logs.get("learning_rate"),
            "grad_norm": logs.get("grad_norm"),
            "tokens": self._tokens[state.global_step],
            "seconds": round(seconds, 3),
            "tokens_per_s": round(speed, 1),
            "memory_gib": round(peak_memory_gib(self._device), 3),
            **{key: value for key, value in logs.items() if "/" in key},  # what the stage's trainer adds, by group
        }
        if self._meter:
            row["mfu"] = round(self._meter.mfu(speed), 4)
        self._last = (state.global_step, seconds)
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
