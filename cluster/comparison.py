"""The models of a run side by side: one table for the terminal, the report and the README, all from recorded figures.

A column is a model that was evaluated, in the order of the chain, variants after it, the teacher last; a row is a
measure. Losses were measured by the training stages, on rows of corpora/sft/heldout and general rows that are the same
for all. A sign behind a value says that the model differs from the one in the column before it by more than chance (see
simulation.paired). Invariant: nothing is computed here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from agentmill.runs import Figure, Run, RunError
from cluster.chain import MADE, TRAINED, VARIANTS
from cluster.shown import shown

TEACHER = "teacher"
SUCCESS, SAFE = "success", "safe_replies"
ROWS = {
    "success": "scenarios completed",
    "safe_replies": "turns that end in the safe reply",
    "understander.intent": "Understander: intent right",
    "understander.entities": "Understander: entities, F1",
    "understander.entities_exact": "Understander: entities all right",
    "planner.equivalent": "Planner: plan equivalent",
    "planner.executable": "Planner: plan executable",
    "evaluator.agreement": "Evaluator: verdict right",
    "explainer.grounded": "Explainer: reply grounded",
    "agents_loss": "loss on held-out calls, nats a token",
    "general_loss": "loss on general work, nats a token",
}
LOSSES = {"agents_loss": ("sft_heldout_loss", "heldout_loss"), "general_loss": ("general_loss", "general_loss")}
CLAIMED = 0.05  # of p values that are adjusted already
BETTER, WORSE = "▲", "▼"
LEGEND = (
    f"{BETTER} better, {WORSE} worse than the column before it (McNemar's paired test, agents' measures adjusted by "
    f"Holm, p < {CLAIMED:g})"
)


@dataclass(frozen=True)
class Change:
    """How a model differs from another in one measure, with the p of simulation.paired."""

    measure: str
    label: str
    difference: Figure
    p: float

    @property
    def sign(self) -> str:
        """BETTER, WORSE, or nothing where no difference is shown."""
        if self.p >= CLAIMED:
            return ""
        return BETTER if float(self.difference.value) > 0 else WORSE


@dataclass(frozen=True)
class Cell:
    """A model's figure in one measure, and how it differs from the column before."""

    figure: Figure | None
    sign: str


@dataclass(frozen=True)
class Row:
    """One measure over all models."""

    measure: str
    label: str
    cells: tuple[Cell, ...]


def evaluated_models(figures: Mapping[str, Figure]) -> list[str]:
    """The models with an evaluation among these figures, in order, the teacher last."""
    return [name for name in (*MADE.values(), *VARIANTS, TEACHER) if f"evaluate.{name}.{SUCCESS}" in figures]


def newest_evaluated(figures: Mapping[str, Figure]) -> str | None:
    """The last model of the chain that was evaluated."""
    return next((name for name in reversed(evaluated_models(figures)) if name != TEACHER), None)


def side_by_side(figures: Mapping[str, Figure], *, everything: bool = False) -> list[Row]:
    """The rows of the table; with `everything` the other figures of evaluations come after them."""
    models = evaluated_models(figures)
    measures = {
        measure: label
        for measure, label in ROWS.items()
        if any(_figure(figures, model, measure) is not None for model in models)
    }
    if everything:
        others = {name.split(".", 2)[2] for name in figures if name.startswith(tuple(f"evaluate.{m}." for m in models))}
        others = {name for name in others - measures.keys() if not name.startswith("versus.")}
        measures |= {name: name.replace(".", ": ") for name in sorted(others)}
    return [Row(measure, label, _cells(figures, models, measure)) for measure, label in measures.items()]


def changes(figures: Mapping[str, Figure], model: str, other: str) -> list[Change]:
    """What was found when `model` was compared with `other`, in the order of the table; nothing where it was not."""
    prefix = f"evaluate.{model}.versus.{other}."
    found = [name.removeprefix(prefix) for name in figures if name.startswith(prefix) and not name.endswith(".p")]
    order = [*(name for name in ROWS if name in found), *sorted(set(found) - ROWS.keys())]
    return [
        Change(
            measure,
            ROWS.get(measure, measure.replace(".", ": ")),
            figures[prefix + measure],
            float(figures[f"{prefix}{measure}.p"].value),
        )
        for measure in order
    ]


def compared(figures: Mapping[str, Figure]) -> list[tuple[str, str]]:
    """The pairs (model, other) that were compared, in order."""
    models = evaluated_models(figures)
    return [(model, other) for model in models for other in models if changes(figures, model, other)]


def markdown(run: Run) -> str:
    """The table as Markdown, with intervals and n."""
    figures = run.figures()
    lines = [["", *evaluated_models(figures)]]
    lines += [[row.label, *(_text(cell) for cell in row.cells)] for row in side_by_side(figures)]
    head, *body = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([head, "|---" * len(lines[0]) + "|", *body, "", LEGEND])


def print_models(run: Run, *, as_markdown: bool = False) -> None:
    """Print the table, and how the newest model stands to the teacher.

    Raises:
        RunError: when no model of the run was evaluated.
    """
    if newest_evaluated(run.figures()) is None:
        raise RunError(f"no model of {run.root} was evaluated yet; do so with `agentmill run`")
    if as_markdown:
        print(markdown(run))
    else:
        print_table(run)


def print_table(run: Run) -> None:
    """The table on the terminal; nothing where no model was evaluated."""
    from rich.console import Console
    from rich.table import Table

    figures = run.figures()
    models, newest = evaluated_models(figures), newest_evaluated(figures)
    if newest is None:
        return
    table = Table("held-out", title=f"models of {run.name}, 95 % intervals", title_justify="left")
    for model in models:
        table.add_column(model, justify="right", no_wrap=True)
    for row in side_by_side(figures):
        table.add_row(row.label, *(_text(cell, "\n") for cell in row.cells))
    console = Console()
    console.print(table)
    console.print(LEGEND, style="dim", highlight=False)
    console.print(against_teacher(figures, newest), highlight=False)


def against_teacher(figures: Mapping[str, Figure], model: str) -> str:
    """One sentence: in what the model is shown to differ from the teacher."""
    found = changes(figures, model, TEACHER)
    better = [change.label for change in found if change.sign == BETTER]
    worse = [change.label for change in found if change.sign == WORSE]
    if not better and not worse:
        return f"{model} against the teacher: no difference is shown"
    parts = [f"{word} in {', '.join(names)}" for word, names in (("better", better), ("worse", worse)) if names]
    return f"{model} against the teacher: {'; '.join(parts)}; elsewhere no difference is shown"


def _text(cell: Cell, between: str = " ") -> str:
    """A value, the sign of a change, and the interval in whole per cent."""
    if cell.figure is None:
        return ""
    value = f"{shown(cell.figure).removesuffix(cell.figure.unit).strip()} {cell.sign}".strip()
    if cell.figure.interval is None:
        return value
    low, high = cell.figure.interval
    return f"{value}{between}[{100 * low:.0f}, {100 * high:.0f}]"


def _figure(figures: Mapping[str, Figure], model: str, measure: str) -> Figure | None:
    """A model's figure: of its evaluation, or where it is a loss of the stage that made it or first started from it."""
    if measure not in LOSSES:
        return figures.get(f"evaluate.{model}.{measure}")
    if model == TEACHER or model in VARIANTS:
        return None
    if model not in TRAINED:
        first = next((stage for stage in TRAINED if f"train.{stage}.steps" in figures), None)
        return figures.get(f"train.{first}.start.{_loss_name(measure, first)}") if first else None
    return figures.get(f"train.{model}.{_loss_name(measure, model)}")


def _loss_name(measure: str, stage: str) -> str:
    """What a stage calls a loss: the held-out rows of corpora/sft are sft's own, and beside its own in others."""
    beside, own = LOSSES[measure]
    return own if stage == "sft" else beside


def _cells(figures: Mapping[str, Figure], models: Sequence[str], measure: str) -> tuple[Cell, ...]:
    signs = [""]
    for other, model in pairwise(models):
        found = {change.measure: change.sign for change in changes(figures, model, other)}
        signs.append(found.get(measure, ""))
    return tuple(Cell(_figure(figures, model, measure), sign) for model, sign in zip(models, signs, strict=True))
