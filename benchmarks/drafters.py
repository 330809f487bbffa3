"""`agentmill bench drafter`: what a drafter's training data are worth, beside each other in one run.

From the responses of one run, three drafters for the same student with the same number of steps: on prompts of real
dialogues alone (external), on those of the simulated conversations alone (synthetic), and on both (combined). All three
are measured on the same held-out answers: the paper's comparison of MGL by data source.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import pyarrow.parquet as pq

from agentmill.config import UserError
from agentmill.log import say
from agentmill.runs import Figure, Run, bench_run
from raytrain.drafter import stage
from raytrain.settings import DrafterSettings, Source
from raytrain.site import Site

SEED = 1
SHORT_ROW = 40  # tokens; rows are longer on average
PAPER = {"synthetic": 3.53, "combined": 3.80}  # MGL of greedy drafting with three tokens, arXiv 2606.18502


class NoResponses(UserError):
    """A run whose student has not answered yet, or has no prompts of real dialogues. The message has the remedy."""


def bench_drafters(folder: Path, source: Run, student: str, settings: DrafterSettings, steps: int, site: Site) -> Run:
    """Train the drafters in `folder` for models/<student> of `source`, and record drafter.<source>.mgl and the like in
    the run named by bench_run(). Ray must be initialised.

    Raises:
        NoResponses: when the run lacks what is trained on.
        UserError: when a training fails.
    """
    public, all_rows = _counted(source)
    rows = {"external": public, "synthetic": all_rows - public, "combined": all_rows}
    run = bench_run()
    measured = {}
    for index, name in enumerate(get_args(Source)):
        one = settings.model_copy(
            update={
                "source": name,
                "max_steps": steps,
                "epochs": _enough(settings, steps, rows[name]),
                "patience": None,
                "contract": settings.contract and index == 0,
            }
        )
        measured[name] = _trained(folder / name, source, student, one, site)
        for figure, value in measured[name].items():
            run.record(figure, value.value, n=value.n, unit=value.unit)
    for line in table(measured):
        say("bench", line)
    return run


def _trained(folder: Path, source: Run, student: str, settings: DrafterSettings, site: Site) -> dict[str, Figure]:
    """The figures drafter.* of one training in a run of its own that shares the source's responses and student."""
    run = Run.create(folder, {}, "agentmill bench drafter")
    run.path("models").mkdir(exist_ok=True)
    for shared in (f"models/{student}", "responses"):
        (run.root / shared).symlink_to((source.root / shared).resolve(), target_is_directory=True)
    stage.run(run, settings, start=student, seed=SEED, site=site)
    return run.figures("drafter")


def _enough(settings: DrafterSettings, steps: int, rows: int) -> int:
    """Epochs that have so many steps at least; max_steps ends them."""
    wanted = steps * settings.worker.workers * settings.accumulate * settings.tokens_per_batch
    return wanted // (rows * SHORT_ROW) + 1


def _counted(source: Run) -> tuple[int, int]:
    """How many training rows are of real dialogues, and how many there are."""
    file = source.path("responses", "train.parquet")
    if not file.is_file():
        raise NoResponses(
            f"{source.root} has no responses: run it with --set drafter={{}} --until responses, and with "
            f"--set data.public=FILE for prompts of real dialogues"
        )
    agents = pq.read_table(file, columns=["agent"])["agent"].to_pylist()
    if stage.PUBLIC not in agents:
        raise NoResponses(
            f"{file} has no prompts of real dialogues; run it with --set data.public=FILE --until responses"
        )
    return agents.count(stage.PUBLIC), len(agents)


def table(measured: Mapping[str, Mapping[str, Figure]]) -> list[str]:
    """MGL by data source and agent, and the paper's beside them."""
    agents = sorted({name.split(".")[2] for figures in measured.values() for name in figures if name.count(".") == 3})
    lines = [f"{'data':<10} {'all':>7} " + "".join(f"{agent:>14}" for agent in agents) + f"{'paper':>8}"]
    for source, figures in measured.items():
        cells = "".join(f"{_mgl(figures, f'drafter.{source}.{agent}.mgl'):>14}" for agent in agents)
        paper = f"{PAPER[source]:.2f}" if source in PAPER else ""
        lines.append(f"{source:<10} {_mgl(figures, f'drafter.{source}.mgl'):>7} {cells}{paper:>8}")
    return lines


def _mgl(figures: Mapping[str, Figure], name: str) -> str:
    return f"{float(figures[name].value):.3f}" if name in figures else ""
