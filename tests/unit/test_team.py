"""One customer turn: state, replanning, confirmation, degradation, streaming; the Executor's transactions."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from agentmill.agents.contracts import ExecutorTask, Session, TurnOutcome, UnderstanderTask, UnknownSession
from agentmill.agents.executor import Executor
from agentmill.agents.frames import parse_frame
from agentmill.agents.settings import TeamSettings
from agentmill.agents.state import DialogueState
from agentmill.agents.team import Team
from agentmill.agents.understander import Understander
from agentmill.domains.base import Json
from agentmill.models.chat import ModelError
from agentmill.plans.sandbox import Sandbox
from tests.fakes import LEND_PLAN, Library, ScriptedModel, StreamingScript, heard, library

FIND_PLAN = 'book = find_book(title="Dune")'
OK = '{"ok":true,"violations":[]}'
SAFE = library().safe_reply


@pytest_asyncio.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(processes=1) as sandbox:
        yield sandbox


class Talk:
    """A conversation with a scripted team."""

    def __init__(self, sandbox: Sandbox, model: ScriptedModel, **settings: Any) -> None:
        self.worlds: list[Library] = []
        self.model = model
        self.domain = library(self.worlds)
        self.team = Team.local(self.domain, model, sandbox, TeamSettings(**settings))
        self.session = Session(id="")

    async def say(self, *utterances: str, **options: Any) -> TurnOutcome:
        """Say each; the outcome of the last."""
        if not self.session.id:
            self.session = await self.team.start("s1", world_seed=0)
        for utterance in utterances:
            outcome = await self.team.turn(self.session, utterance, seed=7, **options)
        return outcome

    @property
    def world(self) -> Json:
        return self.worlds[0].snapshot()

    @property
    def proposed(self) -> bool:
        return self.session.state.proposed


def model(**scripts: Any) -> ScriptedModel:
    """A model that finds Dune unless told otherwise."""
    usual = {"understander": heard("find", title="Dune"), "planner": FIND_PLAN, "evaluator": OK, "explainer": "Here."}
    return ScriptedModel(**(usual | scripts))


def lending(**scripts: Any) -> ScriptedModel:
    """A model that proposes to lend Dune to Ana and lends it when she agrees."""
    understander = [heard("lend", title="Dune", reader="Ana"), heard("lend", confirmed=True)]
    return model(understander=understander, planner=[FIND_PLAN, LEND_PLAN], **scripts)


async def test_an_answered_turn_records_all_of_it(sandbox: Sandbox) -> None:
    talk = Talk(sandbox, model())
    outcome = await talk.say("Where is Dune?")
    assert (outcome.turn.reply, outcome.turn.status, outcome.turn.intent) == ("Here.", "answered", "find")
    assert outcome.turn.plan == FIND_PLAN
    assert json.loads(outcome.turn.results_json) == {"book": {"found": True, "copies": 1}}
    assert outcome.turn.complexity > 0
    assert [call.agent for call in outcome.calls] == ["understander", "planner", "evaluator", "explainer"]
    assert outcome.calls[0].recorded("s1", 0, 0).call_id == "s1-0-0"
    assert talk.session.turn == 1
    assert talk.session.history == [("Where is Dune?", "Here.")]
    assert talk.world["log"] == [["find_book", {"title": "Dune"}]]


async def test_the_frames_are_exactly_as_agreed(sandbox: Sandbox) -> None:
    talk = Talk(sandbox, lending())
    await talk.say("I want Dune, I am Ana", "yes")
    first, second = (request.messages[1].content for request in talk.model.asked("understander"))
    assert first == "intent: none\nassistant: none\ncustomer: I want Dune, I am Ana"
    assert second == "intent: lend\ntitle: Dune\nreader: Ana\nproposed: yes\nassistant: Here.\ncustomer: yes"
    planned = [request.messages[1].content for request in talk.model.asked("planner")]
    assert planned == [
        "intent: lend\ntitle: Dune\nreader: Ana",
        "intent: lend\ntitle: Dune\nreader: Ana\nconfirmed: yes",
    ]
    assert talk.model.asked("evaluator")[0].messages[1].content == f"{planned[0]}\nplan: {FIND_PLAN}"
    explained = talk.model.asked("explainer")[0].messages[1].content
    results = '{"book":{"found":true,"copies":1}}'
    assert explained == f"{planned[0]}\ncustomer: I want Dune, I am Ana\nresults: {results}"
    assert talk.model.requests[0].messages[0].content == "brief understander"


async def test_a_confirmed_change_runs_once_and_the_confirmation_is_used_up(sandbox: Sandbox) -> None:
    talk = Talk(sandbox, lending())
    seen = []
    for utterance in ("I want Dune, I am Ana", "yes"):
        await talk.say(utterance)
        seen.append((talk.proposed, talk.session.state.confirmed, talk.world["loans"]))
    assert seen == [(True, False, []), (False, False, [["Dune", "Ana"]])]


async def test_a_confirmation_without_a_proposal_changes_nothing(sandbox: Sandbox) -> None:
    talk = Talk(sandbox, model(understander=heard("lend", True, title="Dune", reader="Ana"), planner=LEND_PLAN))
    outcome = await talk.say("yes, Dune for Ana")
    assert outcome.turn.status == "safe_reply"
    assert set(outcome.turn.violations) == {"CONFIRM_FIRST"}
    assert talk.world == Library(0).snapshot()


async def test_a_changed_entity_takes_the_confirmation_back(sandbox: Sandbox) -> None:
    changed = [heard("lend", title="Dune", reader="Ana"), heard("lend", True, title="Emma")]
    talk = Talk(sandbox, model(understander=changed, planner=[FIND_PLAN, 'book = find_book(title="Emma")']))
    await talk.say("Dune for Ana", "yes, but Emma")
    assert talk.proposed
    assert talk.world["loans"] == []


async def test_a_missing_entity_is_asked_for_even_if_the_model_does_not(sandbox: Sandbox) -> None:
    talk = Talk(sandbox, model(understander=heard("lend", title="Dune")))
    outcome = await talk.say("I want Dune")
    assert (outcome.turn.reply, outcome.turn.status) == ("What is your name?", "asked")
    assert [call.agent for call in outcome.calls] == ["understander"]


async def test_an_intent_without_tools_is_explained_at_once(sandbox: Sandbox) -> None:
    talk = Talk(sandbox, model(understander=heard("small_talk")))
    outcome = await talk.say("hello")
    assert [call.agent for call in outcome.calls] == ["understander", "explainer"]
    assert "results" not in parse_frame(outcome.calls[1].messages[1].content)


async def test_a_violation_goes_back_to_the_planner(sandbox: Sandbox) -> None:
    bad = 'book = find_book(title="Dune")\nx = find_bok(title="Dune")'
    talk = Talk(sandbox, model(planner=[bad, FIND_PLAN]))
    outcome = await talk.say("Where is Dune?")
    assert (outcome.turn.status, outcome.turn.replans) == ("answered", 1)
    assert outcome.turn.violations == ("UNKNOWN_TOOL",)
    frame = parse_frame(talk.model.asked("planner")[1].messages[1].content)
    assert frame["violation"].startswith("UNKNOWN_TOOL: there is no tool find_bok;")
    assert frame["plan"] == bad


async def test_replanning_is_bounded(sandbox: Sandbox) -> None:
    talk = Talk(sandbox, model(planner="x = nothing()"), max_replans=2)
    outcome = await talk.say("Where is Dune?")
    assert (outcome.turn.reply, outcome.turn.status) == (SAFE, "safe_reply")
    assert len(talk.model.asked("planner")) == 3


async def test_the_model_evaluator_can_refuse_and_is_asked_only_above_the_threshold(sandbox: Sandbox) -> None:
    no = '{"ok":false,"violations":["COPY_CHECK"]}'
    talk = Talk(sandbox, model(evaluator=[no, OK]))
    assert (await talk.say("Where is Dune?")).turn.violations == ("COPY_CHECK",)
    for threshold in (None, 10_000.0):
        quiet = Talk(sandbox, model(), complexity_threshold=threshold)
        await quiet.say("Where is Dune?")
        assert quiet.model.asked("evaluator") == []


@pytest.mark.parametrize(
    "output", ["yes", '{"ok":true,"violations":["COPY_CHECK"]}', '{"ok":false,"violations":["UNHEARD_OF"]}']
)
async def test_an_evaluator_without_a_valid_answer_lets_checked_plans_pass(sandbox: Sandbox, output: str) -> None:
    outcome = await Talk(sandbox, model(evaluator=output)).say("Where is Dune?")
    assert outcome.turn.status == "answered"
    assert [call.status for call in outcome.calls if call.agent == "evaluator"] == ["invalid"] * 3


async def test_a_tool_that_fails_undoes_the_plan_and_is_replanned(sandbox: Sandbox) -> None:
    fails = LEND_PLAN.replace("Dune", "Ulysses")
    talk = Talk(sandbox, lending())
    talk.model.scripts["understander"] = [heard("lend", title="Ulysses", reader="Ana"), heard("lend", True)]
    talk.model.scripts["planner"] = [FIND_PLAN, fails, FIND_PLAN]
    outcome = await talk.say("Ulysses for Ana", "yes")
    assert outcome.turn.violations == ("EXECUTION",)
    assert "no copy of Ulysses is left" in talk.model.asked("planner")[2].messages[1].content
    assert talk.world["books"] == Library(0).snapshot()["books"]
    assert talk.world["loans"] == []


@pytest.mark.parametrize("agent", ["understander", "planner", "explainer"])
@pytest.mark.parametrize("output", [ModelError("down"), " "])
async def test_an_agent_that_never_answers_ends_in_the_safe_reply(sandbox: Sandbox, agent: str, output: Any) -> None:
    talk = Talk(sandbox, model(**{agent: output}), attempts=2)
    outcome = await talk.say("Where is Dune?")
    assert (outcome.turn.reply, outcome.turn.status) == (SAFE, "safe_reply")
    failed = [call for call in outcome.calls if call.agent == agent]
    assert [call.status for call in failed] == ["error" if isinstance(output, ModelError) else "invalid"] * 2
    assert not talk.proposed


async def test_an_error_that_cannot_pass_is_not_retried(sandbox: Sandbox) -> None:
    talk = Talk(sandbox, model(understander=ModelError("no such model", retryable=False)))
    assert len((await talk.say("Where is Dune?")).calls) == 1


async def test_a_retry_is_shown_what_was_refused_and_why(sandbox: Sandbox) -> None:
    talk = Talk(sandbox, model(understander=["nonsense", heard("fly"), heard("find", title="Dune")]))
    outcome = await talk.say("Where is Dune?")
    assert outcome.turn.status == "answered"
    first, second, third = (request.messages for request in talk.model.asked("understander"))
    assert [message.role for message in second] == ["system", "user", "assistant", "user"]
    assert second[:2] == third[:2] == first
    assert second[2].content == "nonsense" and "no understanding" in second[3].content
    assert third[2].content == heard("fly") and "intent='fly' is unknown" in third[3].content


async def test_without_feedback_retries_sample_with_new_seeds_and_the_same_prompt(sandbox: Sandbox) -> None:
    script = model(understander=["nonsense", "{}", heard("find", title="Dune")])
    talk = Talk(sandbox, script, feedback=False)
    outcome = await talk.say("Where is Dune?")
    assert outcome.turn.status == "answered"
    requests = talk.model.asked("understander")
    assert [request.sampling.temperature for request in requests] == [0.0, 0.7, 0.7]
    assert len({request.sampling.seed for request in requests}) == 3
    assert len({request.messages for request in requests}) == 1


@pytest.mark.parametrize(
    "output",
    [
        heard("fly"),
        heard("find", colour="red"),
        heard("find", title="Emma"),
        heard("find", title=3),
        heard("find", title=""),
        heard("find", title="\u200b"),
        heard("browse", shelf=10**13),
        heard("browse", shelf="4"),
        heard("browse", shelf=True),
        heard("browse", genre="crime"),
        '{"intent":"find","entities":[]}',
        '["find"]',
    ],
)
async def test_an_understanding_that_is_not_the_domains_is_refused(output: str) -> None:
    understander = Understander(library(), model(understander=output), TeamSettings())
    task = UnderstanderTask(state=DialogueState(), assistant="", utterance="Where is Dune? Shelf 4?")
    result = await understander.run(task)
    assert result.understanding is None
    assert {call.status for call in result.calls} == {"invalid"}


async def test_a_value_is_kept_as_one_line_of_signs_that_are_seen() -> None:
    understander = Understander(library(), model(understander=heard("find", title="Du\u200bne\n ")), TeamSettings())
    result = await understander.run(UnderstanderTask(state=DialogueState(), assistant="", utterance="Dune"))
    assert result.understanding is not None
    assert result.understanding.entities == {"title": "Dune"}


async def test_what_is_too_long_to_be_read_is_read_by_no_model(sandbox: Sandbox) -> None:
    talk = Talk(sandbox, lending(), max_utterance=40)
    await talk.say("I want Dune, I am Ana")
    outcome = await talk.say("yes " * 11)
    assert (outcome.turn.reply, outcome.turn.status, outcome.calls) == (SAFE, "safe_reply", ())
    assert not talk.proposed
    assert talk.world["loans"] == []


@pytest.mark.parametrize(
    ("output", "question"),
    [
        (heard("find", question="Which book would it be?"), "Which book would it be?"),
        (heard("find", question="What is your name?"), "Which book?"),
        (heard("find", title="Dune", question="Which book?"), None),
        (heard("browse"), "Which genre?"),
        (heard("browse", shelf=4), None),
        (heard("small_talk", question="How are you?"), None),
    ],
)
async def test_a_question_is_asked_exactly_when_it_is_due(output: str, question: str | None) -> None:
    understander = Understander(library(), model(understander=f"```json\n{output}\n```"), TeamSettings())
    result = await understander.run(UnderstanderTask(state=DialogueState(), assistant="", utterance="Dune on 4"))
    assert result.understanding is not None
    assert result.understanding.question == question


async def test_a_reply_is_streamed_as_it_is_made(sandbox: Sandbox) -> None:
    pieces: list[str] = []

    async def sink(text: str) -> None:
        pieces.append(text)

    model = StreamingScript(understander=heard("small_talk"), explainer="Hello  there,\n you. ")
    outcome = await Talk(sandbox, model).say("hi", stream=sink)
    assert "".join(pieces) == outcome.turn.reply == "Hello there, you."
    assert len(pieces) > 5


@pytest.mark.parametrize(("cut_after", "expected"), [(5, f"Hello {SAFE}"), (0, SAFE)])
async def test_a_stream_that_breaks_off_ends_in_the_safe_reply(sandbox: Sandbox, cut_after: int, expected: str) -> None:
    pieces: list[str] = []

    async def sink(text: str) -> None:
        pieces.append(text)

    model = StreamingScript(cut_after, understander=heard("small_talk"), explainer="Hello there.")
    outcome = await Talk(sandbox, model).say("hi", stream=sink)
    assert "".join(pieces) == outcome.turn.reply == expected
    assert outcome.turn.status == "safe_reply"


@pytest.mark.parametrize(
    "plan",
    [
        "import os",
        "while True:\n    find_book(title='Dune')",
        'lend_book(title="Dune", reader="Ana")',
        'x = find_book(title="Dune")\ny = find_book(title=3)',
        'x = find_book(title="Dune")\ny = find_book(title=x["copies"])',
        'x = find_book(title="Dune")\ny = delete(title="Dune")',
        'x = find_book(title="Dune")\ny = list_books()',
        'x = find_book(title="Dune")\ny = find_book(title=x["absent"])',
        'x = find_book(title="Dune")\ny = find_book()',
    ],
)
async def test_the_executor_alone_leaves_the_world_unchanged_when_a_plan_is_wrong(sandbox: Sandbox, plan: str) -> None:
    worlds: list[Library] = []
    executor = Executor(library(worlds), sandbox)
    await executor.open("s", 0)
    before = await executor.snapshot("s")
    state = DialogueState(intent="lend", confirmed=False)
    result = await executor.run(ExecutorTask(session="s", plan=plan, state=state))
    assert result.error
    assert result.results == {}
    assert await executor.snapshot("s") == before


async def test_sessions_have_worlds_of_their_own_and_facts_are_kept_up_to_date(sandbox: Sandbox) -> None:
    worlds: list[Library] = []
    executor = Executor(library(worlds), sandbox)
    assert (await executor.open("a", 0))["loans"] == 0
    await executor.open("b", 0)
    with pytest.raises(ValueError, match="already has a world"):
        await executor.open("a", 0)
    task = ExecutorTask(session="a", plan=LEND_PLAN, state=DialogueState(intent="lend", confirmed=True))
    assert (await executor.run(task)).facts == {"open": True, "loans": 1}
    assert (await executor.snapshot("b"))["loans"] == []
    await executor.close("a")
    assert worlds[0].closed
    with pytest.raises(UnknownSession, match="open it first"):
        await executor.run(task)


async def test_arguments_are_logged_without_those_that_are_the_default(sandbox: Sandbox) -> None:
    executor = Executor(library(), sandbox)
    await executor.open("s", 0)
    plan = "a = list_books(shelf=4)\nb = list_books(shelf=None, longest=100)"
    await executor.run(ExecutorTask(session="s", plan=plan, state=DialogueState(intent="browse")))
    assert (await executor.snapshot("s"))["log"] == [["list_books", {"shelf": 4}], ["list_books", {}]]
