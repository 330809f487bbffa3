"""Coverage and diversity of a simulation: counted in constant memory, recorded, and shown in the report."""

import pytest

from agentmill.domains.base import Domain, Scenario, load_domain
from agentmill.records import Conversation, Turn
from agentmill.runs import Run
from cluster.config import ReportSettings, RunConfig
from cluster.report import render
from simulation.diversity import Covered, Diversity, Said, read_coverage, record_coverage, scenarios, utterances
from simulation.tables import conversation_tables, write_table

COUNT = 40


def test_shares_count_what_was_said_before_whatever_its_case_and_signs() -> None:
    seen = Diversity(limit=100)
    for opening, text in ((True, "Hi, a car!"), (False, "hi a car"), (True, "HI A CAR."), (False, "A red car")):
        seen.add(Said("plain", opening, text))
    shares = seen.shares()
    assert shares["duplicates"] == (2 / 4, 4)
    assert shares["openings_repeated"] == (1 / 2, 2)
    assert shares["distinct_1"] == (4 / 12, 12)  # hi, a, car, red
    assert shares["distinct_2"] == (4 / 8, 8)  # hi a, a car, a red, red car
    assert shares["distinct_3"] == (2 / 4, 4)


def test_values_are_words_of_their_own_and_later_utterances_than_the_sample_do_not_count() -> None:
    seen = Diversity(limit=2)
    for text in ("at 15:00 for $27,450", "at 16:00 for $27,450", "something else"):
        seen.add(Said("plain", False, text))
    assert seen.shares()["distinct_1"] == (5 / 8, 8)
    assert Diversity(limit=5).shares()["distinct_1"] == (0.0, 0)


def test_cells_are_counted_and_those_that_are_missing_are_named() -> None:
    pack = load_domain("automotive")
    assert pack.coverage is not None
    covered = Covered(pack.coverage)
    drawn = pack.source("coverage")(COUNT, 3, "train")
    for scenario in drawn:
        covered.add(scenario)
    possible, missing = covered.of(0, 1)
    assert len(possible) == len({cell[:2] for cell in pack.coverage.cells})
    there = {(intent, s.persona) for s in drawn for goal in s.goals for intent in (goal.intent, *goal.also)}
    assert set(missing) == set(possible) - there
    table = covered.table()
    row = next(row for row in table["rows"] if row["intent"] == "directions")
    shown = dict(zip(table["personas"], row["counts"], strict=True))
    assert shown["haggling"] is None and shown["terse"] is not None


def played(scenario: Scenario, number: int) -> tuple[Conversation, list[Turn]]:
    turns = [
        Turn(
            sid=scenario.sid, turn=place, utterance=f"{scenario.persona} {number} says {place} <b>", reply="Fine.",
            status="answered", intent="small_talk", plan="", complexity=0.0, replans=0, violations=(),
            results_json="{}", latency_s=0.0,
        )
        for place in range(number % 3)
    ]  # fmt: skip
    conversation = Conversation(
        sid=scenario.sid, scenario_json=scenario.model_dump_json(), status="exit", error="", success=True, reasons=(),
        turns=len(turns), calls=0, world_json="{}", seconds=0.0,
    )  # fmt: skip
    return conversation, turns


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Conversations of none, one and two turns, in two parts."""
    run = Run.create(tmp_path_factory.mktemp("runs") / "demo", RunConfig(name="demo").resolved(), "agentmill run")
    drawn = load_domain("automotive").source("coverage")(COUNT, 3, "train")
    for part in range(2):
        done = [played(s, n) for n, s in enumerate(drawn) if n * 2 // COUNT == part]
        turns = [turn for _, those in done for turn in those]
        for name, table in conversation_tables([conversation for conversation, _ in done], turns, []).items():
            write_table(table, run.path("simulate", name, f"part-{part:05d}.parquet"))
    return run


def test_utterances_have_the_persona_of_their_conversation(run: Run) -> None:
    said = list(utterances(run))
    assert len(said) == sum(number % 3 for number in range(COUNT))
    assert all(each.text.startswith(each.persona) for each in said)
    assert sum(each.opening for each in said) == sum(number % 3 > 0 for number in range(COUNT))
    assert len(list(scenarios(run))) == COUNT


def test_what_is_covered_is_recorded_and_shown(run: Run) -> None:
    assert "none were simulated" in render(run, ReportSettings())
    record_coverage(run, load_domain("automotive"))
    figures, found = run.figures(), read_coverage(run)
    assert found is not None
    assert 0 < float(figures["simulate.coverage.intent_persona"].value) < 1
    assert figures["simulate.coverage.cells"].n == found["cells"]["possible"]
    assert figures["simulate.diversity.duplicates"].value == 0.0
    assert {row["persona"] for row in found["diversity"]} > {"all", "terse", "haggling"}
    page = render(run, ReportSettings())
    assert "One customer of each persona" in page and "nothing to mix up" not in page
    assert "says 0 &lt;b&gt;" in page and "says 0 <b>" not in page
    assert all(gap in page for gap in ("there is no price, term or time to bargain for", "persona changing_mind"))


def test_a_pack_without_axes_still_has_its_diversity(run: Run) -> None:
    pack = load_domain("automotive")
    bare = Domain(**{**{name: getattr(pack, name) for name in NEEDED}, "coverage": None})
    record_coverage(run, bare)
    assert [name for name in run.figures() if name.startswith("simulate.coverage")] == []
    assert "simulate.diversity.distinct_2" in run.figures()
    assert "How the customers talk" in render(run, ReportSettings())


NEEDED = (
    "name", "title", "entities", "intents", "tools", "rules", "safe_reply", "prompts", "open_world", "scenarios",
    "assess", "grounded", "documents",
)  # fmt: skip
