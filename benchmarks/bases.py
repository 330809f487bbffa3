"""`agentmill bench base`: what a short fine-tuning on a run's corpora makes of one base or another.

Every base is fine-tuned by the real stage sft with the same settings, seed, rows and number of steps, each in a run
directory of its own. Figures, by base and agent: `bench.base.<base>.<agent>.{before,after}`, the loss of held-out rows
before and after, and `bench.base.<base>.tokens_per_s`. Ray must be initialised.
"""

import shutil
from pathlib import Path

from agentmill.config import UserError
from agentmill.log import say
from agentmill.runs import Run, bench_run, command_line
from raytrain import sft
from raytrain.settings import SftSettings


def bench_bases(corpora: Run, bases: dict[str, Path], settings: SftSettings, folder: Path, seed: int) -> Run:
    """Fine-tune each of `bases` (a name and a model folder) on corpora/sft of the run and record both losses.

    Raises:
        UserError: when the run has no such corpora, or training failed.
    """
    source = corpora.root / "corpora" / sft.NAME
    if not source.is_dir():
        raise UserError(f"{corpora.root} has no corpora/{sft.NAME}; run `agentmill run CONFIG --until corpora` first")
    figures = bench_run()
    for name, base in bases.items():
        run = _run_of(folder / name, source, base)
        sft.run(run, settings, seed=seed)
        record_base(figures, name, run)
    return figures


def _run_of(root: Path, source: Path, base: Path) -> Run:
    """A new run with these corpora and this base."""
    shutil.rmtree(root, ignore_errors=True)
    run = Run.create(root, {}, command_line())
    shutil.copytree(source, run.path("corpora", sft.NAME))
    shutil.copytree(base, run.path("models", "base"))
    return run


def record_base(figures: Run, name: str, run: Run) -> None:
    """Record in `figures` what the stage sft measured of the base `name` in `run`."""
    done = run.figures("train.sft")
    rate = done["train.sft.tokens_per_s"]
    figures.record(f"bench.base.{name}.tokens_per_s", float(rate.value), n=rate.n, unit=rate.unit)
    losses: dict[str, dict[str, float]] = {}
    for key, figure in done.items():
        if not key.endswith("heldout_loss"):
            continue
        when = "before" if key.startswith("train.sft.start.") else "after"
        group = key.removeprefix("train.sft.").removeprefix("start.").removesuffix("heldout_loss").rstrip("._") or "all"
        losses.setdefault(group, {})[when] = float(figure.value)
        figures.record(f"bench.base.{name}.{group}.{when}", float(figure.value), n=figure.n, unit=figure.unit)
    for group, loss in losses.items():
        say("bench", f"{name} {group}: {loss['before']:.4f} before, {loss['after']:.4f} after")
