"""Being told to stop: the newest step is saved first, and the next start goes on from that very step.

Three notices lead here. A worker gets SIGTERM (its machine is about to go): the ranks save and end, and the driver
starts them again. The driver is stopped (SIGTERM or Ctrl-C): it leaves a file, the ranks save and end, and so does the
driver. Ray drains a worker's node: the ranks save and go on until the node is gone. Invariant: all ranks act on a
notice at the same step. They agree on it after every step with one small reduction on the CPU, because saving is
collective and a rank that saved alone would wait for the others for ever.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray.train
import torch
import torch.distributed
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

ASK_RAY_EVERY_S = 5.0
WORKER, DRIVER, DRAIN = "a worker was told to stop (SIGTERM)", "stopped", "a node of the workers is being drained"


class _Ear:
    """SIGTERM to this worker. The first one while training goes on is taken as a notice, any other ends the process.

    Python runs signal handlers in the main thread, which in a Ray worker sleeps until Ray next asks for its status; the
    number of a signal is written to a pipe at once, and a thread of our own reads it.
    """

    def __init__(self) -> None:
        self.listening = False
        self.heard = threading.Event()
        self._installed = False

    def install(self) -> None:
        """Take over SIGTERM; runs in the main thread of the worker."""
        if self._installed:
            return
        self._installed = True
        read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, lambda signum, frame: None)  # the number still goes to the pipe
        threading.Thread(target=self._follow, args=(read,), name="sigterm", daemon=True).start()

    def _follow(self, pipe: int) -> None:
        while True:
            if signal.SIGTERM not in os.read(pipe, 1):
                continue
            if not self.listening or self.heard.is_set():
                os._exit(128 + signal.SIGTERM)
            self.heard.set()


_ear = _Ear()


def listen() -> None:
    """Take SIGTERM from now on. Signals belong to a process's main thread, and a Ray Train loop runs beside it."""
    _ear.install()


class StopWhenTold(TrainerCallback):
    """Ends training at the same step on all ranks after a notice. `why` says of which kind, None while there is none.

    `request` is the file that the driver leaves. `note` takes a sentence for the user.
    """

    def __init__(self, request: Path, note: Callable[[str], None]) -> None:
        self.why: str | None = None
        self._request = request
        self._note = note
        self._group = torch.distributed.new_group(backend="gloo")
        self._asked = time.monotonic()
        self._drained: tuple[Any, ...] = ()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """From here on SIGTERM means: save first."""
        _ear.listening = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Agree with the other ranks, and save and stop where one of them was told to."""
        drained = self._agree()
        if self.why:
            control.should_save = control.should_training_stop = True
        elif drained:
            control.should_save = True

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The last step is saved: from here on SIGTERM ends the worker."""
        _ear.listening = False

    def told(self) -> bool:
        """Whether to stop, asked by all ranks together between the parts that follow training."""
        self._agree()
        return self.why is not None

    def _agree(self) -> bool:
        """Take what any rank knows; returns whether a node is newly being drained."""
        first, now = torch.distributed.get_rank() == 0, time.monotonic()
        ask = first and now - self._asked >= ASK_RAY_EVERY_S
        flags = torch.tensor([_ear.heard.is_set(), first and self._request.exists(), ask], dtype=torch.int32)
        torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MAX, group=self._group)
        worker, driver, ask = (bool(flag) for flag in flags.tolist())
        self.why = DRIVER if driver else WORKER if worker else self.why
        if not ask:
            return False
        self._asked = now
        info = ray.train.get_preemption_info()  # collective: Ray's own answer is the same on all ranks
        drained = (tuple(info.preempted_node_ids), info.deadline_ms) if info else ()
        new, self._drained = drained != self._drained and bool(drained), drained
        if new and first:
            self._note(f"{DRAIN}: the newest step is saved; training goes on until the node is gone")
        return new
