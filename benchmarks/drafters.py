"""`agentmill bench drafter`: what a drafter's training data are worth, beside each other in one run.

From the responses of one run, three drafters for the same student: on prompts of real dialogues alone (external), on
those of the simulated conversations alone (synthetic), and on both (combined). Each is trained for the same number of
epochs over its own rows, so that combined sees every call as often as synthetic does and the real dialogues besides, in
more steps: the paper's comparison of MGL by data source. All three are measured on the same held-out answers, with
bootstrap intervals over answers that are drawn alike for all of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow.parquet as pq

from agentmill.config import UserError
from agentmill.log import say
from agentmill.runs import Figure, Run, bench_run
from raytrain.data import Int64, TokenRows
from raytrain.drafter import stage
from raytrain.hardware import Placement, place
from raytrain.job import DRAFTER, HELDOUT, PUBLIC_HELDOUT
from raytrain.settings import DrafterSettings, Source
from raytrain.site import Site
from simulation.metrics import Measure

PAPER = {"synthetic": 3.53, "combined": 3.80}  # MGL of greedy drafting with three tokens, arXiv 2606.18502
PAIRS = (("combined", "synthetic"), ("synthetic", "external"))
TAKEN = ("steps", "tokens", "seconds")
_RESAMPLES = 2000

Float64 = np.ndarray[Any, np.dtype[np.float64]]


class NoResponses(UserError):
    """A run whose student has not answered yet, or has no prompts of real dialogues. The message has the remedy."""


@dataclass(frozen=True)
class Extent:
    """How long each drafter is trained, in passes over its own rows, and the seed of all three."""

    epochs: int = 3
    seed: int = 1


@dataclass(frozen=True)
class Drafted:
    """One drafter: its figures, and of each held-out answer the tokens and the passes of the student that it took,
    [answers, 2], for the calls and for the real dialogues."""

    figures: Mapping[str, Figure]
    calls: Int64
    dialogues: Int64


def bench_drafters(
    folder: Path, source: Run, student: str, settings: DrafterSettings, extent: Extent, site: Site
) -> Run:
    """Train the drafters in `folder` for models/<student> of `source`, and record drafter.<source>.{mgl,steps,tokens}
    and the like in the run named by bench_run(), and what lies between them in drafter.difference. Ray must be
    initialised.

    Raises:
        NoResponses: when the run lacks what is trained on.
        UserError: when a training fails.
    """
    public, all_rows = _counted(source)
    run, made = bench_run(), dict[str, Drafted]()
    for index, name in enumerate(get_args(Source)):
        one = settings.model_copy(
            update={
                "source": name,
                "epochs": extent.epochs,
                "max_steps": None,
                "patience": None,
                "contract": settings.contract and index == 0,
            }
        )
        made[name] = _trained(folder / name, source, student, one, extent.seed, site)
    for drafted in made.values():
        for name, figure in drafted.figures.items():
            run.record(name, figure.value, n=figure.n, unit=figure.unit)
    found, between = estimates(made, public / all_rows)
    for name, estimate in {**found, **between}.items():
        run.record(name, estimate.value, n=estimate.n, unit="tokens", interval=estimate.interval)
    for line in table({name: run.figures(f"{DRAFTER}.{name}") for name in made}):
        say("bench", line)
    for name, estimate in between.items():
        low, high = estimate.interval
        say("bench", f"{name} {estimate.value:+.3f} [{low:+.3f}, {high:+.3f}]")
    return run


def _trained(folder: Path, source: Run, student: str, settings: DrafterSettings, seed: int, site: Site) -> Drafted:
    """One training in a run of its own that shares the source's responses and student."""
    import ray

    run = Run.create(folder, {}, "agentmill bench drafter")
    run.path("models").mkdir(exist_ok=True)
    for shared in (f"models/{student}", "responses"):
        (run.root / shared).symlink_to((source.root / shared).resolve(), target_is_directory=True)
    stage.run(run, settings, start=student, seed=seed, site=site)
    took = run.figures(f"train.{DRAFTER}")
    figures = run.figures(DRAFTER)
    figures |= {f"{DRAFTER}.{settings.source}.{name}": took[f"train.{DRAFTER}.{name}"] for name in TAKEN}
    rows = next(run.path("checkpoints", DRAFTER).iterdir()) / "rows"
    placement = place(settings.worker, ray.cluster_resources(), site.hardware)
    task = ray.remote(num_cpus=1, num_gpus=1 if placement.device == "gpu" else 0, max_retries=0)(_counts)
    asked = [run.path("models", DRAFTER), [rows / HELDOUT, rows / PUBLIC_HELDOUT], settings, placement]
    calls, dialogues = ray.get(task.remote(*asked))
    return Drafted(figures, calls, dialogues)


def _counts(drafter: Path, sets: list[Path], settings: DrafterSettings, placement: Placement) -> list[Int64]:
    """In a task: tokens and passes of every answer of these sets."""
    from raytrain.drafter.acceptance import tokens_and_passes
    from raytrain.drafter.model import load_drafter_for_scoring
    from raytrain.worker import prepare_process

    prepare_process(placement)
    model = load_drafter_for_scoring(drafter, placement)
    return [tokens_and_passes(model, TokenRows.load(rows), settings, placement) for rows in sets]


def _counted(source: Run) -> tuple[int, int]:
    """How many training rows are of real dialogues, and how many there are."""
    file = source.path("responses", "train.parquet")
    if not file.is_file():
        raise NoResponses(
            f"{source.root} has no responses: run it with --set drafter={{}} --until responses, and with "
            f"--set data.public=FILE for prompts of real dialogues"
        )
    agents = pq.read_table(file, columns=["agent"])["agent"].to_pylist()
    if stage.PUBLIC not in agents or not source.path("responses", f"{PUBLIC_HELDOUT}.parquet").is_file():
        raise NoResponses(
            f"{file} has no prompts of real dialogues; run it with --set data.public=FILE --until responses"
        )
    return agents.count(stage.PUBLIC), len(agents)


def mgls(calls: Int64, dialogues: Int64, share: float) -> dict[str, Float64]:
    """MGL of resampled answers by what they are of, each [samples]: of the calls, of the real dialogues (`public`) and
    of both, where so large a `share` of the answers is of real dialogues (`mixed`).

    `calls` and `dialogues` are [samples, answers, 2], tokens and passes.
    """
    sums = calls.mean(axis=1), dialogues.mean(axis=1)
    both = (1 - share) * sums[0] + share * sums[1]
    return {name: one[:, 0] / one[:, 1] for name, one in (("calls", sums[0]), ("public", sums[1]), ("mixed", both))}


def _resampled(made: Mapping[str, Drafted], share: float) -> dict[str, dict[str, Float64]]:
    """By drafter what `mgls` gives: the answers as they are first, then resampled, alike for all drafters."""
    picks = []
    first = next(iter(made.values()))
    rng = np.random.default_rng(0)
    for count in (len(first.calls), len(first.dialogues)):
        drawn = rng.integers(0, count, size=(_RESAMPLES, count))
        picks.append(np.concatenate([np.arange(count)[None], drawn]))
    return {name: mgls(one.calls[picks[0]], one.dialogues[picks[1]], share) for name, one in made.items()}


def estimates(made: Mapping[str, Drafted], share: float) -> tuple[dict[str, Measure], dict[str, Measure]]:
    """drafter.<source>.mgl (of the calls) and drafter.<source>.{public,mixed}.mgl; and how much larger those of one
    source are than those of another over the same answers, drafter.difference.<one>_<other>.{calls,public,mixed}."""
    sampled, first = _resampled(made, share), next(iter(made.values()))
    answers = {"calls": len(first.calls), "public": len(first.dialogues)}
    answers["mixed"] = sum(answers.values())
    found, between = dict[str, Measure](), dict[str, Measure]()
    for what, n in answers.items():
        part = "" if what == "calls" else f"{what}."
        for name in made:
            found[f"{DRAFTER}.{name}.{part}mgl"] = _estimate(sampled[name][what], n)
        for one, other in PAIRS:
            difference = sampled[one][what] - sampled[other][what]
            between[f"{DRAFTER}.difference.{one}_{other}.{what}"] = _estimate(difference, n)
    return found, between


def _estimate(values: Float64, n: int) -> Measure:
    """The first of `values`, with the interval that the others give."""
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return Measure(float(values[0]), n, (float(low), float(high)))


def table(measured: Mapping[str, Mapping[str, Figure]]) -> list[str]:
    """MGL by data source and agent, the steps that it took, and the paper's beside them."""
    parts = sorted({name.split(".")[2] for figures in measured.values() for name in figures if name.count(".") == 3})
    lines = [f"{'data':<10} {'steps':>6} {'calls':>7} " + "".join(f"{part:>14}" for part in parts) + f"{'paper':>8}"]
    for source, figures in measured.items():
        cells = "".join(f"{_mgl(figures, f'{DRAFTER}.{source}.{part}.mgl'):>14}" for part in parts)
        paper = f"{PAPER[source]:.2f}" if source in PAPER else ""
        steps = figures.get(f"{DRAFTER}.{source}.steps")
        said = str(steps.value) if steps else ""
        lines.append(f"{source:<10} {said:>6} {_mgl(figures, f'{DRAFTER}.{source}.mgl'):>7} {cells}{paper:>8}")
    return lines


def _mgl(figures: Mapping[str, Figure], name: str) -> str:
    return f"{float(figures[name].value):.3f}" if name in figures else ""
