"""The stage runner: what is skipped, what is done again, what goes on, and who may work on a run."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agentmill import lineage
from agentmill.config import ConfigError, differences
from agentmill.errors import UserError
from agentmill.lineage import MemoryShortage
from agentmill.runs import Run, RunError
from cluster import chain, runner, stages
from cluster.config import RunConfig
from cluster.runner import decide, execute, lock, read_attempt, select
from cluster.stages import MODEL, STAGES, Stage, code_digest, needs_of, stage_named

Work = Callable[[Run, RunConfig], None]


class Line:
    """Three small stages in a row, a -> b -> c, that count how often they are done."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.done: list[str] = []
        self.broken: set[str] = set()

    def stage(self, name: str, needs: tuple[str, ...]) -> Stage:
        def work(run: Run, config: RunConfig) -> None:
            self.done.append(name)
            run.path(name, "part").write_text("".join(self.done))
            run.record(f"{name}.value", config.seed)
            if name in self.broken:
                raise UserError("stopped")

        keys = {"a": "seed", "b": "domain", "c": "name"}
        return Stage(
            name, name, work, lambda c: {keys[name]: getattr(c, keys[name])}, needs, ("agentmill.errors",), (name,),
            (name,), 0.01, ray=False, work=f"{name}/.work",
        )  # fmt: skip


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Line:
    made = Line(Run.create(tmp_path / "one", {}, "test"))
    table = (made.stage("a", ()), made.stage("b", ("a",)), made.stage("c", ("b",)))
    monkeypatch.setattr(runner, "STAGES", table)
    monkeypatch.setattr(stages, "STAGES", table)
    return made


def test_a_second_time_everything_is_skipped(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(line.run, RunConfig()) == ["a", "b", "c"]
    assert execute(line.run, RunConfig()) == []
    assert line.done == ["a", "b", "c"]
    assert capsys.readouterr().err.count("done already") == 3


def test_a_changed_setting_does_its_stage_and_later_ones_again(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    execute(line.run, RunConfig())
    assert execute(line.run, RunConfig(name="other")) == ["c"]
    assert "done again: name local -> other" in capsys.readouterr().err
    assert execute(line.run, RunConfig(name="other", seed=5)) == ["a", "b", "c"]
    told = capsys.readouterr().err
    assert "done again: seed 0 -> 5" in told
    assert "done again: a was done again" in told


def test_changed_code_does_its_stage_again(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(line.run, RunConfig())
    monkeypatch.setattr(stages, "code_digest", lambda sources: "other")
    decision = decide(line.run, RunConfig(), stage_named("b"))
    assert (decision.verdict, decision.reason) == ("again", "its code changed")


def test_from_does_a_stage_again_and_until_stops(line: Line) -> None:
    execute(line.run, RunConfig())
    assert execute(line.run, RunConfig(), first="b", last="b") == ["b"]
    assert [s.name for s in select(line.run, RunConfig(), "b", None)] == ["b", "c"]
    assert execute(line.run, RunConfig()) == ["c"]


def test_a_stopped_stage_goes_on_with_its_own_work(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    line.broken.add("b")
    with pytest.raises(UserError, match="stopped"):
        execute(line.run, RunConfig())
    attempt = read_attempt(line.run, "b")
    assert attempt is not None
    assert attempt.attempts == 1
    (line.run.path("b", "kept")).write_text("x")
    line.broken.clear()
    assert execute(line.run, RunConfig()) == ["b", "c"]
    assert "going on where it was stopped (attempt 2)" in capsys.readouterr().err
    assert (line.run.root / "b" / "kept").exists()
    assert read_attempt(line.run, "b") is None


def test_what_a_stage_sorts_out_itself_outlives_other_settings(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trained model that is kept for another merge; done again because it was asked for, nothing is kept."""
    table = tuple(
        dataclasses.replace(stage, owns=(stage.name, f"{stage.name}-kept"), keeps=(f"{stage.name}-kept",))
        for stage in runner.STAGES
    )
    monkeypatch.setattr(runner, "STAGES", table)
    monkeypatch.setattr(stages, "STAGES", table)
    execute(line.run, RunConfig())
    kept = line.run.path("c-kept", "model")
    kept.write_text("x")
    assert execute(line.run, RunConfig(name="other")) == ["c"]
    assert kept.exists()
    execute(line.run, RunConfig(name="other"), first="c")
    assert not kept.exists()


def test_what_other_inputs_left_behind_is_removed(line: Line) -> None:
    line.broken.add("a")
    with pytest.raises(UserError, match="stopped"):
        execute(line.run, RunConfig())
    line.run.path("a", "kept").write_text("x")
    line.run.record("a.old", 1)
    line.broken.clear()
    execute(line.run, RunConfig(seed=2))
    assert not (line.run.root / "a" / "kept").exists()
    assert "a.old" not in line.run.figures()


def unfinished(line: Line) -> Path:
    """Stage b stopped with rows that it had paid for; returns their file."""
    line.broken.add("b")
    with pytest.raises(UserError, match="stopped"):
        execute(line.run, RunConfig())
    rows = line.run.path("b", ".work", "out", "block.parquet")
    rows.write_text("x")
    line.broken.clear()
    line.done.clear()
    return rows


def test_unfinished_rows_of_another_configuration_are_refused_before_anything_is_done(line: Line) -> None:
    rows = unfinished(line)
    with pytest.raises(RunError, match=r"b: .*unfinished work .*: domain automotive -> other; .*--name.*--fresh b set"):
        execute(line.run, RunConfig(domain="other"))
    with pytest.raises(RunError, match="a would be done again"):
        execute(line.run, RunConfig(seed=2))
    assert line.done == []
    assert rows.exists()
    assert execute(line.run, RunConfig()) == ["b", "c"]


def test_fresh_sets_unfinished_rows_aside_and_begins_anew(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    rows = unfinished(line)
    assert execute(line.run, RunConfig(domain="other"), fresh=["b"]) == ["b", "c"]
    assert not rows.exists()
    aside = line.run.root / "aside" / "b-000"
    assert (aside / "b" / ".work" / "out" / "block.parquet").read_text() == "x"
    assert f"what was there is in {aside}" in capsys.readouterr().err
    assert execute(line.run, RunConfig(domain="other"), fresh=["b"]) == ["b", "c"]
    assert (line.run.root / "aside" / "b-001").is_dir()
    with pytest.raises(ConfigError, match="stage=x is no stage"):
        execute(line.run, RunConfig(), fresh=["x"])


def test_how_work_is_done_may_be_changed_half_way() -> None:
    simulate = stage_named("simulate")
    config = RunConfig.model_validate(
        {"simulate": {"teacher": {"kind": "endpoint", "url": "http://x/v1", "name": "m"}}}
    )
    told = {"actors": {"min": 1, "max": 4}, "max_error_share": 0.5, "in_flight": 4, "block_rows": 2}
    teacher = {**config.simulate.teacher.model_dump(), "timeout_s": 5.0}
    system = {"call_timeout_s": 3.0}
    other = RunConfig.model_validate({"simulate": {**told, "teacher": teacher}, "system": system})
    assert simulate.settings(other) == simulate.settings(config)
    deciding = RunConfig.model_validate({"simulate": {"teacher": {**teacher, "temperature": 0.5}}})
    assert differences(simulate.settings(config), simulate.settings(deciding)) == [
        "simulate.teacher.temperature 0.0 -> 0.5"
    ]


def test_seconds_of_stopped_attempts_are_counted(line: Line) -> None:
    line.broken.add("b")
    with pytest.raises(UserError, match="stopped"):
        execute(line.run, RunConfig())
    file = line.run.root / "stages" / "b.running.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "seconds": 100.0}))
    line.broken.clear()
    execute(line.run, RunConfig())
    mark = line.run.completed("b")
    assert mark is not None
    assert mark.seconds > 100
    figures = line.run.figures()
    assert figures["run.stage.b.seconds"].value >= 100  # type: ignore[operator]
    assert figures["run.seconds"].value >= 100  # type: ignore[operator]


def test_only_one_process_works_on_a_run(line: Line) -> None:
    code = (
        "import sys; from agentmill.runs import Run; from cluster.runner import lock\n"
        "with lock(Run.open(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(line.run.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline().strip() == "held"
    with pytest.raises(RunError, match=rf"in use by process {other.pid} .*give this run another --name"):
        execute(line.run, RunConfig())
    other.kill()
    other.wait()
    with lock(line.run):
        pass


def test_too_little_memory_is_told_before_the_stage_starts(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineage, "memory_gib", lambda: 0.001)
    with pytest.raises(MemoryShortage, match="the stage a needs about"):
        execute(line.run, RunConfig())
    assert line.done == []


WHOLE = RunConfig.model_validate({"expand": {}, "cpt": {}, "dpo": {}, "drafter": {}, "quantize": {}})


def test_the_graph_is_in_order_and_owns_its_paths() -> None:
    seen: list[str] = []
    for stage in STAGES:
        assert set(needs_of(stage, WHOLE)) <= set(seen)
        assert set(needs_of(stage, RunConfig())) <= set(seen) - set(chain.SWITCHED_BY)
        seen.append(stage.name)
    owned = [path for stage in STAGES for path in stage.owns]
    assert len(owned) == len(set(owned))
    prefixes = [prefix for stage in STAGES for prefix in stage.figures]
    assert len(prefixes) == len(set(prefixes))
    assert seen == (
        "simulate gate refine corpora base expand cpt sft dpo responses drafter quantize evaluate report".split()
    )


def test_a_stage_builds_on_the_newest_model_before_it() -> None:
    def needs(config: RunConfig, name: str) -> list[str]:
        return needs_of(stage_named(name), config)

    assert needs(WHOLE, "expand") == ["base"]
    assert needs(WHOLE, "cpt") == ["corpora", "expand"]
    assert needs(WHOLE, "dpo") == ["corpora", "sft"]
    assert needs(WHOLE, "drafter") == ["responses", "dpo"]
    assert needs(WHOLE, "quantize") == ["corpora", "dpo", "drafter"]
    for changes in ({"drafter": None}, {"quantize": {"drafter": False}}):
        other = RunConfig.model_validate({**WHOLE.model_dump(), **changes})
        assert needs(other, "quantize") == ["corpora", "dpo"]
    assert needs(RunConfig.model_validate({"drafter": {}}), "responses") == ["corpora", "sft"]
    assert needs(RunConfig(), "sft") == ["corpora", "base"]
    assert needs(RunConfig.model_validate({"expand": {}}), "sft") == ["corpora", "expand"]
    assert [name for name in needs(RunConfig(), "evaluate") if name in chain.MADE] == ["base", "sft"]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_every_stage_knows_its_code(stage: Stage) -> None:
    assert len(code_digest(stage.sources)) == 32
    assert json.dumps(stage.settings(RunConfig()))
    assert json.dumps(stage.settings(WHOLE))


def test_differences_name_the_key_and_both_values() -> None:
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 4}) == ["a.c 2 -> 3", "d None -> 4"]


@pytest.fixture
def chained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Line:
    """Stages named as some of the real ones: base, cpt, sft, evaluate."""
    made = Line(Run.create(tmp_path / "one", {}, "test"))
    table = tuple(
        dataclasses.replace(made.stage(name, needs), settings=lambda c: {})
        for name, needs in (
            ("base", ()), ("cpt", (MODEL,)), ("sft", (MODEL,)), ("evaluate", ("base", "cpt", "sft")),
        )
    )  # fmt: skip
    monkeypatch.setattr(runner, "STAGES", table)
    monkeypatch.setattr(stages, "STAGES", table)
    return made


WITH = RunConfig.model_validate({"cpt": {}})


def test_a_stage_that_is_null_is_passed_by(chained: Line, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(chained.run, RunConfig()) == ["base", "sft", "evaluate"]
    assert "left out: cpt is null in the configuration" in capsys.readouterr().err
    assert not (chained.run.root / "aside").exists()
    assert execute(chained.run, RunConfig()) == []
    for end in ("first", "last"):
        with pytest.raises(ConfigError, match="cpt is null in the configuration"):
            execute(chained.run, RunConfig(), **{end: "cpt"})
    assert execute(chained.run, RunConfig(), first="sft", last="sft") == ["sft"]


def test_a_stage_that_comes_in_moves_those_after_it(chained: Line, capsys: pytest.CaptureFixture[str]) -> None:
    execute(chained.run, RunConfig())
    assert execute(chained.run, WITH) == ["cpt", "sft", "evaluate"]
    assert "done again: it builds on cpt now; it builds on base no more" in capsys.readouterr().err


def test_a_stage_that_goes_out_leaves_its_work_aside_and_no_figure(
    chained: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    execute(chained.run, WITH)
    assert execute(chained.run, RunConfig()) == ["sft", "evaluate"]
    aside = chained.run.root / "aside" / "cpt-000"
    assert f"what was there is in {aside}" in capsys.readouterr().err
    assert (aside / "cpt" / "part").is_file()
    assert chained.run.completed("cpt") is None
    assert "cpt.value" not in chained.run.figures()


def test_how_a_stage_is_watched_and_what_it_tolerates_does_not_do_it_again() -> None:
    plain = RunConfig.model_validate({"dpo": {}})
    other = RunConfig.model_validate(
        {"dpo": {"log_every_steps": 9}, "sft": {"save_every_steps": 7}, "evaluate": {"max_error_share": 0.5}}
    )
    for name in ("sft", "dpo", "evaluate"):
        assert stage_named(name).settings(other) == stage_named(name).settings(plain)
    named = RunConfig.model_validate({"dpo": {}, "evaluate": {"models": ["dpo"]}})
    assert stage_named("evaluate").settings(named) == stage_named("evaluate").settings(plain)  # the final one is dpo
