"""The stage evaluate over several models: who plays, in which order, what a kill leaves, and who is compared."""

from pathlib import Path

import pytest

from agentmill.errors import UserError
from agentmill.runs import Run
from cluster import evaluation
from cluster.config import RunConfig
from tests.evaluated import evaluated

CONFIG = RunConfig.model_validate({"cpt": {}, "dpo": {}, "evaluate": {"models": "all"}})
RIGHT = {"base": 0, "cpt": 1, "sft": 40, "dpo": 44, "teacher": 49}  # scenarios that each completes, of 50


class Played:
    """Stands for the serving and the playing: every half leaves what the real one does, and may be killed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.order: list[str] = []
        self.killed_at = ""
        monkeypatch.setattr(evaluation, "_teacher", lambda run, config: self.play(run, "teacher"))
        monkeypatch.setattr(evaluation, "_served", lambda run, config, model: self.play(run, model))

    def play(self, run: Run, model: str) -> None:
        self.order.append(model)
        if model == self.killed_at:
            raise UserError("killed")
        right = {f"s{i}": i < RIGHT[model] for i in range(50)}
        evaluated(run, model, right, {f"c{i}": i < RIGHT[model] for i in range(50)})


def test_every_model_is_played_once_and_goes_on_where_it_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, played = Run.create(tmp_path / "one", {}, "test"), Played(monkeypatch)
    played.killed_at = "sft"
    with pytest.raises(UserError, match="killed"):
        evaluation.run(run, CONFIG)
    played.killed_at = ""
    evaluation.run(run, CONFIG)
    assert played.order == ["teacher", "base", "cpt", "sft", "sft", "dpo"]


def test_neighbours_are_compared_and_the_last_with_the_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, played = Run.create(tmp_path / "one", {}, "test"), Played(monkeypatch)
    evaluation.run(run, CONFIG)
    assert len(played.order) == 5
    compared = {name.rsplit(".success", 1)[0] for name in run.figures("evaluate") if name.endswith(".success")}
    pairs = {("cpt", "base"), ("sft", "cpt"), ("dpo", "sft"), ("dpo", "teacher")}
    assert compared == {f"evaluate.{model}.versus.{other}" for model, other in pairs}
    told = capsys.readouterr().err
    assert "cpt      no difference from base is shown" in told
    assert "sft      success                      +78.0%" in told
    assert "dpo      no difference from teacher is shown" in told  # five lost: p is 1 / 16


def test_a_model_alone_is_compared_with_the_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, played = Run.create(tmp_path / "one", {}, "test"), Played(monkeypatch)
    evaluation.run(run, RunConfig())
    assert played.order == ["teacher", "sft"]
    assert run.figures()["evaluate.sft.versus.teacher.success"].value == -0.18
