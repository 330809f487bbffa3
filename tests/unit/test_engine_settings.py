"""Models by configuration: which engines a run has, who names them, and what tells their answers apart."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from agentmill.config import ConfigError
from agentmill.runs import Run
from cluster.config import RunConfig
from cluster.engines import engine_inputs, playing, served_as
from cluster.stages import inputs_of, stage_named
from rayserve.settings import ModelEngine
from simulation.models import ModelSettings, StartedModel, build_model
from tests.fakes import library

ENGINE = {"kind": "engine", "name": "big"}


def config(**fields: object) -> RunConfig:
    return RunConfig.model_validate({"engines": {"big": {"model": "org/big"}}, **fields})


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (
            {"simulate": {"user": {**ENGINE, "name": "small"}}},
            r"simulate\.user\.name=small is none of `engines` \(big\)",
        ),
        ({"refine": {"judge": {"kind": "engine"}}}, "kind=engine needs the name of one of the run's `engines`"),
        ({"evaluate": {"user": ENGINE}}, r"evaluate\.user\.kind=engine: the student is served meanwhile"),
        ({"engines": {"a/b": {"model": "m"}}}, "pattern"),
        ({"engines": {"a": {"model": "m", "replicas": 3, "max_replicas": 2}}}, "max_replicas=2 is below replicas=3"),
    ],
)
def test_engines_that_cannot_be_meant_are_refused(fields: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        config(**fields)


def test_what_an_engine_answers_is_told_by_its_model_and_not_by_its_address_or_size(tmp_path: Path) -> None:
    one = ModelEngine(model="org/big")
    assert served_as(one) == served_as(one.model_copy(update={"max_replicas": 4, "target_ongoing_requests": 8}))
    others = {served_as(one.model_copy(update=change)) for change in ({"model": "b"}, {"dtype": "float32"})}
    assert len(others | {served_as(one)}) == 3
    settings = ModelSettings(kind="engine", name="big", temperature=0.7)
    at = [settings.started(f"http://127.0.0.1:{port}/big/v1", served_as(one)) for port in (1, 2)]
    assert at[0].identity == at[1].identity and at[0].server != at[1].server
    assert isinstance(at[0], StartedModel) and at[0].prompts == "full"
    (tmp_path / "model.safetensors").write_bytes(b"1")
    local = ModelEngine(model=str(tmp_path))
    before = served_as(local)
    (tmp_path / "model.safetensors").write_bytes(b"12")
    assert served_as(local) != before


def test_a_stage_depends_on_the_engines_that_its_models_name(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {}, "test")
    used, unused = config(simulate={"user": ENGINE}), config()
    other = RunConfig.model_validate({**used.resolved(), "engines": {"big": {"model": "org/other"}}})
    digests = [inputs_of(stage_named("simulate"), run, one)["settings"].get("engines") for one in (used, other, unused)]
    assert digests[0] != digests[1] and digests[2] is None
    assert engine_inputs(used.engines, used.simulate.teacher) == {}


def test_models_that_are_no_engines_are_handed_on_and_nothing_is_started() -> None:
    settings = config().simulate
    with playing({}, settings.teacher, settings.user) as models:
        assert models == [settings.teacher, settings.user]


def test_an_engine_that_nobody_started_is_told() -> None:
    with pytest.raises(ConfigError, match="kind=engine, name=big: only the stages simulate, refine"):
        build_model(ModelSettings(kind="engine", name="big"), library())
