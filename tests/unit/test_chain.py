"""The chain of models: which there are, which is the newest, and what is said where one is not there."""

from pathlib import Path
from typing import Any

import pytest

from agentmill.config import ConfigError, validate
from agentmill.runs import Run, RunError
from cluster import chain
from cluster.config import RunConfig
from cluster.serving import settings_for


def configured(**settings: Any) -> RunConfig:
    return validate(RunConfig, settings, "test")


EVERY = configured(expand={}, cpt={}, dpo={})


def made(folder: Path, config: RunConfig, *models: str) -> Run:
    run = Run.create(folder, config.resolved(), "test")
    for model in models:
        run.path("models", model, "x").write_text("")
    return run


def test_each_stage_starts_from_the_newest_model_before_it() -> None:
    assert chain.models(EVERY) == ["base", "expanded", "cpt", "sft", "dpo"]
    assert [chain.start_of(EVERY, stage) for stage in chain.TRAINED] == ["expanded", "cpt", "sft"]
    assert chain.start_of(configured(expand={}), "sft") == "expanded"
    assert chain.start_of(configured(dpo={}), "sft") == "base"
    assert chain.newest(configured(cpt={})) == "sft"


@pytest.mark.parametrize(
    ("asked", "played"),
    [
        ("final", ["dpo"]),
        ("all", ["base", "cpt", "sft", "dpo"]),
        (["dpo", "base"], ["base", "dpo"]),
        (["expanded"], ["expanded"]),
    ],
)
def test_the_models_that_are_evaluated_are_in_the_order_of_the_chain(asked: Any, played: list[str]) -> None:
    assert chain.evaluated(configured(expand={}, cpt={}, dpo={}, evaluate={"models": asked})) == played


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["cpt"], r"cpt is no model of this run \(cpt is null, so that it is left out\); .*it makes base, sft"),
        (["sfd"], r"sfd is no model of this run; did you mean sft\?"),
        ([], "at least 1 item"),
    ],
)
def test_a_model_that_the_run_does_not_make_is_refused(asked: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        configured(evaluate={"models": asked})


def test_the_newest_model_is_served_and_another_by_name(tmp_path: Path) -> None:
    config = configured(dpo={})
    run = made(tmp_path / "one", config, "base", "sft", "dpo")
    assert settings_for(run, None, [], None)[1] == run.root / "models" / "dpo"
    assert settings_for(run, None, [], None, "sft")[1] == run.root / "models" / "sft"
    assert settings_for(run, None, [], tmp_path)[1] == tmp_path
    assert settings_for(run, None, ["serve.model.kind=expert"], None)[1] is None
    with pytest.raises(ConfigError, match="leave out --model and --config"):
        settings_for(run, None, [], tmp_path, "sft")
    with pytest.raises(ConfigError, match="--stage expanded is no model of this run"):
        settings_for(run, None, [], None, "expanded")


def test_a_model_that_is_not_there_yet_is_not_replaced_in_silence(tmp_path: Path) -> None:
    config = configured(dpo={})
    with pytest.raises(RunError, match=r"has no models/dpo yet; .*, or take --stage sft"):
        chain.model_of(made(tmp_path / "one", config, "base", "sft"), config)
    with pytest.raises(RunError, match=r"has no models/dpo yet; finish it with `agentmill run`$"):
        chain.model_of(made(tmp_path / "two", config), config)


def test_the_newest_model_is_served_in_8_bits_and_with_its_drafter(tmp_path: Path) -> None:
    fast = configured(drafter={"draft_tokens": 2}, quantize={}, evaluate={"models": "all"})
    assert chain.evaluated(fast) == ["base", "sft", "drafted_quantized"]
    assert chain.variants(configured(quantize={})) == ["quantized"]
    named = {"models": ["drafted", "sft"]}
    assert chain.evaluated(configured(drafter={}, evaluate=named)) == ["sft", "drafted"]
    with pytest.raises(ConfigError, match=r"drafted is no model of this run; .*it makes base, sft, quantized"):
        configured(quantize={}, evaluate=named)
    run = made(tmp_path / "one", fast, "base", "sft", "quantized", "drafter", "drafter_quantized")
    settings, folder = settings_for(run, None, [], None, "drafted_quantized")
    assert folder == run.root / "models" / "quantized"
    drafting = settings.serve.engine.speculative
    assert drafting is not None
    drafter = str(run.root / "models" / "drafter")
    assert (drafting.method, drafting.tokens, drafting.model) == ("eagle3", 2, f"{drafter}_quantized")
    settings, folder = settings_for(run, None, [], None, "drafted")
    assert folder == run.root / "models" / "sft"
    assert settings.serve.engine.speculative == drafting.model_copy(update={"model": drafter})
    assert settings_for(run, None, [], None)[0].serve.engine.speculative is None
    without = configured(drafter={}, quantize={"drafter": False})
    assert chain.parts_of(without, "drafted_quantized") == ["quantized", "drafter"]
    with pytest.raises(RunError, match=r"has no models/drafter_quantized yet"):
        chain.model_of(made(tmp_path / "two", fast, "sft", "quantized", "drafter"), fast, "drafted_quantized")
