"""`agentmill bench adaptation`: LoRA against training all weights, when prompts and tools are not those of training.

The paper says that LoRA was chosen because it adapts better to changed system prompts and new tools, and gives no
figures. Here both start from the same model and train on the same rows for the same steps through the stage sft, and
answer the same held-out calls under four conditions (`benchmarks.adaptation_data`). What else a training costs is the
general held-out loss that every stage measures.

Learning rates: each kind has as many to choose from (RATES), trains `search_steps` steps with each and takes the one of
the lowest held-out loss on the training distribution; the conditions have no say in it. An answer is right when all of
the agent's measures hold (`simulation.agent_tests`). Rates have Wilson intervals; the paired difference (LoRA less all
weights, same calls) a bootstrap interval over conversations, whose calls are not independent.

In `folder` every training has a run directory of its own, so that a bench that was stopped goes on with those that are
done.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agentmill.domains.base import Domain, load_domain
from agentmill.log import say
from agentmill.runs import Run, atomic_write_text, bench_run, wilson
from benchmarks.adaptation_data import AGENTS, CONDITIONS, DOMAIN, Tests, draw_all, training_rows
from benchmarks.answers import answers
from raytrain.settings import LoraSettings, SftSettings
from raytrain.site import DEFAULT_SITE, Site
from simulation.agent_tests import measure

PREFIX = "bench.adaptation"
START = "start"
KINDS = ("lora", "full")
RATES: Mapping[str, Sequence[float]] = {"lora": (1e-3, 2e-3, 4e-3), "full": (3e-4, 1e-3, 3e-3)}
SEED = 11
_RESAMPLES = 2000

Marks = dict[str, list[bool]]  # condition -> of each of its tests, whether the answer was right


@dataclass(frozen=True)
class Extent:
    """How much is trained and asked: conversations to train on and to ask about, tests an agent and condition, steps of
    a training and of a search; without a search the middle learning rate of each kind is taken."""

    conversations: int = 700
    heldout: int = 150
    per_agent: int = 120
    steps: int = 400
    search_steps: int = 40
    mix: str = "core"


QUICK = Extent(conversations=24, heldout=12, per_agent=8, steps=12, search_steps=0)


@dataclass(frozen=True)
class Trained:
    """One finished training: its model, and what the stage measured."""

    model: Path
    rate: float
    figures: Mapping[str, float]


def bench_adaptation(folder: Path, base: Path, settings: SftSettings, extent: Extent, site: Site = DEFAULT_SITE) -> Run:
    """Train both kinds from the model in `base`, ask all models, record and print. Ray must be initialised.

    `settings` are those of both trainings, but for adapter, learning rate and steps.

    Raises:
        ConfigError: when the domain has no expert.
        UserError: when a training fails.
    """
    domain = load_domain(DOMAIN)
    corpus = folder / "corpus"
    if not (corpus / "train.parquet").is_file():
        training_rows(domain, extent.conversations, extent.mix, SEED, corpus)
    tests = draw_all(domain, extent.heldout, extent.per_agent, extent.mix, SEED)
    trained = {
        kind: _best(_Trainings(folder, corpus, base, _of_kind(settings, kind), kind, site), extent) for kind in KINDS
    }
    models = {START: base, **{kind: one.model for kind, one in trained.items()}}
    marks = {name: _marks(folder, domain, model, tests, name) for name, model in models.items()}
    run = bench_run()
    record(run, trained, tests, marks)
    for line in table(trained, tests, marks):
        say("bench", line)
    return run


def _of_kind(settings: SftSettings, kind: str) -> SftSettings:
    lora = (settings.lora or LoraSettings()) if kind == "lora" else None
    return settings.model_copy(update={"lora": lora, "merge": None})


@dataclass(frozen=True)
class _Trainings:
    """The trainings of one kind: from `base` on `corpus`, each in a run directory of its own in `folder`."""

    folder: Path
    corpus: Path
    base: Path
    settings: SftSettings
    kind: str
    site: Site

    def train(self, rate: float, steps: int) -> Trained:
        """Train once, or take the result that is there."""
        from raytrain import sft

        run = Run.create(self.folder / "runs" / f"{self.kind}-{rate:g}-{steps}", {}, "bench adaptation")
        for source, place in ((self.base, run.path("models", "base")), (self.corpus, run.path("corpora", "sft"))):
            if not place.exists():
                place.symlink_to(source.absolute(), target_is_directory=True)
        settings = self.settings.model_copy(update={"learning_rate": rate, "max_steps": steps})
        sft.run(run, settings, start="base", seed=SEED, site=self.site)
        figures = {name.removeprefix("train.sft."): figure for name, figure in run.figures("train.sft").items()}
        return Trained(run.root / "models" / "sft", rate, {name: float(f.value) for name, f in figures.items()})


def _best(trainings: _Trainings, extent: Extent) -> Trained:
    """The training of one kind at the learning rate whose search ended with the lowest held-out loss."""
    kind, rates = trainings.kind, RATES[trainings.kind]
    if not extent.search_steps:
        return trainings.train(rates[len(rates) // 2], extent.steps)
    losses = {rate: trainings.train(rate, extent.search_steps).figures["heldout_loss"] for rate in rates}
    rate = min(losses, key=lambda each: losses[each])
    told = ", ".join(f"{each:g}: {loss:.3f}" for each, loss in losses.items())
    say("bench", f"{kind}: held-out loss after {extent.search_steps} steps by learning rate: {told}; {rate:g} it is")
    return trainings.train(rate, extent.steps)


def _marks(folder: Path, domain: Domain, model: Path, tests: Tests, name: str) -> Marks:
    """Whether each answer of a model is right; the answers stay in the folder, for a person to read."""
    flat = [test for condition in CONDITIONS for test in tests[condition]]
    given = answers(model, flat, name)
    _, verdicts = asyncio.run(measure(given, domain))
    right = [all(verdict.values()) for verdict in verdicts]
    rows = [
        {"agent": a.test.agent, "frame": a.frame, "reference": a.test.reference, "output": a.output, "right": ok}
        for a, ok in zip(given, right, strict=True)
    ]
    atomic_write_text(folder / "answers" / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    marks, done = Marks(), 0
    for condition in CONDITIONS:
        marks[condition] = right[done : done + len(tests[condition])]
        done += len(tests[condition])
    return marks


def difference(
    ours: Sequence[bool], theirs: Sequence[bool], conversations: Sequence[str]
) -> tuple[float, float, float]:
    """The mean paired difference of two sides' marks, and its 95 % bootstrap interval over conversations."""
    each = np.array(ours, dtype=np.float64) - np.array(theirs, dtype=np.float64)
    names, place = np.unique(np.array(conversations), return_inverse=True)
    sums, counts = np.bincount(place, each, len(names)), np.bincount(place, minlength=len(names))
    picks = np.random.default_rng(SEED).integers(0, len(names), size=(_RESAMPLES, len(names)))
    means = sums[picks].sum(axis=1) / counts[picks].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(each.mean()), float(low), float(high)


@dataclass(frozen=True)
class Cell:
    """One agent under one condition: right answers of each model, and the paired difference of the two kinds."""

    n: int
    right: Mapping[str, int]
    difference: tuple[float, float, float]


def cells(tests: Tests, marks: Mapping[str, Marks]) -> dict[tuple[str, str], Cell]:
    """The cells by condition and agent, those without a test left out; `all` is every agent together."""
    found = {}
    for condition in CONDITIONS:
        for agent in (*AGENTS, "all"):
            places = [i for i, test in enumerate(tests[condition]) if agent in ("all", test.agent)]
            if not places:
                continue
            picked = {name: [one[condition][i] for i in places] for name, one in marks.items()}
            sids = [tests[condition][i].call_id.split("-")[0] for i in places]
            paired = difference(picked["lora"], picked["full"], sids)
            found[condition, agent] = Cell(len(places), {name: sum(m) for name, m in picked.items()}, paired)
    return found


def record(run: Run, trained: Mapping[str, Trained], tests: Tests, marks: Mapping[str, Marks]) -> None:
    """Record bench.adaptation.<model>.{learning_rate, tokens, heldout_loss, general_loss}, <model>.<condition>.<agent>
    (the share of right answers) and difference.<condition>.<agent>, in place of older ones."""
    run.forget(PREFIX)
    for kind, one in trained.items():
        run.record(f"{PREFIX}.{kind}.learning_rate", one.rate)
        run.record(f"{PREFIX}.{kind}.tokens", int(one.figures["tokens"]), unit="tokens")
        for loss in ("heldout_loss", "general_loss"):
            run.record(f"{PREFIX}.{kind}.{loss}", one.figures[loss], unit="nats/token")
            run.record(f"{PREFIX}.{START}.{loss}", one.figures[f"start.{loss}"], unit="nats/token")
    for (condition, agent), cell in cells(tests, marks).items():
        for name, won in cell.right.items():
            run.record(f"{PREFIX}.{name}.{condition}.{agent}", won / cell.n, n=cell.n, interval=wilson(won, cell.n))
        value, low, high = cell.difference
        run.record(f"{PREFIX}.difference.{condition}.{agent}", value, n=cell.n, interval=(low, high))


def table(trained: Mapping[str, Trained], tests: Tests, marks: Mapping[str, Marks]) -> list[str]:
    """Fixed columns: condition, agent, calls, right answers of each model, the paired difference with its interval."""
    lines = [f"{'condition':<9} {'agent':<12} {'calls':>5}" + "".join(f"{name:>8}" for name in marks) + "  lora - full"]
    for (condition, agent), cell in cells(tests, marks).items():
        value, low, high = cell.difference
        shares = "".join(f"{cell.right[name] / cell.n:>8.1%}" for name in marks)
        lines.append(f"{condition:<9} {agent:<12} {cell.n:>5}{shares}  {value:+.1%} [{low:+.1%}, {high:+.1%}]")
    for loss in ("heldout_loss", "general_loss"):
        start = next(iter(trained.values())).figures[f"start.{loss}"]
        ends = ", ".join(f"{kind} {one.figures[loss]:.3f}" for kind, one in trained.items())
        lines.append(f"{loss}: {START} {start:.3f}, {ends} nats/token")
    return lines
