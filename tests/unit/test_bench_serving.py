"""`agentmill bench serving`: what is measured beside what and in which order, and the configurations it is told."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from agentmill.agents.settings import TeamSettings
from agentmill.config import ConfigError, UserError
from agentmill.models.chat import ChatReply, ChatRequest, Message
from agentmill.runs import Run
from benchmarks.serving import (
    CALLS,
    Configuration,
    Extent,
    Measured,
    Work,
    _group,
    altered,
    groups,
    without,
)
from cluster import chain
from cluster.config import RunConfig
from cluster.serving_benches import Asked, _chosen, numbers
from rayserve.answers import EngineCounts
from rayserve.settings import ModelEngine, Speculative
from tests.fakes import library, reply
from tests.measured import ENGINE, cell, ladder, rates

NGRAM = ModelEngine(model="student", speculative=Speculative(method="ngram", tokens=3, tokens_by_batch={4: 3, 8: 1}))

# What is compared with what.


def test_a_ratio_is_of_the_same_repeat_and_not_of_medians() -> None:
    """The machine's speed changed between the repeats, for both."""
    made = Measured([Configuration(name, ENGINE) for name in ("bf16", "fast")])
    made.cells[CALLS, "bf16", 1] = cell(rates(10, 1, 4))
    made.cells[CALLS, "fast", 1] = cell(rates(20, 5, 4))  # medians: 5 of 4
    ratio = made.ratio("fast", "bf16", 1)
    assert ratio is not None
    assert [ratio.value, ratio.n, *ratio.interval] == pytest.approx([2.0, 3, 1.0, 5.0])


def test_a_ratio_is_of_the_same_group() -> None:
    """The anchor is measured in both groups, the second of them on a slower machine."""
    made = Measured([Configuration(name, ENGINE) for name in ("bf16", "first", "second")])
    made.cells[CALLS, "bf16", 1] = cell({**rates(10, 10), **rates(2, 2, group=1)})
    made.cells[CALLS, "first", 1] = cell(rates(5, 5))
    made.cells[CALLS, "second", 1] = cell(rates(3, 3, group=1))
    ratios = [made.ratio(name, "bf16", 1) for name in ("first", "second")]
    assert [number for one in ratios if one for number in (one.value, one.n)] == pytest.approx([0.5, 2, 1.5, 2])
    assert made.ratio("first", "second", 1) is None
    assert made.ratio("first", "bf16", 4) is None


def test_answers_are_compared_with_those_of_the_undrafted_one() -> None:
    measured = ladder()
    assert measured.equal(1) == (5, 6)  # of drafted two of three, of drafted_quantized all
    alone = Measured([one for one in measured.configurations if one.same_as is None], measured.cells)
    assert alone.equal(1) == (0, 0)
    assert measured.equal(2) == (0, 0)


def test_what_is_left_out_is_compared_with_nothing() -> None:
    same_as = {"bf16": None, "quantized": None, "drafted": "bf16", "drafted_quantized": "quantized"}
    all_four = [Configuration(name, ENGINE, other, 8) for name, other in same_as.items()]
    kept = without(all_four, ["drafted_quantized", "drafted", "bf16"])
    assert [(one.name, one.same_as) for one in kept] == [
        ("bf16", None), ("drafted", "bf16"), ("drafted_quantized", None),
    ]  # fmt: skip
    assert {one.most_in_flight for one in kept} == {8}


class Engine:
    """Answers at once, counts its tokens, and notes in `told` which engine was asked to forget."""

    def __init__(self, name: str, told: list[str]) -> None:
        self.name, self.told, self.generated = name, told, 0

    async def complete(self, request: ChatRequest) -> ChatReply:
        self.generated += 3
        return reply("as you say")

    async def counts(self) -> EngineCounts:
        return EngineCounts(generated=self.generated)

    async def forget(self) -> None:
        self.told.append(self.name)


def replayed(most: Mapping[str, int | None], extent: Extent) -> tuple[list[str], Measured]:
    """Engines of these names, each measured up to so many in flight: who was asked in which order, and the cells."""
    told: list[str] = []
    group = [Configuration(name, ENGINE, most_in_flight=limit) for name, limit in most.items()]
    engines: Any = {name: Engine(name, told) for name in most}
    calls = [ChatRequest(agent="planner", messages=(Message(role="user", content=str(n)),)) for n in range(20)]
    measured = Measured(group)
    asyncio.run(_group(measured, 2, group, engines, Work(library(), TeamSettings(), calls, []), extent))
    return told, measured


def test_engines_are_asked_in_turn_and_forget_before_each_replay() -> None:
    told, found = replayed({"a": None, "b": None, "slow": 1}, Extent((1, 5), (), calls=8, rounds=2, repeats=3))
    assert told == ["a", "b", "slow", "b", "slow", "a", "slow", "a", "b", *["a", "b"], *["b", "a"], *["a", "b"]]
    assert found.cell(CALLS, "slow", 5) is None
    for (_, _, in_flight), one in found.cells.items():
        assert set(one.samples) == set(one.counts) == {(2, 0), (2, 1), (2, 2)}
        count = {1: 8, 5: 10}[in_flight]
        assert {len(each.texts) for each in one.samples.values()} == {count}
        assert {each.generated for each in one.counts.values()} == {3 * count}  # of this replay alone


def test_where_nobody_is_to_be_measured_nothing_is() -> None:
    assert replayed({"slow": 4}, Extent((8,), (), calls=8, rounds=1, repeats=2))[1].cells == {}


# Memory.


def weighing(folder: Path, name: str, gib: float) -> Configuration:
    """A configuration whose weights have so many bytes, none of them on the disk."""
    (folder / name).mkdir()
    with (folder / name / "model.safetensors").open("wb") as file:
        file.truncate(int(gib * 2**30))
    return Configuration(name, ModelEngine(model=str(folder / name)))


def test_engines_stand_together_where_memory_holds_them_and_else_every_group_has_the_anchors(tmp_path: Path) -> None:
    made = [weighing(tmp_path, name, 2.0) for name in ("bf16", "a", "b", "fastest", "c")]
    need = made[0].need_gib
    assert need > 2.0

    def named(free_gib: float) -> list[list[str]]:
        return [[one.name for one in group] for group in groups(made, ["bf16", "fastest"], free_gib)]

    assert named(5.1 * need) == [["bf16", "fastest", "a", "b", "c"]]
    assert named(4.1 * need) == [["bf16", "fastest", "a", "b"], ["bf16", "fastest", "c"]]
    assert named(3.1 * need) == [["bf16", "fastest", "a"], ["bf16", "fastest", "b"], ["bf16", "fastest", "c"]]
    assert groups(made[:1], ["bf16"], need) == [made[:1]]


def test_one_that_does_not_fit_beside_the_anchors_is_refused_by_name(tmp_path: Path) -> None:
    made = [weighing(tmp_path, name, size) for name, size in (("bf16", 0.5), ("small", 0.5), ("large", 9.0))]
    told = rf"large needs about {made[2].need_gib:.1f} GiB .* bf16 beside it .*10\.0 GiB is free.*--variant"
    with pytest.raises(UserError, match=told):
        groups(made, ["bf16"], 10.0)


def test_a_drafter_takes_memory_too(tmp_path: Path) -> None:
    model, drafter = (weighing(tmp_path, name, 1.0) for name in ("model", "drafter"))
    eagle = Speculative(method="eagle3", model=drafter.engine.model)
    both = Configuration("both", model.engine.model_copy(update={"speculative": eagle}))
    assert both.need_gib - model.need_gib == pytest.approx(drafter.need_gib - weighing(tmp_path, "none", 0).need_gib)


def test_a_replay_has_some_rounds_of_calls_and_no_fewer_than_asked_for() -> None:
    extent = Extent((1, 6, 32), (), calls=48, rounds=2, repeats=1)
    assert [extent.calls_at(c) for c in (1, 24, 25, 32)] == [48, 48, 50, 64]
    assert extent.most_calls == 64


# Settings.


def test_settings_of_an_engine_and_of_its_drafter_are_changed() -> None:
    changed = altered(NGRAM, ["max_num_seqs=8", "speculative.tokens=5", "vllm.seed=1"], "--with x")
    assert changed.speculative == Speculative(method="ngram", tokens=5, tokens_by_batch={4: 3, 8: 1})
    assert (changed.max_num_seqs, changed.vllm, changed.model) == (8, {"seed": 1}, "student")
    drafting = altered(ENGINE, ["speculative={method: ngram, tokens: 2}"], "--with x").speculative
    assert drafting == Speculative(method="ngram", tokens=2)
    assert NGRAM.max_num_seqs == ModelEngine(model="x").max_num_seqs


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("speculative.token=5", "--with x: .*did you mean (speculative.)?tokens"),
        ("max_seqs=5", "--with x: .*did you mean max_num_seqs"),
        ("speculative.tokens=99", "--with x: speculative.tokens=99"),
        ("speculative.tokens=2", "--with x: .*change the entry of 4, or raise tokens"),
    ],
)
def test_a_setting_that_is_not_known_or_wrong_is_told_with_the_option(assignment: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        altered(NGRAM, [assignment], "--with x")


def test_numbers_are_read_rising_and_once() -> None:
    assert numbers("--concurrency", "6, 1,16,6") == (1, 6, 16)
    assert numbers("--conversing", "") == ()
    for wrong in ("1,two", "0,1", "-1", "1.5"):
        with pytest.raises(ConfigError, match=rf"--concurrency {wrong} is no list .* --concurrency 1,6,16"):
            numbers("--concurrency", wrong)


# What a run has.


@pytest.fixture
def trained(tmp_path: Path) -> Run:
    """A run with an 8-bit model and a drafter."""
    config = RunConfig.model_validate({"drafter": {"draft_tokens": 4}, "quantize": {}})
    run = Run.create(tmp_path / "trained", config.resolved(), "test")
    for name in (chain.newest(config), "quantized", "drafter", "drafter_quantized"):
        run.path("models", name, "x").parent.mkdir(exist_ok=True)
    return run


def chosen(run: Run, *also: str, variants: Sequence[str] = (), **changes: object) -> dict[str, Configuration]:
    config = RunConfig.model_validate({**run.manifest["config"], **changes})
    asked = Asked(variants, also, Extent((1,), (), 1, 1, 1), 1, None, most_teacher=6)
    return {one.name: one for one in _chosen(run, config, "demo", asked, run.root / "bench")}


def test_a_run_s_variants_are_configurations_and_drafted_ones_answer_as_their_undrafted(
    trained: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    found = chosen(trained)
    models = trained.root / "models"
    newest = models / chain.newest(RunConfig.model_validate(trained.manifest["config"]))
    assert {name: one.same_as for name, one in found.items()} == {
        "bf16": None, "quantized": None, "drafted": "bf16", "drafted_quantized": "quantized",
    }  # fmt: skip
    assert [Path(one.engine.model) for one in found.values()] == [newest, models / "quantized"] * 2
    eagle = Speculative(method="eagle3", tokens=4, model=str(models / "drafter"))
    in_8_bits = eagle.model_copy(update={"model": str(models / "drafter_quantized")})
    assert [one.engine.speculative for one in found.values()] == [None, None, eagle, in_8_bits]
    (models / "quantized").rmdir()
    assert list(chosen(trained)) == ["bf16", "drafted"]
    assert "drafted_quantized is left out" in capfd.readouterr().err


def test_an_inflated_run_has_the_same_engines_of_inflated_models_and_a_teacher(trained: Run) -> None:
    made = trained.root / "bench" / "inflated"
    for name in ("teacher", "bf16", "quantized", "drafter", "drafter_quantized"):
        (made / name).mkdir(parents=True)  # by an earlier bench
    config = RunConfig.model_validate({**trained.manifest["config"], "serve": {"engine": {"max_num_seqs": 7}}})
    asked = Asked([], [], Extent((1,), (), 1, 1, 1), 1, None, most_teacher=6)
    found = {one.name: one for one in _chosen(trained, config, "inflated", asked, trained.root / "bench")}
    assert {name: Path(one.engine.model) for name, one in found.items()} == {
        "teacher": made / "teacher", "bf16": made / "bf16", "quantized": made / "quantized",
        "drafted": made / "bf16", "drafted_quantized": made / "quantized",
    }  # fmt: skip
    assert {name: one.engine.speculative.model for name, one in found.items() if one.engine.speculative} == {
        "drafted": str(made / "drafter"), "drafted_quantized": str(made / "drafter_quantized"),
    }  # fmt: skip
    assert {name: one.most_in_flight for name, one in found.items() if one.most_in_flight} == {"teacher": 6}
    assert {one.engine.max_num_seqs for one in found.values()} == {7}


def test_variants_are_chosen_and_one_that_the_run_has_not_is_refused(trained: Run) -> None:
    assert [(one.name, one.same_as) for one in chosen(trained, variants=["drafted", "quantized"]).values()] == [
        ("quantized", None), ("drafted", None),
    ]  # fmt: skip
    with pytest.raises(
        ConfigError, match=r"--variant quantised: did you mean quantized\? .* has bf16, quantized, draf"
    ):
        chosen(trained, variants=["bf16", "quantised"])
    with pytest.raises(ConfigError, match="--variant teacher: the run trained has bf16"):
        chosen(trained, variants=["teacher"])


def test_a_run_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no models/\w+ yet; finish it with `agentmill run`"):
        chosen(Run.create(tmp_path / "new", RunConfig().resolved(), "test"))


def test_further_configurations_are_variants_with_other_settings(trained: Run) -> None:
    found = chosen(
        trained,
        "five:drafted_quantized,speculative.tokens=5,max_num_seqs=8",
        "by-batch:drafted,speculative.tokens_by_batch={4: 4, 16: 1},block_size=16",
        "ngram:bf16,speculative={method: ngram, tokens: 2}",
        "again:quantized",
        variants=["bf16", "drafted_quantized"],
    )
    assert list(found) == ["bf16", "drafted_quantized", "five", "by-batch", "ngram", "again"]
    before, five = found["drafted_quantized"].engine, found["five"].engine
    assert before.speculative is not None and five.speculative is not None
    assert five.speculative == before.speculative.model_copy(update={"tokens": 5})
    assert (five.max_num_seqs, five.model) == (8, before.model)
    assert found["five"].same_as is None  # quantized is not measured
    by_batch = found["by-batch"]
    assert by_batch.same_as == "bf16"
    assert by_batch.engine.speculative is not None and by_batch.engine.block_size == 16
    assert by_batch.engine.speculative.tokens_by_batch == {4: 4, 16: 1}
    assert found["ngram"].engine.speculative == Speculative(method="ngram", tokens=2)
    assert found["again"].engine.model == str(trained.root / "models" / "quantized")


@pytest.mark.parametrize(
    ("also", "told"),
    [
        (["five"], r"--with five: write NAME:VARIANT,FIELD=VALUE"),
        (["five:sft,max_num_seqs=8"], "with a name of your own and one of bf16, quantized"),
        ([":drafted"], "with a name of your own"),
        (["bf16:drafted"], "with a name of your own"),
        (["a/b:drafted"], "with a name of your own"),
        (["five:drafted", "five:quantized"], "--with five:quantized: write NAME"),
        (["five:drafted,speculative.tokns=5"], "--with five:drafted,speculative.tokns=5: .*did you mean"),
        (["five:drafted,max_num_seqs"], "is no assignment"),
    ],
)
def test_a_further_configuration_that_cannot_be_meant_is_refused(trained: Run, also: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        chosen(trained, *also)
