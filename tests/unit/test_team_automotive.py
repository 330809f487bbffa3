"""The whole system in process on the embedded domain: the error-free expert as model and user reaches every goal."""

import asyncio
from functools import partial

import pytest

from agentmill.agents.contracts import TurnOutcome
from agentmill.agents.settings import TeamSettings
from agentmill.agents.team import Team
from agentmill.domains.automotive import build
from agentmill.domains.base import Assessment, Scenario
from agentmill.plans.sandbox import Sandbox
from simulation.conversation import Played, play

SCENARIOS = 60


async def converse(team: Team, scenario: Scenario) -> tuple[Played, Assessment]:
    """Play one scenario with an error-free user and assess the world that it leaves."""
    domain = team.domain
    assert domain.expert is not None
    session = await team.start(scenario.sid, scenario.world_seed)
    turn = partial(_turn, team, session)
    played = await play(turn, domain.expert(0.0), scenario, domain, switch=partial(team.switch, session))
    snapshot = await team.executor.snapshot(scenario.sid)
    await team.executor.close(scenario.sid)
    return played, domain.assess(scenario, snapshot)


async def _turn(team: Team, session: object, utterance: str) -> TurnOutcome:
    return await team.turn(session, utterance, seed=1)  # type: ignore[arg-type]


def failures(results: list[tuple[Played, Assessment]]) -> list[str]:
    """A readable account of each conversation that did not succeed."""
    return [
        "\n".join([str(assessed.reasons), *(f"  {said!r} -> {reply!r}" for said, reply in played.history)])
        for played, assessed in results
        if played.status != "exit" or not assessed.success
    ]


@pytest.mark.parametrize("mix", ["all", "core", "coverage"])
@pytest.mark.parametrize("split", ["train", "heldout"])
async def test_the_error_free_expert_succeeds_in_every_scenario(split: str, mix: str) -> None:
    domain = build()
    assert domain.expert is not None
    async with Sandbox() as sandbox:
        team = Team.local(domain, domain.expert(0.0), sandbox, TeamSettings())
        count = SCENARIOS // 2 if mix == "coverage" else SCENARIOS  # its conversations are three times as long
        scenarios = domain.source(mix)(count, 11, split)
        results = list(await asyncio.gather(*(converse(team, scenario) for scenario in scenarios)))
    assert failures(results) == []
    calls = [played_call.call for played, _ in results for played_call in played.calls]
    assert [call.error for call in calls if call.status != "ok"] == []
    assert {turn.status for played, _ in results for turn in played.turns} <= {"answered", "asked"}


async def test_a_teacher_that_errs_is_caught_by_the_checks_and_replans() -> None:
    domain = build()
    assert domain.expert is not None
    async with Sandbox() as sandbox:
        team = Team.local(domain, domain.expert(0.3), sandbox, TeamSettings())
        scenarios = domain.scenarios(SCENARIOS, 12, "train")
        results = list(await asyncio.gather(*(converse(team, scenario) for scenario in scenarios)))
    turns = [turn for played, _ in results for turn in played.turns]
    assert any(turn.violations and turn.status == "answered" for turn in turns)
    assert all(turn.plan == "" or turn.results_json != "{}" for turn in turns if turn.status == "answered")
    assert 0.5 * SCENARIOS < sum(assessed.success for _, assessed in results) < SCENARIOS
