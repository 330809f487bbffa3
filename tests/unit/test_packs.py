"""Domain packs by name: found wherever they lie, and refused with a message that says what is wrong with which."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentmill.config import ConfigError
from agentmill.domains.automotive import build
from agentmill.domains.base import RESERVED_KEYS, Domain, Entity, Intent, Json, Rule, load_domain, tool
from agentmill.domains.consistency import CORE_CODES, inconsistencies
from agentmill.domains.packs import known_packs, pack_files, pack_module
from agentmill.runs import Run
from cluster.config import RunConfig
from cluster.stages import STAGES, inputs_of, pack_digest

GOOD = "from agentmill.domains.automotive import build\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current directory; what is imported from it is forgotten afterwards."""
    import sys

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def pack(folder: Path, text: str) -> None:
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(text)


def refused(name: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_domain(name)
    return str(caught.value)


def test_a_pack_that_ships_comes_first_and_one_that_lies_here_is_found(here: Path) -> None:
    pack(here / "automotive", "raise RuntimeError('the wrong one')\n")
    pack(here / "bikes_here", GOOD)
    pack(here / "acme" / "bikes", GOOD)
    (here / "acme" / "__init__.py").write_text("")
    assert load_domain("automotive").name == "automotive"
    assert pack_module("automotive") == "agentmill.domains.automotive"
    assert load_domain("bikes_here").title == load_domain("acme.bikes").title == "Northgate Motors"
    assert {"automotive", "bikes_here"} <= set(known_packs())
    assert not {"acme", "kit"} & set(known_packs())


def test_a_name_that_no_pack_has_names_the_nearest(here: Path) -> None:
    pack(here / "bike_desk", GOOD)
    assert "no such domain pack; did you mean bike_desk? there are: automotive, bike_desk" in refused("bikedesk")
    assert "no such domain pack" in refused("bike_desk.inner")
    assert "no such domain pack" in refused("acme.bikes")
    assert "is no name of a Python package" in refused("../bikes")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1\n", "has no function build()"),
        ("import no_such_dependency\n", "its import fails with ModuleNotFoundError: No module named 'no_such_dep"),
        ("import no_such_dependency\n", "(__init__.py, line 1); install no_such_dependency"),
        ("from agentmill.domains.base import Gone\n", "its import fails with ImportError"),
        ("def build(:\n", "its import fails with SyntaxError"),
        ("def build():\n    import no_such_dependency\n", "build() fails with ModuleNotFoundError"),
        ("def build():\n    return {}.missing\n", "build() fails with AttributeError"),
        ("def build():\n    return {'name': 'bikes'}\n", "build() returns a dict, and it must be"),
    ],
)
def test_a_fault_inside_of_a_pack_is_told_as_its_own(here: Path, text: str, told: str) -> None:
    pack(here / "faulty_pack", text)
    message = refused("faulty_pack")
    assert told in message
    assert "no such domain pack" not in message


def test_a_folder_without_code_has_no_build(here: Path) -> None:
    (here / "plain_folder").mkdir()
    assert f"add one to {here / 'plain_folder' / '__init__.py'}" in refused("plain_folder")


def test_a_pack_whose_tables_contradict_each_other_is_refused_with_everything_at_once(here: Path) -> None:
    text = GOOD + "from dataclasses import replace\n_whole = build\ndef build():\n    whole = _whole()\n"
    text += "    return replace(whole, tools={}, rules=[*whole.rules, *whole.rules])\n"
    pack(here / "torn_pack", text)
    message = refused("torn_pack")
    assert message.count("domain='torn_pack': ") > 5
    assert "tools names 'search_inventory', and there is no such tool" in message
    assert "rule ONE_CHANGE: 2 rules have this code" in message


@tool()
def positional(world: Any, day: str) -> Json:
    """Free places."""
    return {}


@tool()
def untyped(world: Any, *, day) -> Json:  # type: ignore[no-untyped-def]
    """Free places."""
    return {}


@tool()
def silent(world: Any, *, day: str) -> Json:
    return {}


@tool()
def worldless(*, day: str) -> Json:
    """Free places."""
    return {}


@tool()
def unreadable(world: Any, *, day: "Never") -> Json:  # type: ignore[name-defined]  # noqa: F821
    """Free places."""
    return {}


def with_intent(**changes: Any) -> Json:
    return {"intents": {"lend": replace(build().intents["book_test_drive"], name="lend", **changes)}}


def with_entity(entity: Entity) -> Json:
    return {"entities": {**build().entities, entity.name: entity}}


def with_rule(code: str) -> Json:
    return {"rules": (Rule(code, "A rule.", lambda plan, state, facts: None),)}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (with_entity(Entity("results", str, "Which?")), "entity 'results' is a key of every prompt's frame"),
        (with_entity(Entity("line2", str, "Which?")), "entity 'line2': a key of a frame has small letters"),
        (with_entity(Entity("when", tuple, "When?")), "entity 'when' has kind=<class 'tuple'>"),
        (with_entity(Entity("size", int, "Which?", choices=("s", "m"))), "entity 'size' offers 's', which is no int"),
        (with_intent(tools=("book_test_drve",)), "no such tool; did you mean book_test_drive?"),
        (with_intent(required=("stok",)), "required names 'stok', and there is no such entity; did you mean stock?"),
        (with_intent(supplies=("nothing",)), "supplies names 'nothing', and there is no such entity"),
        (with_intent(any_of=("make",)), "any_of names 'make', which is not among its optional entities"),
        (with_intent(optional=("day",)), "'day' is both required and optional"),
        ({"intents": {"a": Intent("b", "of another name")}}, "intents['a'] is named 'b'"),
        ({"intents": {"talk": Intent("talk", "nothing to do")}}, "none has tools"),
        ({"tools": {"positional": positional}}, "tool 'positional': day is not keyword-only"),
        ({"tools": {"untyped": untyped}}, "tool 'untyped': day has no type"),
        ({"tools": {"silent": silent}}, "tool 'silent' has no docstring"),
        ({"tools": {"worldless": worldless}}, "tool 'worldless' does not take the world first"),
        ({"tools": {"unreadable": unreadable}}, "tool 'unreadable': its annotations cannot be read"),
        (with_rule("UNKNOWN_TOOL"), "rule UNKNOWN_TOOL: the core's own checks have this code"),
        (with_rule("one change"), "rule 'one change': a code has capitals"),
        ({"prompts": {"brief": build().prompts["brief"]}}, "prompts['full']['planner'] is missing"),
    ],
)
def test_each_contradiction_is_a_sentence(changes: Json, told: str) -> None:
    found = inconsistencies(replace(build(), **changes))
    assert any(told in sentence for sentence in found), found


def test_the_packs_that_ship_hold_together() -> None:
    for name in known_packs():
        assert isinstance(load_domain(name), Domain)


def test_the_reserved_keys_are_those_that_frames_are_made_of() -> None:
    """Whoever adds a key to a frame adds it to RESERVED_KEYS, and a code of the core to CORE_CODES."""
    import re

    import agentmill

    root = Path(agentmill.__file__).parent
    agents = "\n".join(file.read_text() for file in (root / "agents").glob("*.py"))
    keys = re.findall(r'fields\["(\w+)"\] =|fields: \S+ = \{"(\w+)"|block=\("(\w+)"', agents)
    assert {name for found in keys for name in found if name} <= RESERVED_KEYS
    plans = "\n".join(file.read_text() for file in (root / "plans").glob("*.py"))
    codes = re.findall(r'(?:code=|PlanError\(|_forbidden\(")"([A-Z_]+)"', plans + agents)
    assert len(codes) > 8
    assert set(codes) - {"CONFIRM_FIRST"} <= CORE_CODES


def test_a_changed_pack_does_its_stages_again_and_its_tests_do_not_count(here: Path) -> None:
    pack(here / "digested", GOOD)
    (here / "digested" / "rows.csv").write_text("a,b\n")
    assert list(pack_files("digested")) == ["__init__.py", "rows.csv"]
    first = pack_digest("digested")
    (here / "digested" / "test_it.py").write_text("")
    assert pack_digest("digested") == first
    (here / "digested" / "rows.csv").write_text("a,c\n")
    assert pack_digest("digested") != first
    assert pack_digest("automotive") is None
    assert pack_digest("nowhere_at_all") == "missing"
    run, config = Run(here / "run", {}), RunConfig(domain="digested")
    packs = {stage.name: inputs_of(stage, run, config)["pack"] for stage in STAGES}
    assert packs["simulate"] == packs["refine"] == packs["corpora"] == packs["evaluate"] == pack_digest("digested")
    assert packs["base"] is packs["sft"] is packs["report"] is None
