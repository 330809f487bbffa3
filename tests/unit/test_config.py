"""Strict YAML: numbers, unknown keys, overrides, and what a user is told."""

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field

from agentmill.config import ConfigError, Strict, load_yaml, nearest, override, validate
from cluster.config import RunConfig, read_config

CONFIGS = sorted(Path(__file__).parents[2].joinpath("configs").glob("*.yaml"))


class Inner(Strict):
    learning_rate: float = Field(1e-4, gt=0)
    steps: int | None = None
    kind: Literal["cpu", "gpu"] = "cpu"


class Outer(Strict):
    name: str
    inner: Inner = Inner()


def test_yaml_is_read_as_version_1_2(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("rate: 1e-5\nanswer: no\noctal: 012\n")
    assert load_yaml(file) == {"rate": 1e-5, "answer": "no", "octal": 12}


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "local.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"no such configuration file \(did you mean .*local.yaml\?\)"):
        load_yaml(tmp_path / "locl.yaml")


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2\n", "a: 1\na: 2\n"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"a\.yaml"):
        load_yaml(file)


def test_overrides_reach_into_mappings_and_leave_the_original() -> None:
    data = {"inner": {"steps": 1}}
    assert override(data, ["inner.learning_rate=1e-3", "name=x", "new.key=[1, 2]", "none="]) == {
        "inner": {"steps": 1, "learning_rate": 1e-3},
        "name": "x",
        "new": {"key": [1, 2]},
        "none": None,
    }
    assert data == {"inner": {"steps": 1}}


@pytest.mark.parametrize("assignment", ["inner.steps", "=3", "a..b=1", "name.x=1"])
def test_an_assignment_that_is_none_is_refused(assignment: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        override({"name": "x"}, [assignment])


def test_an_unknown_key_names_its_nearest_neighbour() -> None:
    with pytest.raises(ConfigError, match=r"inner\.lerning_rate is no known key; did you mean inner\.learning_rate\?"):
        validate(Outer, {"name": "x", "inner": {"lerning_rate": 1}}, "f.yaml")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"name": "x", "inner": {"steps": "many"}}, r"inner\.steps='many': .*valid integer.*--set inner\.steps=VALUE"),
        ({"name": "x", "inner": {"learning_rate": -1}}, r"inner\.learning_rate=-1: .*greater than 0"),
        ({"name": "x", "inner": {"kind": "tpu"}}, r"inner\.kind='tpu': .*'cpu' or 'gpu'"),
        ({"name": 3}, r"name=3: .*valid string"),
        ({}, r"name is missing and has no default; add it"),
    ],
)
def test_a_wrong_value_is_told_with_field_value_rule_and_remedy(data: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        validate(Outer, data, "f.yaml")


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        validate(Outer, {"nam": "x", "inner": {"steps": "a"}}, "f.yaml")
    assert len(str(caught.value).splitlines()) == 3


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Inner().steps = 3  # type: ignore[misc]


def test_nearest_knows_beginnings() -> None:
    assert nearest("sim", ["simulate", "sft"]) == "simulate"
    assert nearest("zzz", ["simulate"]) is None


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_every_shipped_configuration_is_valid(file: Path) -> None:
    config = read_config(file)
    assert validate(RunConfig, config.resolved(), "resolved") == config


def test_a_run_configuration_says_which_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.public=.*no such file; give a JSONL or Parquet file"):
        validate(RunConfig, {"data": {"public": str(tmp_path / "none.jsonl")}}, "f.yaml")


def test_an_unknown_domain_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("domain: automotiv\n")
    with pytest.raises(ConfigError, match=r"domain='automotiv': no such domain pack; did you mean automotive\?"):
        read_config(file)
    with pytest.raises(ConfigError, match=r"domain='a b'"):
        validate(RunConfig, {"domain": "a b"}, "f.yaml")
