"""The stage quantize: the newest model in 8 bits, models/quantized.

The scheme follows from the hardware unless it is set. Calibration rows are a set of corpora/calibration, by preference
the mixed one; held-out rows are those of corpora/sft. Records quantize.scheme, quantize.{seconds,mib}, of memory
quantize.{estimate_gib,peak_gib,peak_mib} (the process as it was computed and at its peak, and by how much it grew), and
as losses of held-out completions quantize.{bf16,quantized}_loss. With FP8 also quantize.clip_rate: above a bound the
stage fails, and what it made does not come under models/.
"""

import json
import shutil
import time
from pathlib import Path

from agentmill.config import UserError
from agentmill.lineage import package_versions, require_memory, usable_cores
from agentmill.log import duration, say
from agentmill.runs import Run, atomic_write_text, digest_path
from raytrain.batches import SCORED_AT_ONCE, in_order
from raytrain.data import TokenRows, tokenise
from raytrain.folders import publish
from raytrain.hardware import Placement
from raytrain.preflight import largest_of
from raytrain.quantize.clip import Clipped
from raytrain.quantize.scheme import choose
from raytrain.quantize.work import Order, Quantised, quantise
from raytrain.settings import QuantizeSettings, Scheme
from raytrain.shape import read_shape

PROCESS_GIB = 0.7  # Python, torch, transformers and llm-compressor; no trainer and no DeepSpeed
STAGE = "quantize"
FOLDER = "quantized"


def run(run: Run, settings: QuantizeSettings, *, start: str) -> None:
    """Quantise models/<start> into models/quantized. Ray must be initialised.

    Raises:
        UserError: when a corpus is missing, memory is short, what was saved is not what was asked for, or too much of
            the held-out rows is clipped.
    """
    import ray

    began = time.monotonic()
    capability = gpu_capability()
    scheme, why = choose(settings, capability)
    say(STAGE, f"{scheme.upper()}: {why}")
    model = run.root / "models" / start
    work = run.path("checkpoints", STAGE)
    calibration = _rows(run, work, model, "calibration", f"calibration/{_calibration(run, settings)}", settings)
    heldout = _rows(run, work, model, "heldout", "sft/heldout", settings)
    need = estimate_gib(model, scheme, TokenRows.load(calibration), TokenRows.load(heldout), settings.tokens_per_batch)
    say(STAGE, f"takes about {need:.2f} GiB")
    require_memory(need, f"quantising models/{start}", "close other programs, or lower quantize.max_length")
    placement = Placement("gpu" if capability else "cpu", usable_cores(), "bf16")
    out = work / "model"
    order = Order(model, out, scheme, settings.kv_cache, calibration, heldout, settings.tokens_per_batch, placement)
    task = ray.remote(num_cpus=1, num_gpus=1 if capability else 0, max_retries=0)(_in_empty_folder)
    found: Quantised = ray.get(task.remote(order))
    if found.clipped is not None:
        _check_clipped(run, found.clipped, settings)
    publish(out, run.path("models", FOLDER), _manifest(model, settings, scheme))
    mib = sum(file.stat().st_size for file in out.glob("*.safetensors")) / 2**20
    shutil.rmtree(work)
    run.record(f"{STAGE}.scheme", scheme)
    run.record(f"{STAGE}.seconds", time.monotonic() - began, unit="s")
    run.record(f"{STAGE}.mib", mib, unit="MiB")
    run.record(f"{STAGE}.peak_mib", found.peak_mib, unit="MiB")
    run.record(f"{STAGE}.peak_gib", found.peak_gib, unit="GiB")
    run.record(f"{STAGE}.estimate_gib", need, unit="GiB")
    for name, loss in (("bf16", found.bf16), ("quantized", found.quantized)):
        run.record(f"{STAGE}.{name}_loss", loss, n=found.tokens, unit="nats/token")
    say(
        STAGE,
        f"held-out loss {found.bf16:.4f} -> {found.quantized:.4f} over {found.tokens:,} tokens; "
        f"{mib:.1f} MiB in {duration(time.monotonic() - began)}",
    )


def gpu_capability() -> tuple[int, int] | None:
    """The CUDA compute capability of this node's first GPU; None without one."""
    import torch

    return torch.cuda.get_device_capability() if torch.cuda.is_available() else None


def estimate_gib(
    model: Path, scheme: Scheme, calibration: TokenRows, heldout: TokenRows, tokens_per_batch: int
) -> float:
    """What quantising takes, the process included: the weights in bf16 and in 8 bits, which are there together while
    they are saved and while they are read again, and the larger of a held-out batch's activations and, for FP8, those
    of the longest row, calibrated on or held out: clipped values are counted row by row.

    For each token a layer holds some ten vectors of its width at a time, and attention its row of weights for every
    head in fp32. The head gives logits in bf16 and their copy in fp32, for every token of such a row; for the held-out
    positions that are looked at at once also their log-probabilities.
    """
    shape = read_shape(model)
    each = 4 * (10 * shape.hidden + 3 * shape.inner)
    longest = int(max(calibration.lengths.max(), heldout.lengths.max())) if scheme == "fp8" else 0
    calibrated = longest * (each + 4 * shape.heads * longest + 6 * shape.vocabulary)
    batch = largest_of(heldout, in_order(heldout.lengths, tokens_per_batch), packed=False)
    looked_at = min(batch.counted, SCORED_AT_ONCE) * 10 * shape.vocabulary
    scored = batch.tokens * (each + 4 * shape.heads * batch.longest) + looked_at
    return (3 * shape.parameters + max(calibrated, scored)) / 2**30 + PROCESS_GIB


def _check_clipped(run: Run, clipped: Clipped, settings: QuantizeSettings) -> None:
    """Record the clip rate of the held-out rows, by layer in a file too, and hold it against the bound.

    Raises:
        UserError: when it is above.
    """
    file = run.path(STAGE, "clipped.json")
    rates = {"by_layer": clipped.by_layer, "by_agent": clipped.by_group}
    told = {part: {name: some / every for name, (some, every) in counts.items()} for part, counts in rates.items()}
    atomic_write_text(file, json.dumps(told, indent=2) + "\n")
    run.record(f"{STAGE}.clip_rate", clipped.rate, n=clipped.values)
    bound = settings.max_clip_rate
    if bound is not None and clipped.rate > bound:
        raise UserError(
            f"quantize.clip_rate={clipped.rate:.3g} is above quantize.max_clip_rate={bound:g}: so much of what held-out"
            f" calls put into the linear layers lies outside the ranges of the calibration rows (by layer: {file}); "
            "calibrate on more or longer rows (quantize.rows, max_length, calibration), or raise the bound (null: none)"
        )
    say(STAGE, f"clip rate {clipped.rate:.2e} over {clipped.values:,} held-out values")


def _in_empty_folder(order: Order) -> Quantised:
    shutil.rmtree(order.out, ignore_errors=True)
    order.out.mkdir(parents=True)
    return quantise(order)


def _calibration(run: Run, settings: QuantizeSettings) -> str:
    """The calibration set that is asked for, or the in-domain one where there are no public rows to mix in."""
    folder = run.path("corpora", "calibration")
    if (folder / f"{settings.calibration}.parquet").is_file():
        return settings.calibration
    if settings.calibration == "mixed" and (folder / "in_domain.parquet").is_file():
        say(STAGE, "calibrating on in-domain rows alone: this run has no real dialogues to mix in (data.public)")
        return "in_domain"
    raise UserError(
        f"quantize.calibration={settings.calibration}: there is no {folder / settings.calibration}.parquet; give real "
        f"dialogues with --set data.public=FILE, or set quantize.calibration=in_domain"
    )


def _rows(run: Run, work: Path, model: Path, name: str, corpus: str, settings: QuantizeSettings) -> Path:
    """Token rows of a corpus file in the work folder: at most `settings.rows` of them, the first."""
    from transformers import AutoTokenizer

    file = run.path("corpora", f"{corpus}.parquet")
    if not file.is_file():
        raise UserError(f"{file} is missing; run the stage corpora first (--from corpora)")
    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    rows, report = tokenise(STAGE, file, tokenizer, settings.max_length, "drop")
    say(STAGE, f"{name}: {report.text()}")
    rows = rows.take(list(range(min(len(rows), settings.rows))))
    shutil.rmtree(work / name, ignore_errors=True)
    rows.save(work / name)
    return work / name


def _manifest(model: Path, settings: QuantizeSettings, scheme: Scheme) -> dict[str, object]:
    return {
        "stage": STAGE,
        "start": {"model": model.name, "digest": digest_path(model)},
        "scheme": scheme,
        "settings": settings.model_dump(mode="json"),
        "versions": package_versions(),
    }
