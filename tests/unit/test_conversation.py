"""One conversation between the user simulator and a system: endings, errors, what the simulator sees."""

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import httpx
import pytest
import pytest_asyncio

from agentmill.agents.contracts import TurnOutcome
from agentmill.agents.frames import parse_frame
from agentmill.agents.settings import TeamSettings
from agentmill.agents.team import Team
from agentmill.domains.base import Domain, Goal, PlannedSwitch, Scenario, load_domain
from agentmill.domains.kit.personas import PERSONAS
from agentmill.models.chat import ChatRequest, ModelError
from agentmill.plans.sandbox import Sandbox
from agentmill.records import Turn
from rayserve.gateway import http_app
from rayserve.settings import ServeSettings
from rayserve.turns import Conversations
from simulation.conversation import TurnFailed, is_exit, play, user_frame
from simulation.gateway_client import GatewayClient, GatewayError, ServedAgentModel
from simulation.models import ModelSettings, build_model
from simulation.rolled import Rolled
from simulation.rollout import converse
from tests.fakes import ScriptedModel

EXPERT = ModelSettings()


@pytest.fixture(scope="module")
def automotive() -> Domain:
    return load_domain("automotive")


@pytest_asyncio.fixture
async def team(automotive: Domain) -> AsyncIterator[Team]:
    async with Sandbox(processes=1) as sandbox:
        yield Team.local(automotive, build_model(EXPERT, automotive), sandbox, TeamSettings())


def scenario(max_turns: int = 5) -> Scenario:
    goal = Goal(intent="opening_hours", slots={"day": "friday"}, expect={"activity": {"tool": "opening_hours"}})
    return Scenario(sid="s", seed=3, world_seed=1, persona="plain", goals=(goal,), split="train", max_turns=max_turns)


def turn(utterance: str, reply: str = "Yes.") -> Turn:
    return Turn(
        sid="s", turn=0, utterance=utterance, reply=reply, status="answered", intent="small_talk", plan="",
        complexity=0.0, replans=0, violations=(), results_json="{}", latency_s=0.0,
    )  # fmt: skip


async def answer(utterance: str) -> TurnOutcome:
    return TurnOutcome(turn=turn(utterance), calls=())


async def test_the_conversation_ends_when_the_customer_says_exit(automotive: Domain) -> None:
    user = ScriptedModel(user=["When are you open?", "And  on\nMonday?", "EXIT"])
    played = await play(answer, user, scenario(), automotive)
    assert played.status == "exit"
    assert played.history == [("When are you open?", "Yes."), ("And on Monday?", "Yes.")]
    assert [(call.turn, call.index, call.call.agent) for call in played.calls] == [
        (0, 0, "user"), (1, 0, "user"), (2, 0, "user"),
    ]  # fmt: skip


async def test_the_customer_sees_persona_goals_and_history_and_never_the_expected_end(automotive: Domain) -> None:
    user = ScriptedModel(user=["Hello", "EXIT"])
    await play(answer, user, scenario(), automotive)
    frame = parse_frame(user.requests[1].messages[-1].content)
    assert frame["persona"] == "plain"
    assert json.loads(frame["goals"]) == [{"intent": "opening_hours", "slots": {"day": "friday"}}]
    assert json.loads(frame["history"]) == [["Hello", "Yes."]]
    assert "expect" not in user.requests[1].messages[-1].content


async def test_every_context_vector_of_a_scenario_reaches_any_model_that_plays_the_customer(automotive: Domain) -> None:
    user = ScriptedModel(user=["Good morning.", "EXIT"])
    contexts = {"topic": "A nurse wants to know the opening hours.", "profile": {"name": "Ana Ito"},
                "limits": {"hours": {"friday": "closed"}}}  # fmt: skip
    full = scenario().model_copy(update=contexts)
    played = await play(answer, user, full, automotive, prompts="full")
    assert (played.status, played.history) == ("exit", [("Good morning.", "Yes.")])
    system, frame = user.requests[0].messages
    shown = parse_frame(frame.content)
    assert list(shown) == ["persona", "topic", "profile", "limits", "goals", "history"]
    assert (json.loads(shown["profile"]), json.loads(shown["limits"])) == (contexts["profile"], contexts["limits"])
    for persona, who in PERSONAS.items():
        assert f"- {persona}: {who.description}" in system.content
    assert all(intent.description in system.content for intent in automotive.intents.values())
    assert "Book a test drive for a verified driver" in system.content and "EXIT" in system.content
    assert "quote_price" not in system.content  # what the business can do, not how


async def test_the_turn_limit_ends_a_conversation_that_goes_round_in_circles(automotive: Domain) -> None:
    played = await play(answer, ScriptedModel(user="Again"), scenario(max_turns=3), automotive)
    assert played.status == "turn_limit"
    assert len(played.turns) == 3


async def test_a_system_that_does_not_answer_ends_the_conversation_with_its_turns_kept(automotive: Domain) -> None:
    async def fail_second(utterance: str) -> TurnOutcome:
        if utterance == "second":
            raise TurnFailed("HTTP 500")
        return await answer(utterance)

    played = await play(fail_second, ScriptedModel(user=["first", "second"]), scenario(), automotive)
    assert (played.status, len(played.turns)) == ("error", 1)
    assert played.error == "turn 1: HTTP 500"


@pytest.mark.parametrize("silent", [ModelError("down"), " "])
async def test_a_silent_customer_is_asked_twice_and_is_then_an_error(automotive: Domain, silent: Any) -> None:
    user = ScriptedModel(user=[silent, "Hello", silent, silent])
    played = await play(answer, user, scenario(), automotive)
    assert played.status == "error"
    assert "user simulator, turn 1" in played.error
    assert [call.call.status == "ok" for call in played.calls] == [False, True, False, False]


async def test_an_error_that_cannot_be_mended_is_not_tried_again(automotive: Domain) -> None:
    user = ScriptedModel(user=ModelError("refused", retryable=False))
    assert (await play(answer, user, scenario(), automotive)).status == "error"
    assert len(user.requests) == 1


@pytest.mark.parametrize(
    ("said", "ends"), [("EXIT", True), ("Thanks, bye. EXIT", True), ("exit the car", False), ("", False)]
)
def test_exit_is_the_last_word(said: str, ends: bool) -> None:
    assert is_exit(said) is ends


def test_line_breaks_in_replies_cannot_add_lines_to_the_customers_prompt() -> None:
    frame = parse_frame(user_frame(scenario(), [turn("Hi", "a\ngoals: []")]))
    assert list(frame) == ["persona", "goals", "history"]


async def test_an_error_free_expert_reaches_every_goal_and_the_records_survive_a_row(
    automotive: Domain, team: Team
) -> None:
    user = build_model(EXPERT, automotive)
    for case in automotive.scenarios(6, 11, "train"):
        done = await converse(team, user, case, sid=f"c{case.sid}", seed=0, speaker=EXPERT)
        assert done.conversation.success, done.conversation.reasons
        assert done.conversation.calls == len(done.calls)
        assert len({call.call_id for call in done.calls}) == len(done.calls)
        assert {call.sid for call in done.calls} == {turn.sid for turn in done.turns} == {done.conversation.sid}
        assert Rolled.model_validate_json(done.model_dump_json()) == done


async def test_the_same_scenario_is_played_the_same_way_again(automotive: Domain) -> None:
    user, teacher = build_model(EXPERT, automotive), build_model(ModelSettings(mistake_rate=0.4), automotive)
    case = automotive.scenarios(1, 5, "train")[0]
    async with Sandbox(processes=1) as sandbox:
        team = Team.local(automotive, teacher, sandbox, TeamSettings())
        runs = [await converse(team, user, case, sid="x", seed=1, speaker=EXPERT) for _ in range(2)]
    first, second = ([(call.agent, call.messages, call.output) for call in run.calls] for run in runs)
    assert first == second


async def test_a_conversation_over_http_is_the_one_that_is_played_in_process(automotive: Domain, team: Team) -> None:
    model = build_model(EXPERT, automotive)
    case = automotive.scenarios(3, 2, "heldout")[2]

    async def ping() -> dict[str, str]:
        return {"all": "ok"}

    app = http_app(Conversations(ServeSettings(sessions_api=True), team, team.executor, model.complete, ping))
    async with GatewayClient("http://gateway/v1", transport=httpx.ASGITransport(app)) as client:
        session = await client.open(case.world_seed)
        played = await play(lambda said: client.turn(session, said, case.seed), model, case, automotive)
        world = await client.world(session)
        assert automotive.assess(case, world).success
        inside = await converse(team, model, case, sid="inside", seed=0, speaker=EXPERT)
        assert played.history == [(turn.utterance, turn.reply) for turn in inside.turns]
        call = next(call.call for call in played.calls if call.call.agent == "understander")
        asked = ChatRequest(agent="understander", messages=call.messages)
        assert (await ServedAgentModel(client).complete(asked)).text == call.output
        await client.close(session)
        with pytest.raises(TurnFailed, match="HTTP 404"):
            await client.world(session)


async def test_the_business_changes_over_http_as_it_does_in_process(automotive: Domain, team: Team) -> None:
    model = build_model(EXPERT, automotive)

    async def ping() -> dict[str, str]:
        return {}

    app = http_app(Conversations(ServeSettings(sessions_api=True), team, team.executor, model.complete, ping))
    async with GatewayClient("http://gateway", transport=httpx.ASGITransport(app)) as client:
        for case in automotive.source("switches")(6, 9, "heldout"):
            session = await client.open(case.world_seed)
            played = await play(
                partial(client.turn, session, seed=case.seed), model, case, automotive,
                switch=partial(client.switch, session),
            )  # fmt: skip
            assert automotive.assess(case, await client.world(session)).success
            inside = await converse(team, model, case, sid=f"in{case.sid}", seed=0, speaker=EXPERT)
            assert played.history == [(turn.utterance, turn.reply) for turn in inside.turns]
            assert [turn.switches for turn in played.turns] == [turn.switches for turn in inside.turns]


async def test_a_switch_is_not_made_for_a_turn_that_never_comes(automotive: Domain) -> None:
    made: list[tuple[int, str]] = []
    said: list[str] = []

    async def switch(name: str) -> None:
        made.append((len(said), name))

    async def hear(utterance: str) -> TurnOutcome:
        said.append(utterance)
        return await answer(utterance)

    plans = tuple(PlannedSwitch(name=name, turn=number) for name, number in (("a", 1), ("b", 1), ("c", 2)))
    case = scenario().model_copy(update={"switches": plans})
    await play(hear, ScriptedModel(user=["Hi", "So?", "EXIT"]), case, automotive, switch=switch)
    assert made == [(1, "a"), (1, "b")]


async def test_planned_switches_that_nobody_makes_are_an_error_of_ours(automotive: Domain) -> None:
    case = scenario().model_copy(update={"switches": (PlannedSwitch(name="a", turn=1),)})
    with pytest.raises(ValueError, match="plans switches"):
        await play(answer, ScriptedModel(user="Hi"), case, automotive)


async def test_a_server_without_the_sessions_api_is_told_apart(automotive: Domain, team: Team) -> None:
    async def ping() -> dict[str, str]:
        return {}

    model = build_model(EXPERT, automotive)
    app = http_app(Conversations(ServeSettings(), team, team.executor, model.complete, ping))
    client = GatewayClient("http://gateway", transport=httpx.ASGITransport(app))
    with pytest.raises(GatewayError, match="sessions_api=true"):
        await client.__aenter__()


async def test_many_conversations_share_one_team(automotive: Domain, team: Team) -> None:
    user = build_model(EXPERT, automotive)
    cases = automotive.scenarios(12, 21, "train")
    done = await asyncio.gather(*(converse(team, user, case, sid=case.sid, seed=0, speaker=EXPERT) for case in cases))
    assert all(one.conversation.success for one in done)
