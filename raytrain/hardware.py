"""What the machine offers a training stage, and the choices that follow from it."""

from dataclasses import dataclass
from typing import Any, Literal

from agentmill.config import UserError
from agentmill.lineage import usable_cores
from raytrain.settings import WorkerSettings

CPU_ATTENTION, GPU_ATTENTION = "grouped_products", "fused"


class HardwareError(UserError):
    """The cluster cannot give what the settings ask for. The message names the field and the remedy."""


@dataclass(frozen=True)
class Placement:
    """Where workers run and how a model computes there."""

    device: Literal["cpu", "gpu"]
    threads: int
    precision: Literal["bf16", "fp32"]

    @property
    def attention(self) -> str:
        """The implementation of attention, by its name in transformers (see raytrain.attention)."""
        return GPU_ATTENTION if self.device == "gpu" else CPU_ATTENTION

    @property
    def dtype(self) -> Any:
        """The torch type that weights are held and multiplied in; ZeRO keeps fp32 masters of what is trained."""
        import torch

        return torch.bfloat16 if self.precision == "bf16" else torch.float32


def place(settings: WorkerSettings, resources: dict[str, float]) -> Placement:
    """Choose devices and threads for `settings` on a cluster with these Ray resources (`ray.cluster_resources()`).

    Raises:
        HardwareError: when GPUs are asked for and there are fewer than workers.
    """
    gpus = int(resources.get("GPU", 0))
    if settings.device == "gpu" and gpus < settings.workers:
        raise HardwareError(
            f"worker.device=gpu needs a GPU for each of worker.workers={settings.workers} and Ray has {gpus}; "
            f"lower workers or set worker.device=cpu"
        )
    on_gpu = settings.device == "gpu" or (settings.device == "auto" and gpus >= settings.workers)
    threads = settings.threads or max(1, usable_cores() // settings.workers)
    return Placement("gpu" if on_gpu else "cpu", threads, settings.precision)


def peak_memory_gib() -> float:
    """The largest resident size of this process so far."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak * (1 if sys.platform == "darwin" else 1024) / 2**30)
