"""`agentmill domain new`: a pack of a name that nothing else has, whole or not at all, and in good order."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentmill.config import ConfigError, load_yaml, validate
from cluster.cli import app
from cluster.config import RunConfig
from cluster.skeleton import new_pack, rendered

ROOT = Path(__file__).parents[2]


def test_a_pack_and_its_configuration_are_written_and_the_next_commands_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["domain", "new", "dent_desk", "--into", "my packs"])
    assert done.exit_code == 0, done.output
    written = sorted(path.name for path in (tmp_path / "my packs").iterdir())
    assert written == ["dent_desk", "dent_desk.yaml"]
    steps = ["cd 'my packs'", "agentmill domain check dent_desk", "python -m pytest dent_desk"]
    assert [line.strip() for line in done.stdout.splitlines()][3:6] == steps
    config = validate(RunConfig, load_yaml(tmp_path / "my packs" / "dent_desk.yaml"), "it")
    assert (config.name, config.domain) == ("dent_desk", "dent_desk")


@pytest.mark.parametrize("name", ["Bikes", "bike-shop", "2bikes", "bike__shop", "_bikes", "class", "match", "", "a.b"])
def test_a_name_that_is_no_package_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="use small letters, digits and single underscores"):
        new_pack(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["json", "numpy", "agentmill", "cluster", "automotive"])
def test_a_name_that_something_else_has_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"take another, such as {name}_desk"):
        new_pack(name, tmp_path)


@pytest.mark.parametrize("there", ["dent_desk", "dent_desk.yaml"])
def test_what_is_there_already_is_not_touched(there: str, tmp_path: Path) -> None:
    (tmp_path / there).write_text("mine")
    with pytest.raises(ConfigError, match="is there already and is not touched"):
        new_pack("dent_desk", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "mine"


def test_the_new_pack_is_small_formatted_and_without_findings_of_the_linter(tmp_path: Path) -> None:
    new_pack("dent_desk", tmp_path)
    ruff = [str(Path(sys.executable).with_name("ruff")), "--isolated"]
    for command in ("check --select E,F,W,I,B,UP,SIM,C4,RUF", "format --check"):
        done = subprocess.run(
            [*ruff, *command.split(), "--line-length", "120", "."], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    lines = sum(text.count("\n") for file, text in rendered("dent_desk").items() if file.endswith(".py"))
    assert lines < 650


def test_the_new_packs_own_tests_pass(tmp_path: Path) -> None:
    new_pack("dent_desk", tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "dent_desk"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
