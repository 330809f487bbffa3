"""Scenarios are drawn evenly over what can be: every reachable cell comes up, nothing else, and prefixes are stable."""

import hashlib
import json
from collections import Counter

import pytest

from agentmill.domains.automotive.scenarios import generate_core
from agentmill.domains.base import Domain, Goal, Intent, Scenario, load_domain
from agentmill.domains.coverage import NO_SWITCH, Cell, Coverage, Gap, difficulty_of
from agentmill.domains.kit.personas import COVERED
from agentmill.domains.kit.scenarios import content_digest

SMALL = Coverage(
    intents=("ask", "book"),
    personas=("calm", "pushy"),
    switches=(NO_SWITCH, "stock", "hours"),
    gaps=(Gap("nothing to push for", intents=("ask",), personas=("pushy",)), Gap("none is sold", switches=("stock",))),
)
CORE_SIDS = ["789e983f76e53f1d", "ad1d14c62324e413", "9686170de276715d"]
PERSONAL = {"name": "name", "licence": "licence", "plate": "plate", "vin": "vin", "score": "credit_score",
            "order": "order", "max_price": "budget", "card": "card"}  # fmt: skip


@pytest.fixture(scope="module", params=["automotive", "library_desk"])
def pack(request: pytest.FixtureRequest) -> Domain:
    return load_domain(request.param)


def test_a_gap_takes_its_cells_away_and_says_why() -> None:
    assert len(SMALL.cells) == 3 * 3 * 2  # three pairs, three difficulties, two switches
    assert SMALL.why_not(Cell("ask", "pushy", "easy", NO_SWITCH)) == "nothing to push for"
    assert SMALL.why_not(Cell("book", "calm", "hard", "stock")) == "none is sold"
    assert SMALL.why_not(Cell("book", "pushy", "hard", "hours")) == ""
    assert SMALL.gaps[0].told() == "intent ask; persona pushy: nothing to push for"


def test_a_round_has_every_pair_and_personas_with_few_intents_more_often() -> None:
    first = [SMALL.cell("x", index) for index in range(SMALL.round)]
    assert {cell[:2] for cell in first} == {("ask", "calm"), ("book", "calm"), ("book", "pushy")}
    assert Counter(cell.persona for cell in first) == {"calm": 2, "pushy": 2}


def test_after_all_rounds_every_reachable_cell_was_there_and_no_other() -> None:
    drawn = [SMALL.cell("x", index) for index in range(SMALL.round * SMALL.rounds)]
    assert set(drawn) == set(SMALL.cells)
    calm = sum(cell.switch == NO_SWITCH for cell in drawn)
    assert abs(calm - len(drawn) / 2) <= len(drawn) / 10


def test_a_cell_depends_on_its_label_and_index_only() -> None:
    drawn = [SMALL.cell("x", index) for index in range(40)]
    assert [SMALL.cell("x", index) for index in reversed(range(40))] == drawn[::-1]
    assert [SMALL.cell("y", index) for index in range(40)] != drawn


def test_difficulty_counts_requests_complications_and_what_must_be_found_first() -> None:
    find = Intent("find", "", tools=("search",), supplies=("stock",))
    intents = {"find": find, "book": Intent("book", "", tools=("b",), required=("stock",)), "talk": Intent("talk", "")}
    book, talk = Goal(intent="book", slots={"stock": 1}, expect={}), Goal(intent="talk", slots={}, expect={})
    changed = Goal(intent="book", slots={"stock": 1, "mind_stock": 2}, expect={})
    both = Goal(intent="find", also=("book",), slots={}, expect={})
    assert difficulty_of([book, book, book, talk, talk], intents) == "easy"
    assert difficulty_of([changed, changed], intents) == "medium"  # two points each
    assert difficulty_of([both], intents) == "easy"  # three points
    assert difficulty_of([both, both], intents) == "medium"
    assert difficulty_of([both, both, book], intents) == "hard"


def test_scenarios_are_those_of_their_cells_and_a_longer_list_begins_with_the_shorter(pack: Domain) -> None:
    assert pack.coverage is not None
    scenarios = list(pack.source("coverage")(240, 7, "train"))
    assert scenarios[:30] == list(pack.source("coverage")(30, 7, "train"))
    assert len({scenario.sid for scenario in scenarios}) == 240
    for index, scenario in enumerate(scenarios):
        assert pack.coverage.cell(f"{pack.name} train 7", index) in set(pack.coverage.covered(scenario))
    pairs = {cell[:2] for cell in pack.coverage.cells}
    there = {cell[:2] for scenario in scenarios[: pack.coverage.round] for cell in pack.coverage.covered(scenario)}
    assert pairs <= there
    assert {scenario.persona for scenario in scenarios} == set(COVERED)
    others = pack.source("coverage")(60, 7, "heldout")
    assert not {s.world_seed for s in others} & {s.world_seed for s in scenarios}


def test_a_cell_that_cannot_be_found_is_an_error_and_every_reachable_one_can(pack: Domain) -> None:
    assert pack.coverage is not None
    every = [cell for number, cell in enumerate(pack.coverage.cells) if number % 9 == 0]
    wanted, index = {cell[1:] for cell in every}, 0
    found: set[tuple[str, ...]] = set()
    while not wanted <= found and index < 40 * pack.coverage.round:
        found.add(pack.coverage.cell(f"{pack.name} train 3", index)[1:])
        index += 1
    assert wanted <= found


def test_the_profile_says_what_the_goals_say(pack: Domain) -> None:
    for scenario in pack.source("coverage")(150, 5, "heldout"):
        assert scenario.topic.endswith(".") and scenario.profile["situation"] in scenario.topic
        assert scenario.limits["hours"].keys() >= {"monday", "sunday"}
        for goal in scenario.goals:
            for slot in PERSONAL.keys() & goal.slots.keys():
                assert goal.slots[slot] in (
                    scenario.profile[PERSONAL[slot]], scenario.profile.get(f"other_{PERSONAL[slot]}"),
                )  # fmt: skip


def old_digest(scenario: Scenario) -> str:
    """The id as it was before scenarios had context vectors."""
    content = scenario.model_dump(include={"seed", "world_seed", "persona", "goals", "split", "max_turns"})
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def test_core_scenarios_keep_their_ids_and_every_context_is_part_of_an_id() -> None:
    core = generate_core(20, 7, "train")
    assert [scenario.sid for scenario in core] == [old_digest(scenario) for scenario in core]
    assert [scenario.sid for scenario in core[:3]] == CORE_SIDS
    changes = {"topic": "x", "profile": {"a": 1}, "limits": {"b": 2}, "difficulty": "hard",
               "switches": ({"name": "n", "turn": 1},)}  # fmt: skip
    ids = {content_digest(Scenario.model_validate({**core[0].model_dump(), name: v})) for name, v in changes.items()}
    assert len(ids | {core[0].sid}) == len(changes) + 1
