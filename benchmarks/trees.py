"""`agentmill bench trees`: the mean generated length of EAGLE-2's draft trees beside greedy chains, without an engine.

vLLM 0.29 drafts greedy chains alone, so the drafts are made here, by the run's drafter at every position of held-out
answers, and verified by what the student said there itself. All shapes draft on the same answers; an interval draws
answers again, and a gain draws the same ones for both sides.

Records drafter.greedy.mgl (as many tokens as the run drafts) and drafter.tree.mgl, each by agent too
(drafter.tree.<agent>.mgl) and with .positions, what the student computes for one verification; drafter.tree.gain; and
drafter.shape.<shape>.mgl of every other shape.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agentmill.config import UserError
from agentmill.log import progress, say
from agentmill.runs import Run, bench_run
from raytrain.data import TokenRows, tokenise
from raytrain.drafter.stage import FOLDER
from raytrain.drafter.trees import TreeShape, greedy
from raytrain.hardware import HardwareSettings, Placement, place
from raytrain.job import DRAFTER, HELDOUT
from raytrain.settings import DrafterSettings
from simulation.metrics import Measure

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SEED = 1
SMALLER = (8, 16)  # tokens of the smaller trees
PAPER = "the paper: a tree 3.66 on external data; greedy, three draft tokens, 3.53 on synthetic and 3.80 on combined"
_RESAMPLES = 2000

Int64 = np.ndarray[Any, np.dtype[np.int64]]
Counts = Mapping[TreeShape, Int64]  # of each answer: accepted tokens and drafts, [answers, 2]


class NotDrafted(UserError):
    """A run without a drafter, its student or the student's answers. The message has the remedy."""


def bench_trees(
    source: Run, settings: DrafterSettings, hardware: HardwareSettings, tree: TreeShape, answers: int
) -> Run:
    """Draft at `answers` held-out answers of `source` in every shape, and record in the run named by bench_run().

    Raises:
        NotDrafted: when the run lacks what is needed.
        TreeError: when the drafter's vocabulary is smaller than the tree's top_k.
    """
    student = student_folder(source)
    rows = _answers(source, student, settings)
    picked = np.random.default_rng(SEED).permutation(len(rows))[:answers]
    rows = rows.take(sorted(picked.tolist()))
    shapes = shapes_beside(tree, settings.draft_tokens)
    counts = _measured(source.root / "models" / DRAFTER, rows, shapes, _placement(settings, hardware))
    run = bench_run()
    base = greedy(settings.draft_tokens)
    _record(run, counts, rows.groups, base, tree)
    for line in table(counts, rows.groups, base):
        say("bench", line)
    say("bench", f"computed on {len(rows):,} held-out answers without an engine: vLLM 0.29 drafts greedy chains alone")
    say("bench", PAPER)
    return run


def student_folder(source: Run) -> Path:
    """The folder of the student that the run's drafter drafts for.

    Raises:
        NotDrafted: when there is no drafter, or no student where it says.
    """
    file = source.root / "models" / DRAFTER / "config.json"
    if not file.is_file():
        raise NotDrafted(
            f"{source.root} has no models/{DRAFTER}: trees are made of the run's own drafter; run it with "
            f"--set drafter={{}} --until {DRAFTER}"
        )
    config = json.loads(file.read_text(encoding="utf-8"))
    folder = Path(config["speculators_config"]["verifier"]["name_or_path"])
    if not (folder / "config.json").is_file():
        raise NotDrafted(
            f"{file} names the student {folder}, which is not there: a drafter sees that student's states and says "
            f"nothing without them; move the run back, or make its drafter again with --from {DRAFTER}"
        )
    return folder


def _answers(source: Run, student: Path, settings: DrafterSettings) -> TokenRows:
    """The student's held-out answers, as the drafter's training has them."""
    from transformers import AutoTokenizer

    file = source.root / FOLDER / f"{HELDOUT}.parquet"
    if not file.is_file():
        raise NotDrafted(
            f"{source.root} has no {FOLDER}/{HELDOUT}.parquet: drafts are verified by what the student answered; run "
            f"it with --set drafter={{}} --until {FOLDER}"
        )
    tokenizer = AutoTokenizer.from_pretrained(student, local_files_only=True)
    return tokenise(DRAFTER, file, tokenizer, settings.max_length, settings.overflow)[0]


def _placement(settings: DrafterSettings, hardware: HardwareSettings) -> Placement:
    """This process, by the settings of a worker: in the drafter's own precision, which decides between near equals."""
    import torch

    worker = settings.worker.model_copy(update={"workers": 1})
    return place(worker, {"GPU": torch.cuda.device_count()}, hardware)


def shapes_beside(tree: TreeShape, draft_tokens: int) -> list[TreeShape]:
    """Chains as deep as the run drafts and as the tree, and one that costs what the smallest tree does; trees of both
    depths with fewer tokens, and the tree."""
    chains = [greedy(depth) for depth in (draft_tokens, tree.depth, min(SMALLER))]
    trees = [
        TreeShape(depth, tree.top_k, tokens)
        for depth in (draft_tokens, tree.depth)
        for tokens in (*SMALLER, tree.tokens)
        if tokens <= min(tree.tokens, TreeShape(depth, tree.top_k, 1).candidates)
    ]
    return list(dict.fromkeys([*chains, *trees]))


def _measured(folder: Path, rows: TokenRows, shapes: Sequence[TreeShape], placement: Placement) -> Counts:
    from transformers.utils import logging

    from raytrain import attention
    from raytrain.drafter.model import load_drafter_for_scoring

    logging.disable_progress_bar()
    attention.register()
    return drafted(load_drafter_for_scoring(folder, placement), rows, shapes, placement)


def drafted(drafter: "PreTrainedModel", rows: TokenRows, shapes: Sequence[TreeShape], placement: Placement) -> Counts:
    """Accepted tokens and drafts of every answer, [answers, 2], for each shape."""
    from raytrain.drafter.branches import accepted_by_trees

    counts = {shape: np.zeros((len(rows), 2), dtype=np.int64) for shape in shapes}
    with progress("trees", len(rows), "answers") as bar:
        for index in range(len(rows)):
            for shape, accepted in accepted_by_trees(drafter, rows, index, shapes, placement).items():
                counts[shape][index] = sum(accepted), len(accepted)
            bar.advance()
    return counts


def mgl(counts: Int64) -> Measure:
    """1 + accepted / drafts, from [answers, 2]."""
    values = _resampled(counts)
    low, high = np.quantile(values, [0.025, 0.975])
    return Measure(float(_ratio(counts.sum(axis=0))), int(counts[:, 1].sum()), (float(low), float(high)))


def gain(counts: Int64, base: Int64) -> Measure:
    """How much higher the MGL is than that of `base` on the same answers."""
    low, high = np.quantile(_resampled(counts) - _resampled(base), [0.025, 0.975])
    value = float(_ratio(counts.sum(axis=0)) - _ratio(base.sum(axis=0)))
    return Measure(value, int(counts[:, 1].sum()), (float(low), float(high)))


def _resampled(counts: Int64) -> Any:
    """The MGL of answers drawn again, the same ones for any counts of as many answers."""
    picks = np.random.default_rng(SEED).integers(0, len(counts), size=(_RESAMPLES, len(counts)))
    return _ratio(counts[picks].sum(axis=1))


def _ratio(sums: Any) -> Any:
    """1 + accepted / drafts of sums [..., 2]; 1 where nothing was drafted."""
    return 1 + sums[..., 0] / np.maximum(sums[..., 1], 1)


def _record(run: Run, counts: Counts, agents: Sequence[str], base: TreeShape, tree: TreeShape) -> None:
    names = {base: "drafter.greedy", tree: "drafter.tree"}
    for prefix in (*names.values(), "drafter.shape"):
        run.forget(prefix)
    for shape, of_shape in counts.items():
        name = names.get(shape, f"drafter.shape.{shape.name}")
        found = {"": mgl(of_shape)}
        if shape in names:
            found |= {f".{agent}": mgl(part) for agent, part in _by_agent(of_shape, agents).items()}
            run.record(f"{name}.positions", shape.positions, unit="positions")
        for which, one in found.items():
            run.record(f"{name}{which}.mgl", one.value, n=one.n, interval=one.interval, unit="tokens")
    found_gain = gain(counts[tree], counts[base])
    run.record("drafter.tree.gain", found_gain.value, n=found_gain.n, interval=found_gain.interval, unit="tokens")


def _by_agent(counts: Int64, agents: Sequence[str]) -> dict[str, Int64]:
    names = np.array(agents)
    return {str(agent): counts[names == agent] for agent in np.unique(names)}


def table(counts: Counts, agents: Sequence[str], base: TreeShape) -> list[str]:
    """One line a shape, fixed columns: passes of the drafter one after another, positions that the student verifies,
    MGL, what it is above `base`, both with their intervals, and MGL by agent."""
    names = sorted(set(agents))
    over = f"over {base.name}"
    head = f"{'shape':<16} {'passes':>6} {'verified':>8} {'MGL':>6} {'95 %':<14} {over:<20}"
    lines = [head + "".join(f"{name:>14}" for name in names)]
    for shape, of_shape in counts.items():
        one, more = mgl(of_shape), gain(of_shape, counts[base])
        gained = "" if shape == base else f"{more.value:+.2f} [{more.interval[0]:+.2f}, {more.interval[1]:+.2f}]"
        cells = "".join(f"{mgl(part).value:>14.3f}" for part in _by_agent(of_shape, agents).values())
        lines.append(
            f"{shape.name:<16} {shape.depth:>6} {shape.positions:>8} {one.value:>6.3f} "
            f"{f'[{one.interval[0]:.2f}, {one.interval[1]:.2f}]':<14} {gained:<20}{cells}"
        )
    return lines
