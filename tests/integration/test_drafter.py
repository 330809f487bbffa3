"""The stage drafter on a local Ray, for the shipped base: the contract, training, and what the engine then accepts."""

from pathlib import Path

import pytest
import ray

from agentmill.errors import UserError
from agentmill.runs import Run
from raytrain.data import TokenRows
from raytrain.drafter import contract, stage
from raytrain.steplog import read_steps
from tests.drafted import SETTINGS, STEPS
from tests.practice import practice_run


def test_it_learns_to_draft(drafted_run: Run) -> None:
    value = {name: float(figure.value) for name, figure in drafted_run.figures().items()}
    assert value["drafter.synthetic.mgl"] > 1.8
    assert value["train.drafter.heldout_accepted_at_1"] > value["train.drafter.start.heldout_accepted_at_1"] + 0.2
    accepted = [value[f"train.drafter.heldout_accepted_at_{place}"] for place in (1, 2, 3)]
    assert accepted == sorted(accepted, reverse=True)
    assert value["drafter.synthetic.mgl"] == pytest.approx(1 + sum(accepted))
    assert value["drafter.synthetic.planner.mgl"] == pytest.approx(value["drafter.synthetic.mgl"])
    log = read_steps(drafted_run.root / "logs" / "drafter.jsonl")
    assert [row["step"] for row in log] == list(range(1, STEPS + 1))
    assert log[-1]["draft/right_at_1"] > log[0]["draft/right_at_1"]


def test_the_engine_took_it_untrained_and_accepts_what_was_computed(drafted_run: Run) -> None:
    """MGL by vLLM's own counters beside the one that the stage computed, on the same held-out prompts."""
    work = next((drafted_run.root / "checkpoints" / "drafter").iterdir())
    assert float(drafted_run.figures()["train.drafter.contract_drafts"].value) > 0
    held = TokenRows.load(work / "rows" / "heldout")
    prompts = [held.row(index) for index in range(len(held))]
    asked = {
        "student": str(drafted_run.root / "models" / "base"),
        "drafter": str(drafted_run.root / "models" / "drafter"),
        "draft_tokens": SETTINGS.draft_tokens,
        "prompts": [tokens[:start].tolist() for tokens, start in prompts],
        "tokens": 96,
        "longest": int(held.lengths.max()) + 96,
        "tensor_parallel": 1,
    }
    drafts, tokens = ray.get(contract.in_engine(asked, on_gpu=False))
    engine = (tokens - len(prompts)) / drafts
    assert engine == pytest.approx(float(drafted_run.figures()["drafter.synthetic.mgl"].value), rel=0.1)


def test_it_is_not_trained_again(drafted_run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    stage.run(drafted_run, SETTINGS, start="base", seed=1)
    assert "is the result of these inputs" in capfd.readouterr().err


def test_a_source_that_is_not_there_is_told(ray_local: None, tiny_model_dir: Path, tmp_path: Path) -> None:
    run = practice_run(tmp_path / "run", tiny_model_dir)
    with pytest.raises(UserError, match=r"drafter\.source=external and responses/train\.parquet has no such rows"):
        stage.run(run, SETTINGS.model_copy(update={"source": "external"}), start="base", seed=1)
