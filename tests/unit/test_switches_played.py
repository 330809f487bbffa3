"""Conversations in which the business changes: the expert that is told reaches every goal, one that is not fails."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from agentmill.agents.frames import parse_frame
from agentmill.agents.settings import TeamSettings
from agentmill.agents.team import Team
from agentmill.domains.base import Domain, Scenario, load_domain
from agentmill.domains.switching import found
from agentmill.models.chat import ChatModel
from agentmill.plans.sandbox import Sandbox
from simulation.judge import Judge
from simulation.models import ModelSettings
from simulation.rolled import Rolled
from simulation.rollout import converse
from simulation.verify import Place, Verifier
from tests.blind import Blind

PACKS = ("automotive", "library_desk")
COUNT = 36
BITING = ("rename", "argument", "rule")


def expert(domain: Domain, mistakes: float = 0.0) -> ChatModel:
    assert domain.expert is not None
    return domain.expert(mistakes)


async def play_all(domain: Domain, scenarios: list[Scenario], model: ChatModel) -> list[Rolled]:
    async with Sandbox(processes=1) as sandbox:
        team = Team.local(domain, model, sandbox, TeamSettings())
        talks = (converse(team, expert(domain), s, sid=s.sid, seed=0, speaker=ModelSettings()) for s in scenarios)
        return list(await asyncio.gather(*talks))


def kinds(domain: Domain, scenario: Scenario) -> list[str]:
    return [found(domain.switches, planned.name)[0].kind for planned in scenario.switches]


@pytest.mark.parametrize("split", ["train", "heldout"])
@pytest.mark.parametrize("pack", PACKS)
async def test_the_expert_reaches_every_goal_while_the_business_changes(pack: str, split: str) -> None:
    domain = load_domain(pack)
    scenarios = list(domain.source("switches")(COUNT, 3, split))
    played = await play_all(domain, scenarios, expert(domain))
    failed = [(s.switches, p.conversation.reasons) for s, p in zip(scenarios, played, strict=True)
              if not p.conversation.success]  # fmt: skip
    assert failed == []
    assert [call.error for rolled in played for call in rolled.calls if call.status != "ok"] == []
    planned = Counter(planned.name for scenario in scenarios for planned in scenario.switches)
    took_hold = Counter(name for rolled in played for turn in rolled.turns for name in turn.switches)
    assert not took_hold - planned
    assert took_hold.total() > 0.9 * planned.total()


@pytest.mark.parametrize("pack", PACKS)
async def test_a_planner_that_is_not_told_of_new_names_arguments_and_rules_fails(pack: str) -> None:
    domain = load_domain(pack)
    drawn = domain.source("switches")(COUNT, 4, "train")
    scenarios = [scenario for scenario in drawn if set(kinds(domain, scenario)) <= set(BITING)]
    assert {kind for scenario in scenarios for kind in kinds(domain, scenario)} == set(BITING)
    played = await play_all(domain, scenarios, Blind(expert(domain), "planner"))
    assert [scenario.switches for scenario, rolled in zip(scenarios, played, strict=True)
            if rolled.conversation.success] == []  # fmt: skip
    codes = {code for rolled in played for turn in rolled.turns for code in turn.violations}
    assert {"UNKNOWN_TOOL"} < codes


@pytest.mark.parametrize("pack", PACKS)
async def test_frames_tell_a_change_only_from_the_turn_in_which_it_holds(pack: str) -> None:
    domain = load_domain(pack)
    scenarios = list(domain.source("switches")(12, 5, "train"))
    for scenario, rolled in zip(scenarios, await play_all(domain, scenarios, expert(domain)), strict=True):
        turns = {planned.name: planned.turn for planned in scenario.switches}
        for call in rolled.calls:
            frame = parse_frame(call.messages[-1].content)
            told = domain.changed_in(frame)
            due = {name for name, turn in turns.items() if turn <= call.turn}
            if call.agent in ("planner", "evaluator"):
                assert set(told) == due
            elif call.agent in ("understander", "explainer"):
                assert set(told) == {name for name in due if found(domain.switches, name)[0].asks}
            else:
                assert told == ()


@pytest.mark.parametrize("pack", PACKS)
async def test_without_a_switch_in_force_prompts_and_frames_are_those_of_a_pack_without_any(pack: str) -> None:
    domain = load_domain(pack)
    bare = replace(domain, switches={}, reworded=None)
    scenarios = list(domain.scenarios(6, 7, "train"))
    with_table, without = [await play_all(each, scenarios, expert(each)) for each in (domain, bare)]
    for one, other in zip(with_table, without, strict=True):
        assert [(c.messages, c.output) for c in one.calls] == [(c.messages, c.output) for c in other.calls]


async def test_a_teacher_forgets_what_has_changed_and_the_checks_and_the_judge_see_it() -> None:
    domain = load_domain("automotive")
    scenarios = [s for s in domain.source("switches")(COUNT, 6, "train") if set(kinds(domain, s)) <= set(BITING)]
    judge = Judge(domain, expert(domain), ModelSettings(), attempts=1, max_tokens=2048)
    frames = {
        (call.messages[-1].content, rolled.conversation.sid): call.output
        for rolled in await play_all(domain, scenarios, expert(domain))
        for call in rolled.calls
        if call.agent == "planner" and "\nconfirmed: yes\nchanges: " in call.messages[-1].content
    }
    seeds = {scenario.sid: scenario.world_seed for scenario in scenarios}
    assert domain.gold is not None
    outdated = 0
    async with Sandbox(processes=1) as sandbox:
        verifier = Verifier(domain, sandbox)
        for (frame, sid), right in frames.items():
            place = Place(seeds[sid])
            assert await verifier.problem("planner", frame, right, place) == ""
            for case in (case for seed in range(4) for case in domain.gold("planner", frame, seed)):
                if case.mistake == "outdated":
                    outdated += 1
                    assert await verifier.violations(frame, case.output, place)
                    judged = await judge.judge("planner", frame, case.output)
                    assert (judged.verdict, judged.refined) == ("edit", right)
    assert outdated > 5
