"""`agentmill clip-rate`: what static calibration would clip of a run's activations, by how long its sequences are.

In goes a run with a finished model; out come a table, the figures quantize.clip_rate.<set>@<length> and
quantize/clip.html with the chart of the paper's figure 4 (both axes logarithmic). By layer, agent and position the
rates of the longest sequences stand in quantize/clip.json. The model is looked at with its own weights, not quantised
ones: what is asked is which values a calibrated range would cut off.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2

from agentmill.config import ConfigError, UserError
from agentmill.log import progress
from agentmill.runs import Run, atomic_write_text, command_line
from cluster import chain
from cluster.charts import Series, curve
from cluster.config import config_of
from cluster.runner import lock

PUBLIC = "public"
SETS = ("public", "in_domain", "mixed")
STYLES = dict(zip(SETS, ("line", "line second", "line third"), strict=True))
EDGES = (0, 32, 64, 128, 256, 512, 1024)
PAPER = {"public": 6.1, "in_domain": 1.4}  # times the mixed set's rate at 2,048 tokens


@dataclass(frozen=True)
class Measured:
    """Rates by (set, length), how many values each is of, the rates on agents' calls alone, and what was clipped where
    with the longest sequences."""

    rates: dict[tuple[str, int], float]
    values: int
    on_calls: dict[tuple[str, int], float]
    details: dict[str, Any]

    def of(self, name: str) -> dict[int, float]:
        """The rates of one set by length."""
        return {length: rate for (other, length), rate in self.rates.items() if other == name}


def clip_run(run: Run, model: str | None, lengths: str, sequences: int, rows: int) -> list[str]:
    """Measure, record, write the chart; returns the lines to print.

    Raises:
        ConfigError: when a length is no number of at least 8.
        UserError: when the run has no model or no calibration set yet.
    """
    chosen = lengths_of(lengths)
    with lock(run):
        measured = _measure(run, chain.model_of(run, config_of(run), model), chosen, sequences, rows)
    _record(run, measured)
    lines = [*table(measured), "on agents' calls alone:", *table(replace(measured, rates=measured.on_calls))]
    page = run.path("quantize", "clip.html")
    atomic_write_text(page, _page(run, measured, lines))
    return [*lines, f"the chart is in {page}"]


def lengths_of(text: str) -> list[int]:
    """The lengths, rising.

    Raises:
        ConfigError: when one is no number of at least 8.
    """
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise ConfigError(f"--lengths {text} is no list of numbers; write for example --lengths 32,512,2048") from None
    if found[0] < 8:
        raise ConfigError(f"--lengths {text}: a sequence of {found[0]} tokens says nothing; give 8 or more")
    return found


def _measure(run: Run, model: str, lengths: Sequence[int], sequences: int, count: int) -> Measured:
    """The rate of every set and length on held-out rows, and on the calls among them alone."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from raytrain.data import tokenise
    from raytrain.quantize.clip import calibrate, count_clipped, sequences_of

    folder = run.path("models", model)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    limit = int(json.loads((folder / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"])
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, local_files_only=True).eval()
    loaded.to("cuda" if torch.cuda.is_available() else "cpu")
    if lengths[-1] > limit:
        raise ConfigError(f"--lengths: models/{model} reads {limit} tokens at most and {lengths[-1]} are asked for")

    def read(file: Path) -> Any:
        return tokenise("clip-rate", file, tokenizer, limit, "drop")[0]

    ranges: dict[str, dict[str, float]] = {}
    sets = _sets(run)
    with progress("clip-rate", len(sets) * len(lengths) + 1, "passes") as bar:
        test = _test_rows(run, read, count)
        for name, file in sets.items():
            calibration = read(file)
            for length in lengths:
                ranges[f"{name}@{length}"] = calibrate(loaded, sequences_of(calibration, length, sequences))
                bar.advance()
        found = count_clipped(loaded, test, ranges, EDGES)
        bar.advance()
    rates = {(name.split("@")[0], int(name.split("@")[1])): one.rate for name, one in found.items()}
    longest = {name: found[f"{name}@{lengths[-1]}"] for name in sets}
    parts = ("by_layer", "by_group", "by_position")
    details = {
        name: {
            part: {str(key): clipped / total for key, (clipped, total) in getattr(one, part).items()} for part in parts
        }
        for name, one in longest.items()
    }
    on_calls = {(name.split("@")[0], int(name.split("@")[1])): one.rate_of(PUBLIC) for name, one in found.items()}
    return Measured(rates, next(iter(found.values())).values, on_calls, details)


def _test_rows(run: Run, read: Callable[[Path], Any], count: int) -> Any:
    """The first `count` held-out calls, and beside them held-out real dialogues in the share that the mixture of the
    calibration sets has, where the run has some: what customers write is nearer to them than to the simulation."""
    from raytrain.data import join

    calls = read(run.path("corpora", "sft", "heldout.parquet"))
    picked = [(*calls.row(index), calls.groups[index]) for index in range(min(len(calls), count))]
    public = run.path("corpora", "sft", "public_heldout.parquet")
    if public.is_file():
        share = config_of(run).corpora.mixture.calibration.public
        dialogues = read(public)
        wanted = min(len(dialogues), round(len(picked) * share / (1 - share)))
        picked += [(*dialogues.row(index), dialogues.groups[index]) for index in range(wanted)]
    return join(picked)


def _sets(run: Run) -> dict[str, Path]:
    """The calibration sets that the run has.

    Raises:
        UserError: when it has none.
    """
    folder = run.path("corpora", "calibration")
    there = {name: folder / f"{name}.parquet" for name in SETS if (folder / f"{name}.parquet").is_file()}
    if not there:
        raise UserError(f"{folder} has no calibration set; run the stage corpora first (--from corpora)")
    return there


def table(measured: Measured) -> list[str]:
    """One line a length, fixed columns; where all three sets are there, what the others clip for each of mixed's."""
    names = [name for name in SETS if measured.of(name)]
    ratios = [name for name in PAPER if name in names and "mixed" in names]
    head = [f"{name:>12}" for name in names] + [f"{name + '/mixed':>16}" for name in ratios]
    lines = [f"{'length':>6}" + "".join(head)]
    for length in sorted(measured.of(names[0])):
        cells = [f"{measured.rates[name, length]:>12.3e}" for name in names]
        mixed = measured.rates.get(("mixed", length), 0.0)
        cells += [f"{measured.rates[name, length] / mixed:>16.2f}" if mixed else f"{'':>16}" for name in ratios]
        lines.append(f"{length:>6}" + "".join(cells))
    if ratios:
        told = ", ".join(f"{name} {PAPER[name]} times" for name in ratios)
        lines.append(f"the paper, at 2,048 tokens: {told} the rate of mixed")
    return lines


def _record(run: Run, measured: Measured) -> None:
    command = command_line()
    for (name, length), rate in measured.rates.items():
        run.record(f"quantize.clip_rate.{name}@{length}", rate, n=measured.values, command=command)
        run.record(f"quantize.clip_rate_of_calls.{name}@{length}", measured.on_calls[name, length], command=command)
    text = json.dumps(measured.details, indent=2)
    atomic_write_text(run.path("quantize", "clip.json"), text + "\n")


def _page(run: Run, measured: Measured, lines: Sequence[str]) -> str:
    series = [
        Series(name, [(math.log2(n), math.log10(rate)) for n, rate in measured.of(name).items() if rate], STYLES[name])
        for name in SETS
        if measured.of(name)
    ]
    chart = curve(series, x_label="log2 of the sequences' length", y_label="log10 of the clip rate")
    pages = jinja2.Environment(
        loader=jinja2.PackageLoader("cluster", "templates"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = pages.get_template("clip.html.j2")
    return page.render(run=run, chart=chart, lines="\n".join(lines), values=f"{measured.values:,}")
