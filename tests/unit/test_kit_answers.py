"""The kit's expert on a made-up library: it reads any state, decides verdicts by rules and the plan that is due."""

import asyncio
import json
from random import Random

import pytest

from agentmill.agents.contracts import EvaluatorTask, PlannerTask
from agentmill.agents.evaluator import Evaluator
from agentmill.agents.frames import parse_frame, render_frame
from agentmill.agents.planner import Planner
from agentmill.agents.settings import TeamSettings
from agentmill.agents.state import DialogueState
from agentmill.domains.base import Domain, Json
from agentmill.domains.kit.answers import Answers
from agentmill.domains.kit.expert import Expert, with_expert
from agentmill.domains.kit.grounding import Grounding
from agentmill.domains.kit.mistakes import Mistakes
from agentmill.domains.kit.policy import Frame, Policy
from agentmill.domains.kit.writing import call
from agentmill.models.chat import AgentName, ChatRequest, Message, Sampling
from agentmill.plans.compare import calls_of
from agentmill.plans.parse import Plan
from tests.fakes import LEND_PLAN, library

LEND = {"intent": "lend", "title": "Dune", "reader": "Ana", "confirmed": "yes"}
BOTH = {"intent": "browse", "also": "find", "shelf": "4", "title": "Dune"}
HEARD: Json = {
    "intent": "lend", "entities": {"title": "Dune", "reader": "Ana"}, "confirmed": False, "question": None,
}  # fmt: skip


def _plan(state: DialogueState, violations: str) -> str:
    lines: list[str] = []
    for request in state.requests:
        if request == "browse":
            lines.append(f"books = {call('list_books', state.entities, 'shelf')}")
        elif state.confirmed and "EXECUTION" not in violations:
            lines.append(LEND_PLAN)
        else:
            lines.append(f"book = {call('find_book', state.entities, 'title')}")
    return "\n".join(lines)


def _understand(frame: Frame) -> Json:
    return HEARD


POLICY = Policy(
    understand=_understand,
    plan=_plan,
    explain=lambda frame: "Dune is there.",
    customer=lambda frame, seed: "EXIT",
    grounding=Grounding("The Library", names=("Dune",)),
)
DOMAIN: Domain = with_expert(library(), POLICY)
ANSWERS = Answers(DOMAIN, POLICY)


def verdict(frame: Json, plan: str) -> list[str]:
    said: Json = json.loads(ANSWERS.answer("evaluator", {**frame, "plan": plan}))
    assert said["ok"] == (not said["violations"])
    codes: list[str] = said["violations"]
    return codes


@pytest.mark.parametrize(
    "state",
    [
        DialogueState(),
        DialogueState(intent="lend", entities={"title": "Dune", "reader": "Ana"}, confirmed=True),
        DialogueState(intent="browse", also=("find",), entities={"shelf": 4, "title": "4"}),
    ],
)
def test_a_state_is_read_back_from_the_frame_that_shows_it(state: DialogueState) -> None:
    frame = parse_frame(render_frame(state.fields(DOMAIN.slots_of(state.requests))))
    assert ANSWERS.state_of(frame) == state


def test_memory_and_proposal_are_read_from_an_understanders_frame() -> None:
    frame = parse_frame(render_frame({"intent": "none", "proposed": True, "memory": {"title": ["Dune", "Emma"]}}))
    state = ANSWERS.state_of(frame)
    assert (state.proposed, state.memory, state.requests) == (True, {"title": ["Dune", "Emma"]}, ())


@pytest.mark.parametrize(
    ("frame", "plan", "codes"),
    [
        (LEND, LEND_PLAN, []),
        (LEND, LEND_PLAN.replace("book", "x").replace("find_x", "find_book").replace("lend_x", "lend_book"), []),
        (LEND, 'done = lend_book(title="Dune", reader="Ana")', ["COPY_CHECK"]),
        (LEND, 'book = find_book(title="Dune")', ["INCOMPLETE_PLAN"]),
        (LEND, f'{LEND_PLAN}\nmore = find_book(title="Emma")', ["NEEDLESS_CALL"]),
        (LEND, 'book = find_book(title="Emma")', ["INCOMPLETE_PLAN", "NEEDLESS_CALL"]),
        (BOTH, 'a = list_books(shelf=4)\nb = find_book(title="Dune")', []),
        (BOTH, 'b = find_book(title="Dune")\na = list_books(shelf=4)', []),
        (BOTH, 'b = find_book(title="Dune")', ["INCOMPLETE_PLAN"]),
        (BOTH, "import os", ["INCOMPLETE_PLAN"]),
    ],
)
def test_a_plan_is_judged_by_the_rules_and_then_by_the_plan_that_is_due(
    frame: Json, plan: str, codes: list[str]
) -> None:
    assert verdict(frame, plan) == codes


def test_a_stopped_change_is_only_checked_and_the_evaluator_lets_that_pass() -> None:
    after = {**LEND, "violation": "EXECUTION: no copy is left"}
    stopped = ANSWERS.answer("planner", {**after, "plan": LEND_PLAN})
    assert stopped == 'book = find_book(title="Dune")'
    assert verdict(after, stopped) == []
    assert verdict(LEND, stopped) == ["INCOMPLETE_PLAN"]


def test_verdicts_and_plans_pass_the_agents_that_ask_for_them() -> None:
    state = DialogueState(intent="lend", entities={"title": "Dune", "reader": "Ana"}, confirmed=True)
    expert, settings = Expert(ANSWERS), TeamSettings(prompts="brief")
    planned = asyncio.run(Planner(DOMAIN, expert, settings).run(PlannerTask(state=state)))
    assert planned.plan == LEND_PLAN
    needless = f'{LEND_PLAN}\nmore = find_book(title="Emma")'
    judged = asyncio.run(Evaluator(DOMAIN, expert, settings).run(EvaluatorTask(state=state, plan=needless)))
    assert [found.code for found in judged.violations] == ["NEEDLESS_CALL"]


def test_calls_are_the_same_whatever_their_variables_are_called_and_follow_what_they_depend_on() -> None:
    one = 'books = list_books()\nfor book in books:\n    found = find_book(title=book["title"])'
    same = "a = list_books()\nfor b in a:\n    c = find_book(title=b.title)"
    other = 'books = list_books(shelf=4)\nfor book in books:\n    found = find_book(title=book["title"])'
    first, second, third = (calls_of(Plan.parse(text)) for text in (one, same, other))
    assert first == second
    assert len(first & third) == 0
    twice = calls_of(Plan.parse("list_books()\nlist_books()"))
    assert list(twice.values()) == [2]


def test_a_chain_of_calls_does_not_grow_the_texts_that_are_compared() -> None:
    lines = ['v0 = find_book(title="Dune")']
    lines += [f'v{n} = lend_book(title=v{n - 1}["a"], reader=v{n - 1}["b"])' for n in range(1, 60)]
    assert max(map(len, calls_of(Plan.parse("\n".join(lines))))) < 200


def spoiled(agent: str, frame: Json) -> dict[str, set[str]]:
    """Every mistake that 300 draws make, by kind."""
    right = ANSWERS.answer(agent, frame)
    found: dict[str, set[str]] = {}
    for seed in range(300):
        mistake = Mistakes(ANSWERS).spoil(agent, frame, right, Random(seed))
        if mistake is not None:
            found.setdefault(mistake[0], set()).add(mistake[1])
    return found


def test_planners_make_every_kind_of_mistake_and_the_checks_or_the_verdict_tell() -> None:
    found = spoiled("planner", LEND)
    assert found.keys() == {"missing_check", "wrong_tool", "incomplete", "needless"}
    assert found["missing_check"] == {'done = lend_book(title="Dune", reader="Ana")'}
    assert found["wrong_tool"] == {"found = list_books()"}
    assert spoiled("planner", BOTH)["incomplete"] == {'book = find_book(title="Dune")', "books = list_books(shelf=4)"}
    for frame in (LEND, BOTH):
        for kind, plans in spoiled("planner", frame).items():
            for plan in plans:
                caught = ANSWERS.broken(frame, plan)
                assert bool(caught) == (kind in ("missing_check", "wrong_tool")), plan
                assert verdict(frame, plan), plan


def test_a_wrong_understanding_never_leads_to_the_right_state() -> None:
    assert spoiled("understander", {"intent": "none", "customer": "Dune for Ana"})["wrong_entity"]
    known = {"intent": "lend", "title": "Dune", "reader": "Ana", "customer": "Dune for Ana, I said"}
    assert spoiled("understander", known) == {}
    half = {"intent": "lend", "title": "Dune", "memory": '{"reader":["Ana","Bo"]}', "customer": "Dune for Ana, I said"}
    wrong = spoiled("understander", half)["wrong_entity"]
    assert {json.loads(text)["entities"].get("reader") for text in wrong} == {"Bo"}


def test_invented_sentences_are_ungrounded() -> None:
    frame = {"intent": "find", "title": "Dune", "customer": "Dune?", "results": '{"book":{"found":true}}'}
    for text in spoiled("explainer", frame)["ungrounded_sentence"]:
        assert POLICY.grounding.ungrounded(text, ANSWERS.context(frame))
    assert POLICY.grounding.ungrounded("Dune is there.", ANSWERS.context(frame)) == []


@pytest.mark.parametrize(("agent", "frame"), [("planner", LEND), ("planner", BOTH), ("understander", HEARD)])
def test_the_judge_mends_every_mistake_of_a_teacher(agent: AgentName, frame: Json) -> None:
    prompt = render_frame(frame) if agent == "planner" else "intent: none\ncustomer: Dune for Ana"
    right = _ask(Expert(ANSWERS), agent, prompt)
    for seed in range(30):
        wrong = _ask(Expert(ANSWERS, 1.0), agent, prompt, seed)
        asked = {"agent": agent, "prompt": json.dumps(prompt), "output": json.dumps(wrong)}
        said = json.loads(_ask(Expert(ANSWERS), "judge", render_frame(asked)))
        assert (said["verdict"], said["output"]) == ("edit", right), wrong


def _ask(expert: Expert, agent: AgentName, frame: str, seed: int = 0) -> str:
    request = ChatRequest(agent=agent, messages=(Message(role="user", content=frame),), sampling=Sampling(seed=seed))
    return asyncio.run(expert.complete(request)).text
