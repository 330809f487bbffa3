"""Tables for the terminal: what a run would do, how far it is, what it measured. Read only."""

from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.table import Table

from agentmill.log import duration
from agentmill.runs import Run, RunError
from cluster import chain
from cluster.comparison import newest_evaluated, print_table
from cluster.config import RunConfig, config_of
from cluster.memory import forecasts, memory_table
from cluster.runner import decide, read_attempt, select
from cluster.shown import shown, shown_interval
from cluster.stages import STAGES, Stage, needs_of
from raytrain.settings import Source
from raytrain.shape import ShapeError
from simulation.job import read_state

RESULTS = (
    ("simulate.conversations", "conversations simulated"),
    ("simulate.calls", "model calls recorded"),
    ("gate.saved", "evaluator calls that the gate saves"),
    ("gate.miss_rate", "plans that the gate misses"),
    *(
        (f"train.{stage}.{name}", f"{stage}, {label}")
        for stage in chain.FITTED
        for name, label in (
            ("train_rows", "training rows"),
            ("seconds", "training time"),
            ("tokens_per_s", "training speed"),
            ("heldout_loss", "loss on its held-out rows"),
        )
    ),
    *((f"drafter.{source}.mgl", f"tokens a step, drafter on {source} data") for source in get_args(Source)),
    ("run.seconds", "seconds of all stages"),
)

WOULD = {"done": "skip", "resume": "go on", "new": "do", "refused": "refuse"}


def print_plan(root: Path, config: RunConfig, first: str | None, last: str | None) -> None:
    """Show the resolved configuration and what each stage would do."""
    console = Console()
    run = Run.open(root) if (root / "run.json").is_file() else Run(root.absolute(), {})
    table = Table("stage", "would", "because", title=f"{root} (dry run)", title_justify="left")
    again: set[str] = set()
    chosen = select(run, config, first, last)
    for stage in STAGES:
        if chain.left_out(config, stage.name):
            table.add_row(stage.name, "leave out", "null in the configuration")
        if stage not in chosen:
            continue
        decision = decide(run, config, stage, force=first is not None)
        verdict, reason = decision.verdict, decision.reason
        upstream = sorted(again & set(needs_of(stage, config)))
        if verdict == "done" and upstream:
            verdict, reason = "again", f"{', '.join(upstream)} would be done again"
        if verdict != "done":
            again.add(stage.name)
        table.add_row(stage.name, WOULD.get(verdict, "do again"), reason)
    console.print_json(data=config.resolved())
    console.print(table)
    console.print(_memory(run, config))


def _memory(run: Run, config: RunConfig) -> Table | str:
    try:
        return memory_table(list(forecasts(config, run.root / "models")), config.hardware.name)
    except ShapeError as error:
        return f"memory: not computed: {error}"


def print_runs(runs: Path) -> None:
    """List the runs in a folder, the newest last.

    Raises:
        RunError: when there is none.
    """
    files = sorted(runs.glob("*/run.json"), key=lambda file: file.stat().st_mtime)
    if not files:
        raise RunError(f"there are no runs in {runs.absolute()}; start one with `agentmill run configs/local.yaml`")
    table = Table("run", "stages done", "seconds", "student", "teacher", "command")
    for file in files:
        run = Run.open(file.parent)
        figures = run.figures()
        made = [stage.name for stage in STAGES if not chain.left_out_of(run, stage.name)]
        student = newest_evaluated(figures)
        table.add_row(
            run.name,
            f"{sum(run.completed(name) is not None for name in made)}/{len(made)}",
            shown(figures.get("run.seconds")),
            f"{student} {shown(figures.get(f'evaluate.{student}.success'))}" if student else "",
            shown(figures.get("evaluate.teacher.success")),
            run.command,
        )
    Console().print(table)


def print_stages(run: Run) -> None:
    """Show each stage of a run, and what was measured."""
    config = config_of(run)
    table = Table("stage", "state", "seconds", "", title=str(run.root), title_justify="left")
    for stage in STAGES:
        if chain.left_out(config, stage.name):
            table.add_row(stage.name, "left out", "", "null in the configuration")
            continue
        mark, attempt = run.completed(stage.name), read_attempt(run, stage.name)
        decision = decide(run, config, stage)
        if mark is not None:
            state = "done" if decision.verdict == "done" else "out of date"
            table.add_row(stage.name, state, duration(mark.seconds), decision.reason if state != "done" else "")
        elif attempt is not None:
            state = "running" if _alive(attempt.pid) else "stopped half-way"
            table.add_row(stage.name, state, duration(attempt.seconds), _how_far(run, stage, attempt.attempts))
        else:
            table.add_row(stage.name, "to do", "", "")
    Console().print(table)
    print_result(run)


def print_result(run: Run) -> None:
    """The table at the end of a run: what was measured, and where to look."""
    figures = run.figures()
    table = Table("result", "value", "95 % interval", "n", title=f"run {run.name}", title_justify="left")
    for name, label in RESULTS:
        figure = figures.get(name)
        if figure is not None:
            table.add_row(label, shown(figure), shown_interval(figure), "" if figure.n is None else f"{figure.n:,}")
    console = Console()
    if table.row_count:
        console.print(table)
    print_table(run)
    page = run.root / "report" / "index.html"
    if page.is_file():
        console.print(f"report   {page}", highlight=False, soft_wrap=True)
    trained = [stage for stage in chain.TRAINED if not chain.left_out_of(run, stage)]
    done = [stage for stage in trained if run.completed(stage)]
    if done:
        which = "" if done[-1] == trained[-1] else f" --stage {done[-1]}"
        console.print(f"serve it with `agentmill serve {run.name}{which}`, then `agentmill chat`", highlight=False)


def _how_far(run: Run, stage: Stage, attempts: int) -> str:
    """The attempt, and what a stage that does its rows one by one last said of them."""
    state = read_state(run.root / stage.work) if stage.work else None
    if state is None:
        return f"attempt {attempts}"
    rows = f"{state['done']:,} of {state['total']:,} {state['unit']}, {state['failed']:,} failed"
    return f"attempt {attempts}: {rows}, {state['per_s']:.3g} a second"


def _alive(pid: int) -> bool:
    import psutil

    return bool(psutil.pid_exists(pid))
