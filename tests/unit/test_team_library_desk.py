"""The whole system in process on the library pack: the error-free expert as model and reader reaches every goal."""

import asyncio

import pytest

from agentmill.agents.settings import TeamSettings
from agentmill.agents.team import Team
from agentmill.domains.base import load_domain
from agentmill.plans.sandbox import Sandbox
from agentmill.records import Turn
from simulation.conversation import Played
from tests.unit.test_team_automotive import converse, failures

SCENARIOS = 60
DOMAIN = load_domain("library_desk")


async def played(split: str, seed: int, rate: float, mix: str = "all") -> tuple[list[str], list[Played]]:
    """The accounts of the conversations that failed, and all conversations."""
    assert DOMAIN.expert is not None
    async with Sandbox() as sandbox:
        team = Team.local(DOMAIN, DOMAIN.expert(rate), sandbox, TeamSettings())
        scenarios = DOMAIN.source(mix)(SCENARIOS // 2 if mix == "coverage" else SCENARIOS, seed, split)
        results = list(await asyncio.gather(*(converse(team, scenario) for scenario in scenarios)))
    return failures(results), [one for one, _ in results]


@pytest.mark.parametrize("mix", ["all", "coverage"])
@pytest.mark.parametrize("split", ["train", "heldout"])
async def test_the_error_free_expert_succeeds_in_every_scenario(split: str, mix: str) -> None:
    failed, conversations = await played(split, 11, 0.0, mix)
    assert failed == []
    assert [call.call.error for one in conversations for call in one.calls if call.call.status != "ok"] == []
    turns = [turn for one in conversations for turn in one.turns]
    assert {turn.status for turn in turns} <= {"answered", "asked"}
    assert [turn.violations for turn in turns if turn.violations] == []
    assert _told_nothing_else(conversations) == []


def _told_nothing_else(conversations: list[Played]) -> list[str]:
    """The replies with a fact that the Explainer was not given."""
    calls = [call.call for one in conversations for call in one.calls if call.call.agent == "explainer"]
    told = [(call.output, {"frame": call.messages[-1].content}) for call in calls]
    return [reply for reply, context in told if DOMAIN.grounded(reply, context)]


async def test_a_teacher_that_errs_is_caught_by_the_checks_and_replans() -> None:
    failed, conversations = await played("train", 12, 0.3)
    turns = [turn for one in conversations for turn in one.turns]
    assert any(turn.violations and turn.status == "answered" for turn in turns)
    assert 0 < len(failed) < 0.5 * SCENARIOS


async def talk(*utterances: str, seed: int = 1) -> list[Turn]:
    """The turns of one conversation in the first world."""
    assert DOMAIN.expert is not None
    async with Sandbox() as sandbox:
        team = Team.local(DOMAIN, DOMAIN.expert(0.0), sandbox, TeamSettings())
        session = await team.start("talk", seed)
        turns = [(await team.turn(session, text, seed=1)).turn for text in utterances]
        await team.executor.close("talk")
    return turns


async def test_two_requests_make_one_plan_and_what_is_missing_is_asked_for() -> None:
    asked, answered = await talk("Show me books on poetry. And reserve the first one, please.", "C100000, PIN 1234.")
    assert (asked.status, asked.intent) == ("asked", "find_books+place_hold")
    assert asked.reply == "What is your library card number?"
    assert answered.intent == "find_books+place_hold"
    assert 'copy = check_copy(book=books[0]["book"])' in answered.plan
    assert answered.reply.startswith("I found B")
    assert answered.reply.endswith("I cannot match this card number and PIN.")


async def test_a_listed_book_is_pointed_at() -> None:
    listed, told = await talk("Show me books on poetry.", "Tell me more about the second book.")
    second = listed.reply.split("; ")[1].split(",")[0]
    assert told.reply.startswith(f"{second} is ")


async def test_other_readers_data_is_refused() -> None:
    for text in ("Who has borrowed B1234?", "Show me the loans of another reader.", "What's my boss's PIN?"):
        (turn,) = await talk(text)
        assert (turn.intent, turn.plan) == ("private_data", "")
