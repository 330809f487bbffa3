"""Before a stage starts: does it fit? What it takes, what there is, and where it does not fit, what would.

What a worker takes is computed in `raytrain.footprint`; this adds what no model has: the CUDA context and NCCL's
buffers on a GPU; on a CPU the process with its libraries and the kernels that oneDNN compiles; and the share of a GPU
that the allocator loses to fragments.
A stage is refused only where the memory is known. Remedies are tried, not guessed: each one named was computed to fit.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agentmill.errors import UserError
from agentmill.log import say
from raytrain.batches import Plan
from raytrain.data import TokenRows
from raytrain.drafter.footprint import draft_footprint
from raytrain.footprint import KERNELS_GIB, Batch, Footprint, footprint, scoring
from raytrain.hardware import HardwareSettings, host_memory_gib, memory_of_worker
from raytrain.job import Job
from raytrain.settings import CptSettings, DpoSettings, DrafterSettings, LoraSettings, StageSettings
from raytrain.shape import ModelShape, ShapeError, read_shape

CONTEXT_GIB = 1.5  # CUDA's context and NCCL's buffers, which torch does not count
PROCESS_GIB = 0.9  # Python, torch, transformers and DeepSpeed in one worker on a CPU (`agentmill bench memory`)
USABLE = 0.95  # of a device: the rest is lost between blocks
SHOWN = 4
MOST_WORKERS = 64


class MemoryRefused(UserError):
    """A stage that cannot fit. The message names what it takes, what there is, and what would fit."""


@dataclass(frozen=True)
class Verdict:
    """What a worker takes (`need_gib`, by part in `parts`) and may use (`have_gib`), and the same of its node's host
    memory for what was moved there. What is not known is None and fits."""

    need_gib: float
    have_gib: float | None
    host_need_gib: float
    host_have_gib: float | None
    parts: dict[str, float]

    @property
    def fits(self) -> bool:
        on_device = self.have_gib is None or self.need_gib <= self.have_gib
        return on_device and (self.host_have_gib is None or self.host_need_gib <= self.host_have_gib)

    @property
    def text(self) -> str:
        """Both sides in one line: `21.4 of 37.4 GiB a worker (weights 15.0, ...)`."""
        have = "an unknown memory" if self.have_gib is None else f"{self.have_gib:.1f} GiB"
        parts = ", ".join(f"{name} {gib:.1f}" for name, gib in self.parts.items() if gib >= 0.05)
        line = f"{self.need_gib:.1f} of {have} a worker ({parts})"
        if self.host_need_gib:
            host = "an unknown memory" if self.host_have_gib is None else f"{self.host_have_gib:.0f} GiB"
            line += f", and {self.host_need_gib:.0f} of {host} of a node's own memory"
        return line


def largest_of(rows: TokenRows, plan: Plan, *, packed: bool) -> Batch:
    """The micro-batch of a plan that takes most: padded (or packed) tokens and positions with a loss, each at its
    largest."""
    costs, counted = rows.item_costs, (rows.lengths - rows.starts).reshape(-1, rows.sides).sum(axis=1)
    batches = [batch for batch in plan if batch]
    return Batch(
        tokens=max(int(costs[batch].sum() if packed else len(batch) * costs[batch].max()) for batch in batches),
        counted=max(int(counted[batch].sum()) for batch in batches),
        longest=int(rows.lengths.max()),
    )


def check_job(job: Job, batch: Batch, hardware: HardwareSettings) -> float | None:
    """Say what a worker of this stage will take, before anything is started; returns it in GiB, None where it was not
    computed.

    Raises:
        MemoryRefused: when it does not fit.
    """
    try:
        shape = read_shape(job.start)
    except ShapeError as error:
        say(job.stage, f"the memory that it takes was not computed: {error}")
        return None
    shape = replace(shape, drafted=drafted_tokens(job.untrained))
    verdict = require_fit(job.stage, shape, job.settings, batch, hardware, on_gpu=job.placement.device == "gpu")
    say(job.stage, f"takes about {verdict.text}")
    return verdict.need_gib


def drafted_tokens(drafter: Path) -> int | None:
    """The size of the vocabulary of the drafter in this folder; None where there is none yet."""
    file = drafter / "config.json"
    return int(json.loads(file.read_text(encoding="utf-8"))["draft_vocab_size"]) if file.is_file() else None


def weigh(
    shape: ModelShape, settings: StageSettings, batch: Batch, hardware: HardwareSettings, *, on_gpu: bool
) -> Verdict:
    """Compare what the stage takes with what the hardware has."""
    workers = settings.worker.workers
    if isinstance(settings, DrafterSettings):
        taken, later = draft_footprint(shape, settings, batch, on_gpu=on_gpu), dict[str, float]()
    else:
        taken, later = footprint(shape, settings, batch, on_gpu=on_gpu), scoring(shape, settings, batch)
    parts = taken.device if taken.total >= sum(later.values()) else later
    kernels = {"kernels": KERNELS_GIB} if settings.worker.precision == "bf16" else {}
    own = {"context": CONTEXT_GIB} if on_gpu else {**kernels, "process": PROCESS_GIB}
    memory = memory_of_worker(hardware, workers, on_gpu=on_gpu)
    return Verdict(
        need_gib=sum(parts.values()) + sum(own.values()),
        have_gib=None if memory is None else USABLE * memory,
        host_need_gib=_host(taken, shape, settings, hardware) if on_gpu else 0.0,
        host_have_gib=host_memory_gib(hardware) if on_gpu else None,
        parts={**parts, **own},
    )


def _host(taken: Footprint, shape: ModelShape, settings: StageSettings, hardware: HardwareSettings) -> float:
    """GiB of a node's memory: what was moved there, or, earlier, the weights that each of its workers reads whole."""
    size = 2 if settings.worker.precision == "bf16" else 4
    together = hardware.workers_of_node(settings.worker.workers)
    reads = not (isinstance(settings, DrafterSettings) and settings.states == "engine")
    return together * (max(taken.host, size * shape.parameters / 2**30 if reads else 0.0) + PROCESS_GIB)


def require_fit(
    stage: str, shape: ModelShape, settings: StageSettings, batch: Batch, hardware: HardwareSettings, *, on_gpu: bool
) -> Verdict:
    """The verdict of a stage that fits.

    Raises:
        MemoryRefused: when it does not; names what would.
    """
    verdict = weigh(shape, settings, batch, hardware, on_gpu=on_gpu)
    if verdict.fits:
        return verdict
    found = remedies(shape, settings, batch, hardware, on_gpu=on_gpu)
    told = "; or ".join(f"{what} ({gib:.1f} GiB)" for what, gib in found[:SHOWN])
    remedy = f"what fits: {told}" if found else "nothing that these settings offer fits: take a smaller model"
    on = f"a device of {hardware.name}" if on_gpu else "this machine's memory"
    raise MemoryRefused(
        f"{stage}.worker: {settings.worker.workers} workers with ZeRO {settings.worker.zero_stage} and "
        f"tokens_per_batch={settings.tokens_per_batch} do not fit on {on}: {verdict.text}; {remedy}"
    )


def remedies(
    shape: ModelShape, settings: StageSettings, batch: Batch, hardware: HardwareSettings, *, on_gpu: bool
) -> list[tuple[str, float]]:
    """Changes after which the stage fits, with what a worker then takes: one change each, where that is enough, else
    the first of them together."""
    single: list[tuple[str, float]] = []
    together, names = settings, list[str]()
    for name, changed in _changes(shape, settings, hardware, on_gpu=on_gpu):
        verdict = weigh(shape, changed, _scaled(batch, settings, changed), hardware, on_gpu=on_gpu)
        if verdict.fits:
            single.append((name, verdict.need_gib))
    if single:
        return single
    for name, change in _steps(shape, settings, on_gpu=on_gpu):
        together, names = _with(together, change), [*names, name]
        verdict = weigh(shape, together, _scaled(batch, settings, together), hardware, on_gpu=on_gpu)
        if verdict.fits:
            return [(", ".join(names), verdict.need_gib)]
    return []


def _changes(
    shape: ModelShape, settings: StageSettings, hardware: HardwareSettings, *, on_gpu: bool
) -> Iterator[tuple[str, StageSettings]]:
    for name, change in _steps(shape, settings, on_gpu=on_gpu):
        yield name, _with(settings, change)
    if on_gpu and isinstance(settings, DrafterSettings) and settings.states == "online":
        yield "states=engine, with other GPUs for the student", _with(settings, {"states": "engine"})
    workers = 2 * settings.worker.workers
    while on_gpu and workers <= MOST_WORKERS:
        nodes = -(-workers // hardware.workers_of_node(workers))
        what = f"worker.workers={workers}" + (f" on {nodes} nodes" if nodes > 1 else "")
        yield what, _with(settings, {"worker": {"workers": workers}})
        workers *= 2


def _steps(shape: ModelShape, settings: StageSettings, *, on_gpu: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """What can be changed without other hardware, the least costly first."""
    worker = settings.worker
    drafts = isinstance(settings, DrafterSettings)
    if not worker.gradient_checkpointing and not drafts:
        yield "worker.gradient_checkpointing=true", {"worker": {"gradient_checkpointing": True}}
    for stage in range(worker.zero_stage + 1, 3 if drafts else 4):
        if worker.workers > 1:
            yield f"worker.zero_stage={stage}", {"worker": {"zero_stage": stage}}
    if settings.tokens_per_batch > settings.least_tokens:
        tokens = settings.least_tokens
        yield f"tokens_per_batch={tokens}", {"tokens_per_batch": tokens}
    if isinstance(settings, DpoSettings) and not settings.precompute_reference:
        yield "precompute_reference=true", {"precompute_reference": True}
    if on_gpu and worker.offload == "none" and not drafts:
        yield "worker.offload=optimizer", {"worker": {"offload": "optimizer"}}
    if on_gpu and worker.offload != "parameters" and not drafts:
        both = {"zero_stage": 3, "offload": "parameters"}
        yield "worker.zero_stage=3 with worker.offload=parameters", {"worker": both}
    if isinstance(settings, CptSettings) and shape.added and settings.train == "all":
        yield "train=new_blocks", {"train": "new_blocks"}
    if settings.lora is None and not drafts:
        yield "lora={}", {"lora": LoraSettings()}
    if not on_gpu and worker.workers > 1:
        yield "worker.workers=1", {"worker": {"workers": 1}}


def _with(settings: StageSettings, change: dict[str, Any]) -> StageSettings:
    worker = settings.worker.model_copy(update=change.get("worker", {}))
    return settings.model_copy(update={**change, "worker": worker})


def _scaled(batch: Batch, before: StageSettings, after: StageSettings) -> Batch:
    """The batch under another budget of tokens, with the same share of positions that count."""
    share = min(1.0, after.tokens_per_batch / before.tokens_per_batch)
    longest = min(batch.longest, after.tokens_per_batch)
    return Batch(max(int(batch.tokens * share), longest), int(batch.counted * share), longest)
