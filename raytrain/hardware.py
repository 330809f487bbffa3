"""What a training stage runs on: a kind of machine, described in configs/hardware, and the choices that follow from it.

A description says what a node has and what suits it; what a stage's own settings say always wins. Invariant: what is
not described is measured or left out, never assumed: a memory that is not known is not checked, and where the peak is
not known there is no MFU.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_serializer, model_validator

from agentmill.config import ConfigError, Strict, load_yaml, nearest, validate
from agentmill.errors import UserError
from agentmill.lineage import gpu_memory_gib, memory_gib, usable_cores
from raytrain.settings import WorkerSettings

CPU_ATTENTION, GPU_ATTENTION = "grouped_products", "fused"
SHIPPED = Path(__file__).parents[1] / "configs" / "hardware"
INTERFACES = Path("/sys/class/infiniband")

StageName = Literal["cpt", "sft", "dpo", "drafter"]
TRAINING: tuple[StageName, ...] = get_args(StageName)


class HardwareError(UserError):
    """The cluster cannot give what the settings ask for. The message names the field and the remedy."""


class HardwareSettings(Strict):
    """One kind of machine. `devices` are the accelerators of a node; none where workers compute on its cores.

    `device_memory_gib` and `host_memory_gib` are what programs can have of one device and of one node's memory; null
    measures this machine. `peak_tflops` is a device's dense BF16 peak, against which MFU is reckoned; null prints none.
    `accelerator` is Ray's name for the device, so that a mixed cluster gives the right nodes. `placement` is Ray's
    strategy for the workers, `cpus_per_worker` what each reserves. `efa` is the number of Elastic Fabric Adapters of a
    node: a stage over several nodes that finds fewer stops, since NCCL would fall back to TCP without a word.
    `environment` is set in every worker. `worker` and `stages` hold defaults for the stages' `worker` settings.
    """

    name: str = "this machine"
    devices: Annotated[int, Field(ge=1)] | None = None
    device_memory_gib: Annotated[float, Field(gt=0)] | None = None
    host_memory_gib: Annotated[float, Field(gt=0)] | None = None
    peak_tflops: Annotated[float, Field(gt=0)] | None = None
    accelerator: str | None = None
    placement: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    cpus_per_worker: Annotated[int, Field(ge=1)] = 1
    efa: Annotated[int, Field(ge=0)] = 0
    environment: dict[str, str] = {}
    worker: WorkerSettings = WorkerSettings()
    stages: dict[StageName, WorkerSettings] = {}

    @model_validator(mode="after")
    def _defaults_agree(self) -> "HardwareSettings":
        for stage in self.stages:
            WorkerSettings.model_validate(self.worker_defaults(stage))
        return self

    @field_serializer("worker")
    def _worker_as_given(self, value: WorkerSettings) -> dict[str, Any]:
        """Only what was said: a default that was never given must not look like a choice when it is read again."""
        return value.model_dump(mode="json", exclude_unset=True)

    @field_serializer("stages")
    def _stages_as_given(self, value: Mapping[str, WorkerSettings]) -> dict[str, Any]:
        return {name: worker.model_dump(mode="json", exclude_unset=True) for name, worker in value.items()}

    def worker_defaults(self, stage: str) -> dict[str, Any]:
        """The `worker` settings of a stage that this hardware chooses, those of the stage over those of all."""
        given = [self.worker, *(settings for name, settings in self.stages.items() if name == stage)]
        return {key: value for one in given for key, value in one.model_dump(exclude_unset=True).items()}

    def workers_of_node(self, workers: int) -> int:
        """How many of `workers` share a node."""
        return workers if self.devices is None else min(workers, self.devices)


def read_hardware(value: Any) -> HardwareSettings:
    """Settings from the name of a file in configs/hardware, the path of another, or a mapping.

    Raises:
        ConfigError: when there is no such file, or a key or a value is wrong.
    """
    if isinstance(value, HardwareSettings):
        return value
    if isinstance(value, Mapping):
        return validate(HardwareSettings, value, "hardware")
    file = Path(str(value))
    if file.suffix not in (".yaml", ".yml"):
        names = sorted(path.stem for path in SHIPPED.glob("*.yaml"))
        if str(value) not in names:
            guess = nearest(str(value), names)
            meant = f"did you mean {guess}? " if guess else ""
            raise ConfigError(
                f"hardware={value} is no file of configs/{SHIPPED.name}; {meant}name one of {', '.join(names)}, give "
                f"the path of a YAML file, or a mapping"
            )
        file = SHIPPED / f"{value}.yaml"
    return validate(HardwareSettings, load_yaml(file), str(file))


def under(hardware: HardwareSettings, stage: str, given: Any) -> Any:
    """A stage's settings as read, with the hardware's choices for `worker` where they say nothing."""
    chosen = hardware.worker_defaults(stage)
    if not isinstance(given, Mapping) or not isinstance(given.get("worker", {}), Mapping):
        return given  # the settings' own check tells what is wrong
    return {**given, "worker": {**chosen, **given.get("worker", {})}}


@dataclass(frozen=True)
class Placement:
    """Where workers run and how a model computes there.

    `cpus` are what a worker reserves of Ray's, `strategy` and `accelerator` say on which nodes, `environment` and `efa`
    what it finds there; `nodes` is how many nodes the workers take, `peak_flops` one device's peak, 0 where unknown.
    """

    device: Literal["cpu", "gpu"]
    threads: int
    precision: Literal["bf16", "fp32"]
    cpus: int = 1
    strategy: str = "PACK"
    accelerator: str | None = None
    nodes: int = 1
    efa: int = 0
    peak_flops: float = 0.0
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def attention(self) -> str:
        """The implementation of attention, by its name in transformers (see raytrain.attention)."""
        return GPU_ATTENTION if self.device == "gpu" else CPU_ATTENTION

    @property
    def dtype(self) -> Any:
        """The torch type that weights are held and multiplied in; ZeRO keeps fp32 masters of what is trained."""
        import torch

        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    @property
    def worker_resources(self) -> dict[str, float]:
        """What one worker takes of Ray's resources."""
        return {"CPU": self.cpus, **({"GPU": 1} if self.device == "gpu" else {})}


def place(
    settings: WorkerSettings, resources: Mapping[str, float], hardware: HardwareSettings | None = None
) -> Placement:
    """Choose devices and threads for `settings` on a cluster with these Ray resources (`ray.cluster_resources()`).

    Raises:
        HardwareError: when GPUs are asked for and there are fewer than workers.
    """
    kind = hardware or HardwareSettings()
    gpus = int(resources.get("GPU", 0))
    if settings.device == "gpu" and gpus < settings.workers:
        raise HardwareError(
            f"worker.device=gpu needs a GPU for each of worker.workers={settings.workers} and Ray has {gpus}; "
            f"lower workers, set worker.device=cpu, or start Ray on more machines"
        )
    on_gpu = settings.device == "gpu" or (settings.device == "auto" and gpus >= settings.workers)
    together = kind.workers_of_node(settings.workers)
    threads = settings.threads or (kind.cpus_per_worker if kind.cpus_per_worker > 1 else usable_cores() // together)
    return Placement(
        device="gpu" if on_gpu else "cpu",
        threads=max(1, threads),
        precision=settings.precision,
        cpus=kind.cpus_per_worker,
        strategy=kind.placement,
        accelerator=kind.accelerator if on_gpu else None,
        nodes=-(-settings.workers // together),
        efa=kind.efa if on_gpu else 0,
        peak_flops=1e12 * kind.peak_tflops if kind.peak_tflops else 0.0,
        environment=dict(kind.environment),
    )


def memory_of_worker(hardware: HardwareSettings, workers: int, *, on_gpu: bool) -> float | None:
    """GiB that one worker may use on its device; None where it is not known.

    Workers on cores share the memory of their node: what is described, else what is free on this machine now.
    """
    if on_gpu:
        return hardware.device_memory_gib or gpu_memory_gib()
    return (hardware.host_memory_gib or memory_gib()) / hardware.workers_of_node(workers)


def host_memory_gib(hardware: HardwareSettings) -> float | None:
    """GiB of a node's own memory: as described, or what is free here where this machine is such a node; else None."""
    if hardware.host_memory_gib is not None:
        return hardware.host_memory_gib
    return memory_gib() if gpu_memory_gib() is not None else None


def check_fabric(placement: Placement, interfaces: Path = INTERFACES) -> None:
    """Look, in a worker, that its node has the network adapters that the hardware describes.

    Raises:
        HardwareError: when workers are on several nodes and this one has fewer.
    """
    if placement.nodes < 2 or not placement.efa:
        return
    found = len(list(interfaces.iterdir())) if interfaces.is_dir() else 0
    if found < placement.efa:
        raise HardwareError(
            f"hardware.efa={placement.efa}, and node {os.uname().nodename} shows {found} network adapters in "
            f"{interfaces}: NCCL would go over TCP, many times slower; give the node (or its container) its EFA "
            f"devices, or set hardware.efa=0 to go on without"
        )


def peak_memory_gib(device: Literal["cpu", "gpu"] = "cpu") -> float:
    """The largest memory of this worker so far: what torch reserved of its GPU, else the process's resident size."""
    if device == "gpu":
        import torch

        return float(torch.cuda.max_memory_reserved() / 2**30)
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak * (1 if sys.platform == "darwin" else 1024) / 2**30)
