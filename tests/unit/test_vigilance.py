"""Watching the Evaluator: which mistakes of a Planner it catches, and whether it is alarmed by right plans."""

from dataclasses import replace
from typing import Any

import pytest

from agentmill.agents.settings import TeamSettings
from agentmill.config import UserError
from agentmill.domains.base import Domain, Goal, Rule, Scenario, load_domain
from simulation.vigilance import watch
from tests.fakes import ScriptedModel, heard, library

RIGHT = 'book = find_book(title="Dune")'
UNPROVEN = 'done = lend_book(title="Dune", reader="Ana")'  # a rule says no
NEEDLESS = 'book = find_book(title="Dune")\nother = find_book(title="Emma")'  # no rule does
BAD, OK = '{"ok":false,"violations":["NEEDLESS_CALL"]}', '{"ok":true,"violations":[]}'


def verdict(request: Any) -> str:
    """An Evaluator that sees needless calls, but takes one in a variable named `x` for right."""
    frame = request.messages[-1].content
    return BAD if "Emma" in frame and "x = " not in frame else OK


def borrowing(*plans: Any, evaluator: Any = verdict, right: Any = RIGHT, turns: int = 1) -> Domain:
    """The library with customers who want Dune; its erring Planner says `plans`, one after the other."""
    goal = Goal(intent="find", slots={"title": "Dune"}, expect={})

    def scenarios(count: int, seed: int, split: str) -> list[Scenario]:
        one = {"seed": seed, "world_seed": 0, "persona": "plain", "goals": (goal,), "split": split}
        return [Scenario(sid=f"s{i}", max_turns=turns, **one) for i in range(count)]

    def expert(mistake_rate: float) -> ScriptedModel:
        return ScriptedModel(
            user="Where is Dune?",
            understander=heard("find", title="Dune"),
            planner=list(plans) if mistake_rate else right,
            evaluator=evaluator,
            explainer="Here.",
        )

    pack = library()
    prompts = {style: {**texts, "user": "user"} for style, texts in pack.prompts.items()}
    return replace(pack, expert=expert, scenarios=scenarios, prompts=prompts)


async def test_a_mistake_that_a_rule_covers_is_caught_and_replanned() -> None:
    seen = await watch(borrowing(UNPROVEN, RIGHT), scenarios=1, mistake_rate=0.5)
    assert (seen.plans, seen.mistakes) == (2, 1)
    assert (seen.recall.value, seen.recall.n) == (1.0, 1)
    assert (seen.replanned.value, seen.replanned.n) == (1.0, 1)
    assert (seen.model_recall.n, seen.false_alarms.value, seen.false_alarms.n) == (0, 0.0, 1)


async def test_what_only_the_model_can_see_is_counted_apart() -> None:
    missed = NEEDLESS.replace("other", "x")
    seen = await watch(borrowing(NEEDLESS, missed, turns=1), scenarios=1, mistake_rate=0.5)
    assert (seen.recall.n, seen.mistakes) == (0, 2)
    assert (seen.model_recall.value, seen.model_recall.n) == (0.5, 2)


async def test_names_of_variables_are_no_mistake_and_a_violation_on_a_right_plan_is_a_false_alarm() -> None:
    renamed = RIGHT.replace("book =", "it =")
    seen = await watch(borrowing(renamed, evaluator=[BAD, OK]), scenarios=1, mistake_rate=0.5)
    assert seen.mistakes == 0
    assert (seen.false_alarms.value, seen.false_alarms.n) == (0.5, 2)


async def test_the_last_plan_of_a_turn_is_caught_but_cannot_be_replanned() -> None:
    settings = TeamSettings(max_replans=1)
    seen = await watch(borrowing(UNPROVEN), scenarios=1, mistake_rate=0.5, system=settings)
    assert (seen.recall.value, seen.recall.n) == (1.0, 2)
    assert (seen.replanned.value, seen.replanned.n) == (1.0, 1)


async def test_behind_a_gate_the_model_sees_less_and_the_rules_as_much() -> None:
    gated = TeamSettings(complexity_threshold=1000.0, shadow_share=1.0)
    seen = await watch(borrowing(UNPROVEN, NEEDLESS), scenarios=1, mistake_rate=0.5, system=gated)
    assert (seen.recall.value, seen.model_recall.value, seen.model_recall.n) == (1.0, 0.0, 1)


def _lent_out(plan: Any, state: Any, facts: Any) -> str | None:
    return "Dune is lent out: look for Emma." if "Dune" in plan.text else None


async def test_a_plan_that_only_a_rule_could_tell_the_planner_to_change_is_corrected_and_no_false_alarm() -> None:
    def heeding(request: Any) -> str:
        return RIGHT.replace("Dune", "Emma") if "LENT_OUT" in request.messages[-1].content else RIGHT

    pack = borrowing(heeding, evaluator=OK, right=heeding)
    pack = replace(pack, rules=(Rule("LENT_OUT", "Only what is there is looked for.", _lent_out),))
    seen = await watch(pack, scenarios=1, mistake_rate=0.5)
    assert (seen.plans, seen.mistakes) == (2, 0)
    assert (seen.corrected.value, seen.corrected.n) == (0.5, 2)
    assert (seen.false_alarms.value, seen.false_alarms.n) == (0.0, 1)


async def test_a_rule_that_no_planner_heeds_is_a_false_alarm() -> None:
    pack = replace(borrowing(RIGHT), rules=(Rule("LENT_OUT", "Only what is there is looked for.", _lent_out),))
    seen = await watch(pack, scenarios=1, mistake_rate=0.5)
    assert (seen.corrected.value, seen.false_alarms.value, seen.false_alarms.n) == (0.0, 1.0, 3)


async def test_a_domain_without_an_expert_is_refused() -> None:
    with pytest.raises(UserError, match="domain=library has no expert"):
        await watch(library(), scenarios=1, mistake_rate=0.5)


async def test_the_automotive_rules_catch_every_mistake_that_they_cover() -> None:
    seen = await watch(load_domain("automotive"), scenarios=30, mistake_rate=0.3, seed=2)
    assert seen.mistakes > 10
    assert seen.recall.n > 0 and seen.recall.value == 1.0
    assert seen.replanned.value == 1.0
    assert seen.false_alarms.value == 0.0
    assert seen.corrected.n > seen.false_alarms.n > 0


async def test_a_planner_that_does_not_err_makes_no_mistakes() -> None:
    seen = await watch(load_domain("automotive"), scenarios=10, mistake_rate=0.0)
    assert seen.plans > 0
    assert seen.mistakes == 0
