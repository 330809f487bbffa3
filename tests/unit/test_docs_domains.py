"""docs/domains.md is followed to the letter: its edits apply, and after each the check says what the page says."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.domains import check_pack
from cluster.skeleton import new_pack, next_steps

PAGE = (Path(__file__).parents[2] / "docs" / "domains.md").read_text(encoding="utf-8")
NAME = "repair_desk"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder, and Python's path as it was afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    forget()


def forget() -> None:
    """Let the pack be imported anew, from source: an edit within a second has the age that the cached code has."""
    for name in [name for name in sys.modules if name.partition(".")[0] == NAME]:
        del sys.modules[name]


def apply(diff: str, folder: Path) -> None:
    """Apply the hunks of a block: each replaces its lines without `+` by those without `-`, in the one place."""
    for part in re.split(r"^--- ", diff, flags=re.MULTILINE)[1:]:
        name, _, hunks = part.partition("\n")
        file = folder / name
        for hunk in re.split(r"^@@\n", hunks, flags=re.MULTILINE):
            lines = hunk.splitlines(keepends=True)
            old = "".join(line[1:] or "\n" for line in lines if line[0] in " -")
            new = "".join(line[1:] or "\n" for line in lines if line[0] in " +")
            text = file.read_text(encoding="utf-8")
            assert text.count(old) == 1, f"{name} does not hold once:\n{old}"
            file.write_text(text.replace(old, new), encoding="utf-8")


def told(console: str) -> list[str] | None:
    """What a block says that the check finds, None where it does not run the check."""
    if f"$ agentmill domain check {NAME}" not in console:
        return None
    return [" ".join(line.split()[1:]) for line in console.splitlines() if line.startswith("ERROR")]


def test_the_page_can_be_followed_to_the_letter(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    new_pack(NAME, here)
    checks = []
    for kind, text in BLOCK.findall(PAGE):
        if kind == "diff":
            apply(text, here)
        expected = told(text) if kind == "console" else None
        if expected is not None:
            forget()
            found = [" ".join(f"{finding.about} {finding.sentence}".split()) for finding in check_pack(NAME)]
            assert found == expected
            checks.append(len(found))
    assert checks == [0, 1, 2, 0]


def test_the_page_shows_the_commands_that_the_command_names(here: Path) -> None:
    assert all(step in PAGE for step in next_steps(NAME, Path(".")))
    assert "`agentmill domain check NAME` ends with 1" in PAGE
