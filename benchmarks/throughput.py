"""What `agentmill bench training` runs, prints and records: the figures `bench.training.*` of the run of bench_run().

Beside them, where a folder for results is given, one JSON file: machine, versions, command, and every figure.
"""

import json
import platform
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

from agentmill.log import duration, say
from agentmill.runs import Run, atomic_write_text, bench_run
from benchmarks.training import Measured, Side, Sizes, Subject, measure
from benchmarks.training_data import CONVERSATIONS, SHAPES, SHIPPED, make_corpora
from raytrain.settings import StageSettings

PREFIX = "bench.training"
NAMES: Mapping[Side, str] = {"ours": "", "packed": "packed_", "trl": "trl_", "trl_default": "trl_default_"}
RATIOS: Mapping[str, tuple[Side, Side]] = {
    "ratio_to_trl": ("ours", "trl"),
    "ratio_to_trl_default": ("ours", "trl_default"),
    "packing_speedup": ("packed", "trl_default"),
    "packing_speedup_by_length": ("packed", "trl"),
}


def bench_training(
    folder: Path,
    source: Run | None,
    stages: Mapping[str, StageSettings],
    sizes: Sizes,
    subject: Subject,
    results: Path | None,
    session: Callable[[], AbstractContextManager[None]],
) -> Run:
    """Measure, record and print. Without `source` a run of its own is made first; `session` initialises Ray for as long
    as is measured.

    Raises:
        BenchFailed: when the corpora cannot be made or are too small, or a side fails.
    """
    began = datetime.now(UTC)
    if source is None:
        prompts = "full" if subject.model not in (SHIPPED, "tiny") else "brief"
        source = make_corpora(folder, CONVERSATIONS, prompts, seed=7)
    with session():
        measured = measure(source, folder, stages, sizes, subject)
    run = bench_run()
    record(measured, run)
    if subject.expand is not None:
        made = Run.open(folder / "model").figures("train.expand")
        for name in ("seconds", "peak_mib", "parameters"):
            figure = made[f"train.expand.{name}"]
            run.record(f"{PREFIX}.expand.{name}", figure.value, unit=figure.unit)
    for line in table(measured):
        say("bench", line)
    say("bench", f"the whole bench took {duration((datetime.now(UTC) - began).total_seconds())}")
    if results is not None:
        say("bench", f"wrote {write_results(run, subject.model, results)}")
    return run


def record(measured: Sequence[Measured], run: Run) -> None:
    """Record the figures of a measurement in place of older ones of the same stages."""
    for one in measured:
        prefix = f"{PREFIX}.{one.stage}"
        run.forget(prefix)
        run.record(f"{prefix}.rows", one.rows, unit="rows")
        for side, turns in one.turns.items():
            name, rates = f"{prefix}.{NAMES[side]}", one.rates(side)
            run.record(
                f"{name}tokens_per_s", statistics.median(rates), n=len(rates), interval=(min(rates), max(rates)),
                unit="tokens/s",
            )  # fmt: skip
            around = [turn.around_s for turn in turns]
            run.record(f"{name}around_s", round(statistics.median(around), 1), n=len(turns), unit="s")
            run.record(f"{name}peak_gib", max(turn.peak_gib for turn in turns), n=len(turns), unit="GiB a process")
            share = one.mfu(side)
            if share is not None:
                run.record(f"{name}mfu", share, n=len(turns))
        for figure, (side, other) in RATIOS.items():
            if side in one.turns and other in one.turns:
                value, interval = one.ratio(side, other)
                run.record(f"{prefix}.{figure}", value, n=len(one.turns[side]), interval=interval)


def table(measured: Sequence[Measured]) -> list[str]:
    """Fixed columns: stage and side, tokens/s (median, lowest and highest of the turns), tokens and seconds a step,
    seconds around training, peak memory of a process; below them the ratios."""
    head = ("tokens/s", "lowest", "highest", "tokens", "step s", "around s", "GiB")
    lines = [f"{'stage':<5} {'side':<12}" + "".join(f"{name:>10}" for name in head)]
    for one in measured:
        for side, turns in one.turns.items():
            rates = one.rates(side)
            step = statistics.median(turn.step_s(one.warm) for turn in turns)
            tokens = sum(turns[0].tokens[one.warm :]) / (len(turns[0].ends) - one.warm)
            around, peak = statistics.median(turn.around_s for turn in turns), max(turn.peak_gib for turn in turns)
            lines.append(
                f"{one.stage:<5} {side:<12}{statistics.median(rates):>10,.0f}{min(rates):>10,.0f}{max(rates):>10,.0f}"
                f"{tokens:>10,.0f}{step:>10.3f}{around:>10.1f}{peak:>10.2f}"
            )
    for one in measured:
        for side, other in RATIOS.values():
            if side in one.turns and other in one.turns:
                value, (low, high) = one.ratio(side, other)
                lines.append(f"{one.stage:<5} {side} by {other}: {value:.2f} [{low:.2f}, {high:.2f}]")
    return lines


def write_results(run: Run, model: str, folder: Path) -> Path:
    """Write the figures with machine, versions and command into `folder`; returns the file."""
    hardware = run.manifest["hardware"]
    gpus = hardware.get("gpus") or []
    machine = re.sub(r"[^a-z0-9]+", "-", str(gpus[0] if gpus else f"{platform.machine()} cpu").lower()).strip("-")
    file = folder / f"{datetime.now(UTC):%Y-%m-%d}-{machine}-training.json"
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "command": run.command,
        "written": run.manifest["written"],
        "commit": run.manifest["commit"],
        "model": {"name": model, **SHAPES.get(model, {})},
        "machine": hardware,
        "versions": run.manifest["versions"],
        "figures": {name: figure.model_dump(mode="json") for name, figure in run.figures(PREFIX).items()},
    }
    atomic_write_text(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return file
