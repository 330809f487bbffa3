"""`agentmill bench trees`: what it needs of a run, which shapes stand beside each other, its figures and its table."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agentmill.runs import Run
from benchmarks.trees import NotDrafted, _answers, bench_trees, gain, mgl, shapes_beside, student_folder, table
from raytrain.drafter.trees import TreeShape, greedy
from raytrain.hardware import HardwareSettings
from raytrain.settings import DrafterSettings, WorkerSettings
from tests.practice import practice_rows
from tests.tiny_llama import write_tiny_llama

SMALL = TreeShape(depth=3, top_k=4, tokens=12)


def with_drafter(folder: Path, student: Path) -> Run:
    """A run whose drafter, of which there is the configuration alone, drafts for `student`."""
    run = Run.create(folder, {}, "test")
    config = {"speculators_config": {"verifier": {"name_or_path": str(student)}}}
    run.path("models", "drafter", "config.json").write_text(json.dumps(config))
    return run


def test_a_run_needs_a_drafter_its_student_and_answers(tmp_path: Path) -> None:
    with pytest.raises(NotDrafted, match=r"has no models/drafter: trees are made of the run's own drafter; run it"):
        student_folder(Run.create(tmp_path / "none", {}, "test"))
    moved = with_drafter(tmp_path / "moved", tmp_path / "away")
    with pytest.raises(NotDrafted, match=r"config\.json names the student .*away, which is not there: .*; move the"):
        student_folder(moved)
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "config.json").write_text("{}")
    silent = with_drafter(tmp_path / "silent", tmp_path / "student")
    assert student_folder(silent) == tmp_path / "student"
    with pytest.raises(NotDrafted, match=r"has no responses/heldout\.parquet: .* run it with --set drafter={} --until"):
        _answers(silent, tmp_path / "student", DrafterSettings())


def test_smaller_trees_and_chains_stand_beside_a_tree() -> None:
    assert [shape.name for shape in shapes_beside(TreeShape(), 3)] == [
        *("greedy_d3", "greedy_d6", "greedy_d8"),
        *("tree_d3_k10_n8", "tree_d3_k10_n16", "tree_d3_k10_n60"),
        *("tree_d6_k10_n8", "tree_d6_k10_n16", "tree_d6_k10_n60"),
    ]
    assert [shape.name for shape in shapes_beside(SMALL, 3)] == [
        *("greedy_d3", "greedy_d8", "tree_d3_k4_n8", "tree_d3_k4_n12")
    ]
    # a tree of depth 2 and top_k 2 has 6 nodes at most
    assert [shape.name for shape in shapes_beside(TreeShape(4, 2, 10), 2)] == [
        *("greedy_d2", "greedy_d4", "greedy_d8", "tree_d4_k2_n8", "tree_d4_k2_n10")
    ]


def test_intervals_are_over_answers_and_a_gain_is_paired() -> None:
    draw = np.random.default_rng(0)
    drafts = draw.integers(1, 20, 60)
    base = np.stack([draw.integers(0, 3 * drafts), drafts], axis=1)
    found = mgl(base)
    assert found.value == pytest.approx(1 + base[:, 0].sum() / drafts.sum())
    assert found.n == drafts.sum()
    assert found.interval[0] < found.value < found.interval[1]
    assert mgl(np.repeat(base, 4, axis=0)).interval[1] - found.value < 0.7 * (found.interval[1] - found.value)
    better = base + np.stack([drafts, 0 * drafts], axis=1)  # one token more in every draft
    more = gain(better, base)
    assert (more.value, *more.interval) == pytest.approx((1.0, 1.0, 1.0))
    assert mgl(np.array([[0, 0], [6, 2]])).value == 4.0


def test_one_line_a_shape_says_what_a_verification_costs() -> None:
    agents = ["planner", "explainer", "planner"]
    counts = {
        greedy(3): np.array([[4, 2], [0, 4], [4, 2]]),
        TreeShape(6, 10, 60): np.array([[5, 1], [4, 2], [5, 1]]),
    }
    head, chain, tree = table(counts, agents, greedy(3))
    assert head.split()[:3] == ["shape", "passes", "verified"]
    assert head.split()[-2:] == ["explainer", "planner"]
    assert chain.split()[:4] == ["greedy_d3", "3", "4", "2.000"]
    assert chain.split()[-2:] == ["1.000", "3.000"]
    assert tree.split()[:4] == ["tree_d6_k10_n60", "6", "61", "4.500"]
    assert "+2.50 [+2.00, +3.00]" in tree
    assert head.index("explainer") + len("explainer") == tree.index("3.000") + len("3.000")


def test_figures_of_a_run_with_a_drafter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole bench on an untrained drafter, without Ray; a figure of an agent that is no more goes away."""
    import ray
    from transformers import AutoTokenizer

    from raytrain.data import tokenise
    from raytrain.drafter.model import make_drafter

    settings = DrafterSettings(worker=WorkerSettings(threads=1, device="cpu"))
    run = Run.create(tmp_path / "run", {}, "test")
    student = write_tiny_llama(run.path("models", "dpo"), layers=6)
    answers = run.path("responses", "heldout.parquet")
    pq.write_table(pa.Table.from_pylist(practice_rows(6, 3)), answers)
    rows, _ = tokenise("drafter", answers, AutoTokenizer.from_pretrained(student), 512, "drop")
    make_drafter(student, settings, rows, run.path("models", "drafter"), seed=1)
    monkeypatch.setenv("AGENTMILL_BENCH_RUN", str(tmp_path / "bench"))
    Run.create(tmp_path / "bench", {}, "test").record("drafter.tree.gardener.mgl", 1.0)

    monkeypatch.setattr(ray, "init", None)  # none is started
    bench_trees(run, settings, HardwareSettings(), SMALL, answers=5)

    figures = Run.open(tmp_path / "bench").figures("drafter")
    assert set(figures) == {
        *(f"drafter.{kind}.{name}" for kind in ("greedy", "tree") for name in ("mgl", "planner.mgl", "positions")),
        *("drafter.tree.gain", "drafter.shape.greedy_d8.mgl", "drafter.shape.tree_d3_k4_n8.mgl"),
    }
    tree, chain = figures["drafter.tree.mgl"], figures["drafter.greedy.mgl"]
    assert (figures["drafter.greedy.positions"].value, figures["drafter.tree.positions"].value) == (4, 13)
    assert float(figures["drafter.tree.gain"].value) == pytest.approx(float(tree.value) - float(chain.value))
    assert float(tree.value) > float(chain.value) >= 1
    assert tree.interval is not None and tree.interval[0] <= float(tree.value) <= tree.interval[1]
    # every token after an answer's first one is generated by a draft, or is the one of the student's after it
    of_all = sorted(int((rows.lengths - rows.starts - 1)[i]) for i in range(6))
    assert tree.n is not None and sum(of_all[:5]) / 4 <= tree.n <= sum(of_all[1:])
