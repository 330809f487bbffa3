"""One Ray Train worker group for every training stage: launched from the driver, watched, and gone on with.

`launch` runs a stage's loop on all workers; the loop leaves its results in files. The group's name and storage folder
are fixed by the caller, so that a second launch after a kill of the driver goes on from the newest checkpoint, like a
worker that dies in between (Ray Train restarts the whole group, at most `max_failures` times).
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentmill.config import UserError
from agentmill.log import progress
from raytrain.hardware import Placement, check_fabric
from raytrain.settings import WorkerSettings

POLL_S = 0.5


class TrainingFailed(UserError):
    """Training ended with an error after all attempts. The message has the cause and what to do."""


def launch(
    loop: Callable[[dict[str, Any]], None],
    config: dict[str, Any],
    *,
    name: str,
    storage: Path,
    settings: WorkerSettings,
    placement: Placement,
    keep_checkpoints: int,
) -> None:
    """Run `loop(config)` on every worker of a group until it ends on all of them.

    Checkpoints go to `storage/name`. Ray must be initialised.

    Raises:
        TrainingFailed: when the loop failed more than `settings.max_failures` times.
    """
    # Ray registers a reported checkpoint when its controller polls; every 2 s, it may lose the newest in a kill.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.3")
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    trainer = TorchTrainer(
        loop,
        train_loop_config=config,
        torch_config=TorchConfig(backend="nccl" if placement.device == "gpu" else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=settings.workers,
            use_gpu=placement.device == "gpu",
            resources_per_worker=placement.worker_resources,
            placement_strategy=placement.strategy,
            accelerator_type=placement.accelerator,
        ),
        run_config=RunConfig(
            worker_runtime_env={"env_vars": dict(placement.environment)} if placement.environment else None,
            name=name,
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=settings.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=keep_checkpoints, checkpoint_score_attribute=None),
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise TrainingFailed(
            f"training failed {settings.max_failures + 1} times, at last with: {_cause(error)}; what was trained is in "
            f"{storage / name}; start the same command again to go on from there"
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
def watched(label: str, total: int, last_step: Callable[[], tuple[int, dict[str, object]]]) -> Iterator[None]:
    """Show progress while the block runs: `last_step` is asked for (steps done, columns) from a thread beside it."""
    done = threading.Event()

    def follow() -> None:
        with progress(label, total, "steps") as bar:
            shown = 0
            while True:
                finished = done.wait(POLL_S)
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
