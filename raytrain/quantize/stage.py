"""The stage quantize: the newest model in 8 bits, models/quantized, and its drafter, models/drafter_quantized.

The scheme follows from the hardware unless it is set. Calibration rows are a set of corpora/calibration, by preference
the mixed one; held-out rows are those of corpora/sft, for the drafter the newest model's answers in responses/heldout.
Records quantize.scheme, quantize.{seconds,mib}, of memory quantize.{estimate_gib,peak_gib,peak_mib} (the process as it
was computed and at its peak, and by how much it grew), and as losses of held-out completions
quantize.{bf16,quantized}_loss. Of the drafter quantize.drafter_{seconds,mib,estimate_gib,peak_gib,peak_mib}, and
quantize.drafter_{bf16,quantized}_mgl, both beside the model in 8 bits. With FP8 also quantize.clip_rate and
quantize.drafter_clip_rate: above a bound the stage fails, and that model does not come under models/.
"""

import shutil
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from agentmill.lineage import package_versions, require_memory, usable_cores
from agentmill.log import duration, say
from agentmill.runs import Run, digest_path
from raytrain.data import TokenRows
from raytrain.drafter.stage import FOLDER as RESPONSES
from raytrain.folders import publish
from raytrain.hardware import Placement
from raytrain.job import DRAFTER, HELDOUT
from raytrain.quantize.bound import check_clipped
from raytrain.quantize.drafter_work import DrafterOrder, QuantisedDrafter, quantise_drafter
from raytrain.quantize.estimate import drafter_estimate_gib, estimate_gib
from raytrain.quantize.rows import STAGE, calibration_file, token_rows
from raytrain.quantize.scheme import choose
from raytrain.quantize.work import Order, Quantised, in_process, quantise
from raytrain.settings import DrafterSettings, QuantizeSettings, Scheme

FOLDER = "quantized"
DRAFTER_FOLDER = "drafter_quantized"


@dataclass(frozen=True)
class _Plan:
    """How both models of a run are brought to 8 bits; `calibration` are token rows in the folder `work`."""

    run: Run
    settings: QuantizeSettings
    scheme: Scheme
    placement: Placement
    work: Path
    calibration: Path


def run(run: Run, settings: QuantizeSettings, *, start: str, drafter: DrafterSettings | None = None) -> None:
    """Quantise models/<start> into models/quantized and, where the settings of a drafter are given, models/drafter
    into models/drafter_quantized. Ray must be initialised.

    Raises:
        UserError: when rows are missing, memory is short, what was saved is not what was asked for, or too much of the
            held-out rows is clipped.
    """
    capability = gpu_capability()
    scheme, why = choose(settings, capability)
    say(STAGE, f"{scheme.upper()}: {why}")
    model, work = run.root / "models" / start, run.path("checkpoints", STAGE)
    file = calibration_file(run, settings)
    calibration = token_rows(file, "corpora", model, work / "calibration", settings.max_length, settings.rows)
    placement = Placement("gpu" if capability else "cpu", usable_cores(), "bf16")
    plan = _Plan(run, settings, scheme, placement, work, calibration)
    run.record(f"{STAGE}.scheme", scheme)
    _student(plan, model)
    if drafter is not None:
        _drafter(plan, run.root / "models" / DRAFTER, drafter)
    shutil.rmtree(work)


def gpu_capability() -> tuple[int, int] | None:
    """The CUDA compute capability of this node's first GPU; None without one."""
    import torch

    return torch.cuda.get_device_capability() if torch.cuda.is_available() else None


def _student(plan: _Plan, model: Path) -> None:
    began, run, settings = time.monotonic(), plan.run, plan.settings
    file = run.path("corpora", "sft", f"{HELDOUT}.parquet")
    heldout = token_rows(file, "corpora", model, plan.work / "heldout", settings.max_length, settings.rows)
    sets = TokenRows.load(plan.calibration), TokenRows.load(heldout)
    need = estimate_gib(model, plan.scheme, *sets, settings.tokens_per_batch)
    _require(need, model)
    out, rows = plan.work / "model", (plan.calibration, heldout)
    order = Order(model, out, plan.scheme, settings.kv_cache, *rows, settings.tokens_per_batch, plan.placement)
    found = in_process(partial(quantise, order), order.out, plan.placement)
    if found.clipped is not None:
        check_clipped(run, found.clipped, settings)
    _finish(plan, model, order.out, FOLDER, found, need, began)
    for name, loss in (("bf16", found.bf16), ("quantized", found.quantized)):
        run.record(f"{STAGE}.{name}_loss", loss, n=found.tokens, unit="nats/token")
    say(STAGE, f"held-out loss {found.bf16:.4f} -> {found.quantized:.4f} over {found.tokens:,} tokens")


def _drafter(plan: _Plan, model: Path, drafter: DrafterSettings) -> None:
    """The drafter, for the student in 8 bits, which is in its place by now."""
    began, run, settings = time.monotonic(), plan.run, plan.settings
    student, batch = run.root / "models" / FOLDER, settings.tokens_per_batch
    file = run.path(RESPONSES, f"{HELDOUT}.parquet")
    heldout = token_rows(file, RESPONSES, student, plan.work / "answers", drafter.max_length, settings.rows)
    out, rows = plan.work / "drafter", (plan.calibration, heldout)
    order = DrafterOrder(model, student, out, plan.scheme, *rows, batch, drafter, plan.placement)
    need = drafter_estimate_gib(order)
    _require(need, model)
    found = in_process(partial(quantise_drafter, order), order.out, plan.placement)
    if found.clipped is not None:
        check_clipped(run, found.clipped, settings, "drafter_")
    _finish(plan, model, order.out, DRAFTER_FOLDER, found, need, began, "drafter_")
    for name, (mgl, drafts) in (("bf16", found.bf16), ("quantized", found.quantized)):
        run.record(f"{STAGE}.drafter_{name}_mgl", mgl, n=drafts, unit="tokens")
    say(STAGE, f"held-out MGL of the drafter {found.bf16[0]:.3f} -> {found.quantized[0]:.3f}")


def _require(need: float, model: Path) -> None:
    say(STAGE, f"models/{model.name} takes about {need:.2f} GiB")
    require_memory(need, f"quantising models/{model.name}", "close other programs, or lower quantize.max_length")


def _finish(
    plan: _Plan,
    model: Path,
    out: Path,
    folder: str,
    found: Quantised | QuantisedDrafter,
    need: float,
    began: float,
    prefix: str = "",
) -> None:
    """Put what was made in its place under models/, and record its size and what it took."""
    manifest = {
        "stage": STAGE,
        "start": {"model": model.name, "digest": digest_path(model)},
        "scheme": plan.scheme,
        "settings": plan.settings.model_dump(mode="json"),
        "versions": package_versions(),
    }
    publish(out, plan.run.path("models", folder), manifest)
    mib = sum(file.stat().st_size for file in out.glob("*.safetensors")) / 2**20
    seconds = time.monotonic() - began
    figures = {"seconds": (seconds, "s"), "mib": (mib, "MiB"), "estimate_gib": (need, "GiB")}
    figures |= {"peak_gib": (found.peak_gib, "GiB"), "peak_mib": (found.peak_mib, "MiB")}
    for name, (value, unit) in figures.items():
        plan.run.record(f"{STAGE}.{prefix}{name}", value, unit=unit)
    say(STAGE, f"models/{folder}: {mib:.1f} MiB in {duration(seconds)}")
