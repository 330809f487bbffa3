"""Changes of the business: the domain under them, the state that carries them, and the Executor that makes them."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from agentmill.agents.contracts import ExecutorTask, PlannerTask, Session, SwitchRefused, UnknownSession
from agentmill.agents.executor import Executor
from agentmill.agents.frames import parse_frame
from agentmill.agents.planner import Planner
from agentmill.agents.settings import Structured, TeamSettings
from agentmill.agents.state import DialogueState, Understanding
from agentmill.agents.team import Team
from agentmill.agents.understander import due_question
from agentmill.domains.base import Domain, WorldSettings
from agentmill.domains.switching import Switch, UnknownSwitch
from agentmill.plans.check import check
from agentmill.plans.parse import Plan
from agentmill.plans.rename import with_tools_named
from agentmill.plans.sandbox import Sandbox
from tests.fakes import LEND_PLAN, Library, ScriptedModel, heard
from tests.switching import SWITCHES, switching_library

LENDING = DialogueState(intent="lend", entities={"title": "Dune", "reader": "Ana"}, confirmed=True)
OK = '{"ok":true,"violations":[]}'


@pytest_asyncio.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(processes=1) as sandbox:
        yield sandbox


@pytest.fixture
def domain() -> Domain:
    return switching_library()


def after(*switches: str) -> DialogueState:
    return LENDING.model_copy(update={"switches": switches})


def codes(domain: Domain, plan: str, *switches: str) -> list[str]:
    return [found.code for found in check(Plan.parse(plan), domain, after(*switches), {})]


def test_a_renamed_tool_has_its_new_name_everywhere_and_its_old_one_in_the_log(domain: Domain) -> None:
    under = domain.under(["loans_renamed"])
    assert list(under.tools) == ["find_book", "list_books", "hand_out"]
    assert under.intents["lend"].tools == ("find_book", "hand_out")
    assert (under.tools["hand_out"].name, under.tools["hand_out"].logged) == ("hand_out", "lend_book")
    assert under.prompts["full"]["planner"].endswith("hand_out")
    assert under.prompts["brief"] == domain.prompts["brief"]
    assert list(domain.tools) == ["find_book", "list_books", "lend_book"]


def test_the_old_name_is_unknown_once_the_tool_is_renamed_and_rules_hold_for_the_new_one(domain: Domain) -> None:
    renamed = LEND_PLAN.replace("lend_book", "hand_out")
    assert codes(domain, LEND_PLAN) == []
    assert codes(domain, renamed) == ["UNKNOWN_TOOL"]
    assert codes(domain, LEND_PLAN, "loans_renamed") == ["UNKNOWN_TOOL"]
    assert codes(domain, renamed, "loans_renamed") == []
    assert codes(domain, 'done = hand_out(title="Dune", reader="Ana")', "loans_renamed") == ["COPY_CHECK"]


def test_sentences_of_rules_speak_of_tools_by_their_names_of_now(domain: Domain) -> None:
    plan = Plan.parse(LEND_PLAN.replace("lend_book", "hand_out"))
    found = check(plan, domain, after("no_looking", "loans_renamed"), {})
    assert [violation.message for violation in found] == ["Leave out find_book, and call hand_out alone."]


def test_a_tool_that_gains_an_argument_is_asked_for_it_and_refused_without(domain: Domain) -> None:
    assert codes(domain, LEND_PLAN, "from_a_shelf") == ["MISSING_ARGUMENT"]
    assert codes(domain, LEND_PLAN.replace('"Ana")', '"Ana", shelf=4)'), "from_a_shelf") == []
    understood = Understanding(intent="lend", confirmed=True)
    state = LENDING.model_copy(update={"proposed": True})
    assert due_question(domain, state, understood) is None
    assert due_question(domain, state.model_copy(update={"switches": ("from_a_shelf",)}), understood) == "Which shelf?"


def test_an_added_rule_holds_from_its_switch_on(domain: Domain) -> None:
    assert codes(domain, LEND_PLAN, "no_looking") == ["NO_LOOK"]
    assert {rule.code for rule in domain.under(["no_looking"]).rules} == {"COPY_CHECK", "NO_LOOK"}


def test_switches_add_up(domain: Domain) -> None:
    plan = 'book = find_book(title="Dune")\nif book["found"]:\n    done = hand_out(title="Dune", reader="Ana", shelf=4)'
    assert codes(domain, plan, "loans_renamed", "from_a_shelf", "copy_lost:Dune") == []
    assert codes(domain, plan, "loans_renamed") == ["UNKNOWN_ARGUMENT"]


def test_a_domain_under_switches_is_made_once_and_asked_of_the_pack_again(domain: Domain) -> None:
    under = domain.under(["loans_renamed", "copy_lost:Dune"])
    assert under is domain.under(["loans_renamed", "copy_lost:Emma"])
    assert under.under([]) is domain.under([]) is domain
    assert "NO_LOOK" in {rule.code for rule in under.under(["no_looking"]).rules}
    assert "hand_out" not in under.under(["no_looking"]).tools


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("loans_renamd", "did you mean loans_renamed"),
        ("copy_lost", "it says about what after a colon"),
        ("copy_lost:a\nb", "one line of words"),
        ("copy_lost:", "one line of words"),
        ("no_looking:Dune", "takes no value"),
    ],
)
def test_a_switch_that_is_none_is_told(domain: Domain, name: str, sentence: str) -> None:
    with pytest.raises(UnknownSwitch, match=sentence):
        domain.under([name])


def test_a_frame_shows_notices_only_where_there_are_any_and_is_read_back(domain: Domain) -> None:
    planner = Planner(domain, ScriptedModel(planner=""), TeamSettings())
    state = after("copy_lost:Dune", "from_a_shelf")
    frame = planner.frame(PlannerTask(state=state))
    assert "changes" not in planner.frame(PlannerTask(state=LENDING))
    fields = parse_frame(frame)
    assert fields["changes"] == '["A copy of Dune is lost.","lend_book needs shelf."]'
    assert DialogueState.read(fields, domain) == state
    with pytest.raises(UnknownSwitch, match="no switch of the pack gives the notice"):
        DialogueState.read({**fields, "changes": '["Everything is free."]'}, domain)


def test_the_grammar_of_plans_follows(domain: Domain) -> None:
    planner = Planner(domain, ScriptedModel(planner=""), TeamSettings(structured=Structured(planner=True)))
    assert "hand_out" in planner._grammar(after("loans_renamed"))
    assert "hand_out" not in planner._grammar(LENDING)


def test_only_calls_are_renamed_and_nothing_else_in_a_plan() -> None:
    plan = 'été = find(title="find (é) this")\nif été["find"]:\n    done = find(title="x"); find(title="y")'
    assert with_tools_named(plan, {"find": "look_up", "done": "never"}) == (
        'été = look_up(title="find (é) this")\nif été["find"]:\n    done = look_up(title="x"); look_up(title="y")'
    )


async def test_a_switch_is_made_once_in_the_sessions_own_world(sandbox: Sandbox) -> None:
    worlds: list[Library] = []
    executor = Executor(switching_library(worlds), sandbox)
    await executor.open("one", 2)
    await executor.open("other", 2)
    for _ in range(3):
        await executor.switch("one", "copy_lost:Dune")
    await executor.switch("one", "copy_lost:Emma")
    assert [world.snapshot()["books"]["Dune"] for world in worlds] == [2, 3]
    assert [world.snapshot()["books"]["Emma"] for world in worlds] == [1, 2]


async def test_a_switch_that_cannot_be_made_leaves_the_world_as_it_was(sandbox: Sandbox) -> None:
    worlds: list[Library] = []
    executor = Executor(switching_library(worlds), sandbox)
    await executor.open("one", 2)
    before = worlds[0].snapshot()
    with pytest.raises(UnknownSwitch, match="there is no book Hamlet"):
        await executor.switch("one", "copy_lost:Hamlet")
    with pytest.raises(UnknownSession):
        await executor.switch("none", "copy_lost:Dune")
    assert worlds[0].snapshot() == before


async def test_the_executor_binds_the_tools_of_now_whatever_the_state_says(sandbox: Sandbox) -> None:
    worlds: list[Library] = []
    executor = Executor(switching_library(worlds), sandbox)
    await executor.open("one", 2)
    await executor.switch("one", "loans_renamed")
    stale = await executor.run(ExecutorTask(session="one", plan=LEND_PLAN, state=LENDING, key="a"))
    assert stale.error is not None
    renamed = LEND_PLAN.replace("lend_book", "hand_out")
    ran = await executor.run(ExecutorTask(session="one", plan=renamed, state=after("loans_renamed"), key="b"))
    assert (ran.error, ran.changed) == (None, True)
    assert [name for name, _ in worlds[0].snapshot()["log"]] == ["find_book", "lend_book"]


async def test_a_shared_world_is_not_switched(sandbox: Sandbox) -> None:
    shared = WorldSettings(url="sqlite:///nowhere.db", shared=True)
    with pytest.raises(SwitchRefused, match="it would change for every customer"):
        await Executor(switching_library(), sandbox, shared).switch("one", "copy_lost:Dune")


def talk(sandbox: Sandbox, **scripts: object) -> tuple[Team, ScriptedModel]:
    model = ScriptedModel(**{"evaluator": OK, "explainer": "Done.", **scripts})  # type: ignore[arg-type]
    return Team.local(switching_library(), model, sandbox, TeamSettings()), model


async def test_a_change_between_a_proposal_and_the_word_for_it_holds_for_the_plan_and_is_on_record(
    sandbox: Sandbox,
) -> None:
    lend = heard("lend", title="Dune", reader="Ana")
    plans = ['book = find_book(title="Dune")', LEND_PLAN, LEND_PLAN.replace("lend_book", "hand_out")]
    team, model = talk(sandbox, understander=[lend, heard("lend", confirmed=True)], planner=plans)
    session = await team.start("one", 2)
    asked = await team.turn(session, "Lend me Dune, I am Ana.", 1)
    assert session.state.proposed
    for _ in range(2):
        await team.switch(session, "loans_renamed")
    done = await team.turn(session, "Yes", 2)
    assert (asked.turn.switches, done.turn.switches) == ((), ("loans_renamed",))
    assert done.turn.violations == ("UNKNOWN_TOOL",)
    assert done.turn.plan == plans[2]
    assert (await team.executor.snapshot("one"))["loans"] == [["Dune", "Ana"]]
    shown = [parse_frame(request.messages[-1].content).get("changes") for request in model.asked("planner")]
    assert shown == [None, '["lend_book is called hand_out."]', '["lend_book is called hand_out."]']
    assert session.news == ()
    assert session.state.switches == ("loans_renamed",)


async def test_a_change_that_asks_for_more_makes_the_customer_confirm_again(sandbox: Sandbox) -> None:
    lend = heard("lend", title="Dune", reader="Ana")
    said = [lend, heard("lend", confirmed=True), heard("lend", shelf=4), heard("lend", confirmed=True)]
    look, full = 'book = find_book(title="Dune")', LEND_PLAN.replace('"Ana")', '"Ana", shelf=4)')
    team, model = talk(sandbox, understander=said, planner=[look, look, full])
    session = await team.start("one", 2)
    await team.turn(session, "Lend me Dune, I am Ana.", 1)
    await team.switch(session, "from_a_shelf")
    replies = [(await team.turn(session, said, 2)).turn for said in ("Yes", "Shelf 4", "Yes")]
    assert [turn.status for turn in replies] == ["asked", "answered", "answered"]
    assert replies[0].reply == "Which shelf?"
    assert (await team.executor.snapshot("one"))["loans"] == [["Dune", "Ana from 4"]]
    first, second, *_ = [parse_frame(request.messages[-1].content) for request in model.asked("understander")]
    assert "changes" not in first
    assert second["changes"] == '["lend_book needs shelf."]'


async def test_an_unknown_switch_changes_nothing(sandbox: Sandbox) -> None:
    team, _ = talk(sandbox, understander="")
    session = await team.start("one", 2)
    with pytest.raises(UnknownSwitch):
        await team.switch(session, "moved_away")
    assert (session.state, session.news) == (DialogueState(), ())


async def test_a_switch_that_holds_already_is_not_asked_of_the_executor(sandbox: Sandbox) -> None:
    team, _ = talk(sandbox, understander="")
    team.executor = None  # type: ignore[assignment]
    session = Session(id="one", state=after("no_looking"))
    await team.switch(session, "no_looking")
    assert session.state.switches == ("no_looking",)


def test_notices_that_read_alike_refuse_a_pack() -> None:
    from agentmill.domains.consistency import inconsistencies

    def problems(*switches: Switch) -> list[str]:
        pack = replace(switching_library(), switches={switch.name: switch for switch in switches})
        return [problem for problem in inconsistencies(pack) if "switch" in problem]

    lost = SWITCHES["copy_lost"]
    assert problems(*SWITCHES.values()) == []
    assert "would not tell them apart" in problems(lost, replace(lost, name="copy_gone"))[0]
    assert "has no notice" in problems(replace(lost, notice=" "))[0]
    assert "changes neither the world" in problems(replace(lost, apply=None))[0]
    assert "did you mean lend_book" in problems(replace(lost, renames={"lend_bok": "hand_out"}))[0]
    assert "is no name or a tool already" in problems(replace(lost, renames={"lend_book": "find_book"}))[0]
    assert "there is no such entity" in problems(replace(lost, asks={"lend": ("colour",)}))[0]
    assert "there is no such intent" in problems(replace(lost, serves={"read": ("find_book",)}))[0]
    other = {"find_book": SWITCHES["from_a_shelf"].tools["lend_book"]}
    assert "call the function find_book" in problems(replace(lost, tools=other))[0]
