"""One Ray Train worker group for every training stage: launched from the driver, watched, and gone on with.

`launch` runs a stage's loop on all workers; the loop leaves its results in files. The storage folder is fixed by the
caller, so that a second launch after a kill of the driver goes on from the newest checkpoint, like a worker that dies
in between (Ray Train restarts the whole group, at most `max_failures` times). A driver that is told to stop (Ctrl-C,
SIGTERM) has the workers save first; told again, it leaves at once.
"""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentmill.config import UserError
from agentmill.log import progress, say
from raytrain.hardware import Placement, check_fabric
from raytrain.settings import WorkerSettings

if TYPE_CHECKING:
    from ray.train import ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

POLL_S = 0.5
# oneDNN keeps 1,024 compiled products by default, half a MiB each; in training each length of a row has its own.
ON_CORES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256"}
RAY_RECORD = "checkpoint_manager_snapshot.json"


class TrainingFailed(UserError):
    """Training ended with an error after all attempts. The message has the cause and what to do."""


def launch(
    loop: Callable[[dict[str, Any]], dict[str, Any]],
    config: dict[str, Any],
    *,
    label: str,
    storage: Path,
    stop: Path,
    settings: WorkerSettings,
    placement: Placement,
) -> None:
    """Run `loop(config)` on every worker of a group until it ends on all of them.

    Checkpoints go to `storage`. Where a worker was told to stop, the group is started again. The file `stop` is left
    for the workers when this process is told to stop; `label` begins what is said. Ray must be initialised.

    Raises:
        TrainingFailed: when the loop failed more than `settings.max_failures` times.
        KeyboardInterrupt: when this process was told to stop; the newest step is saved.
    """
    # Ray looks at its workers that often; it also is how soon a worker's SIGTERM is noticed.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.3")
    stop.unlink(missing_ok=True)
    while True:
        # Which checkpoints count is decided by their markers (raytrain.checkpoints). Ray's record is no help, and one
        # that a kill cut short, or that names a checkpoint that is gone, keeps its controller from starting.
        (storage / RAY_RECORD).unlink(missing_ok=True)
        ended = _fit(_trainer(loop, config, storage, settings, placement), label, stop, settings, storage)
        if "stopped" in ended:
            say(label, f"{ended['stopped']}: step {ended['step']} is saved")
        if stop.exists():
            raise KeyboardInterrupt
        if "stopped" not in ended:
            return


def _trainer(
    loop: Callable[[dict[str, Any]], dict[str, Any]],
    config: dict[str, Any],
    storage: Path,
    settings: WorkerSettings,
    placement: Placement,
) -> "TorchTrainer":
    from ray.train import CheckpointConfig, FailureConfig, RunConfig
    from ray.train.torch import TorchTrainer

    return TorchTrainer(
        loop,
        train_loop_config=config,
        torch_config=_listening("nccl" if placement.device == "gpu" else "gloo"),
        scaling_config=scaling(settings.workers, placement),
        run_config=RunConfig(
            worker_runtime_env=worker_environment(placement),
            name=storage.name,
            storage_path=str(storage.parent),
            failure_config=FailureConfig(max_failures=settings.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=None),  # raytrain.checkpoints keeps count
        ),
    )


def scaling(workers: int, placement: Placement) -> "ScalingConfig":
    """How many workers, on which nodes, and what each takes of Ray's resources."""
    from ray.train import ScalingConfig

    return ScalingConfig(
        num_workers=workers,
        use_gpu=placement.device == "gpu",
        resources_per_worker=placement.worker_resources,
        placement_strategy=placement.strategy,
        accelerator_type=placement.accelerator,
    )


def worker_environment(placement: Placement) -> dict[str, Any]:
    """Ray's runtime environment of the workers: the hardware's variables, set before NCCL is loaded, and on cores those
    that hold memory down, where they are not set already."""
    ours = {name: value for name, value in ON_CORES.items() if name not in os.environ}
    found = {**(ours if placement.device == "cpu" else {}), **placement.environment}
    return {"env_vars": found} if found else {}


def _listening(backend: str) -> "TorchConfig":
    """Torch's process group, and workers that take SIGTERM as a notice (raytrain.stopping)."""
    from raytrain.signals import ListeningTorchConfig

    return ListeningTorchConfig(backend=backend)


def _fit(trainer: "TorchTrainer", label: str, stop: Path, settings: WorkerSettings, storage: Path) -> dict[str, Any]:
    """Run the trainer beside this thread, which stays free to be told to stop; returns what rank 0 returned."""
    from ray.train.v2.api.exceptions import TrainingFailedError

    beside = ThreadPoolExecutor(1, thread_name_prefix=f"{label}-fit")
    fitting = beside.submit(trainer.fit)
    beside.shutdown(wait=False)
    try:
        try:
            return dict(fitting.result().return_value or {})
        except KeyboardInterrupt:
            stop.touch()
            say(label, "told to stop: the newest step is being saved first; once more, and I leave at once")
            return dict(fitting.result().return_value or {})
    except TrainingFailedError as error:
        raise TrainingFailed(
            f"training failed {settings.max_failures + 1} times, at last with: {_cause(error)}; what was trained is in "
            f"{storage}; start the same command again to go on from there"
        ) from error


def _cause(error: BaseException) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def prepare_process(placement: Placement) -> None:
    """Set threads and quieten the libraries in a worker, before a model is built."""
    import logging
    import warnings

    import torch
    from transformers.utils import logging as transformers_logging

    check_fabric(placement)
    torch.set_num_threads(placement.threads)
    transformers_logging.disable_progress_bar()
    for name in ("DeepSpeed", "transformers", "accelerate", "trl", "peft"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning)


@contextmanager
def watched(
    label: str, total: int, last_step: Callable[[], tuple[int, dict[str, object]]], notes: Path
) -> Iterator[None]:
    """Show progress while the block runs: `last_step` is asked for (steps done, columns) from a thread beside it.

    Sentences that the workers write into the file `notes` are said as they come.
    """
    done = threading.Event()
    notes.unlink(missing_ok=True)

    def follow() -> None:
        with progress(label, total, "steps") as bar:
            shown = said = 0
            while True:
                finished = done.wait(POLL_S)
                said = _say_new(label, notes, said)
                step, columns = last_step()
                if step > shown:
                    bar.advance(step - shown, **columns)
                    shown = step
                if finished:
                    return

    thread = threading.Thread(target=follow, name=f"{label}-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _say_new(label: str, notes: Path, said: int) -> int:
    """Say the lines of `notes` past the first `said`; returns how many are said now. A line being written waits."""
    lines = notes.read_text(encoding="utf-8").split(os.linesep)[:-1] if notes.is_file() else []
    for line in lines[said:]:
        say(label, line)
    return len(lines)
