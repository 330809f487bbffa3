"""The judge and the verification behind it: what is kept, rewritten, or left unjudged, and why."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from agentmill.agents.frames import parse_frame
from agentmill.agents.state import DialogueState
from agentmill.domains.base import Domain, load_domain
from agentmill.judgement import CRITERIA
from agentmill.models.chat import AgentName, ChatReply, ChatRequest, ModelError
from agentmill.plans.sandbox import Sandbox
from simulation.judge import Judge, Judged, canonical_output, judge_frame
from simulation.models import ModelSettings, build_model
from simulation.verify import Place, Verifier
from tests.fakes import Script, ScriptedModel

HEARD = '{"intent":"opening_hours","entities":{"day":"friday"},"confirmed":false,"question":null}'
FRAME = "intent: none\nassistant: none\ncustomer: When are you open on Friday?"
PLAN_FRAME = "intent: opening_hours\nday: friday"
PLAN = 'hours = opening_hours(day="friday")'


def verdict(name: str, output: str, agent: AgentName = "planner", **more: Any) -> str:
    said = {"criteria": dict.fromkeys(CRITERIA[agent], True), "severity": "none", "reason": "because"}
    return json.dumps({**said, "verdict": name, "output": output, **more})


@pytest.fixture(scope="module")
def automotive() -> Domain:
    return load_domain("automotive")


@pytest_asyncio.fixture
async def verifier(automotive: Domain) -> AsyncIterator[Verifier]:
    async with Sandbox(processes=1) as sandbox:
        yield Verifier(automotive, sandbox)


def scripted(domain: Domain, *lines: Script, attempts: int = 2) -> tuple[Judge, ScriptedModel]:
    model = ScriptedModel(judge=list(lines))
    return Judge(domain, model, ModelSettings(), attempts=attempts, max_tokens=100), model


async def test_the_expert_keeps_what_is_right_and_writes_anew_what_is_wrong(automotive: Domain) -> None:
    judge = Judge(automotive, build_model(ModelSettings(), automotive), ModelSettings(), attempts=1, max_tokens=100)
    kept = await judge.judge("understander", FRAME, HEARD)
    assert (kept.verdict, kept.refined) == ("keep", HEARD)
    edited = await judge.judge("understander", FRAME, HEARD.replace("friday", "monday"))
    assert (edited.verdict, edited.refined) == ("edit", HEARD)
    assert edited.reason


async def test_a_plan_keeps_its_lines_on_the_way_to_the_judge() -> None:
    plan = 'a = find(x=1)\nif a["y"]:\n    b = go(z=1)'
    frame = parse_frame(judge_frame("planner", PLAN_FRAME, plan, "the truth"))
    assert list(frame) == ["agent", "prompt", "truth", "output"]
    assert json.loads(frame["output"]) == plan
    assert json.loads(frame["prompt"]) == PLAN_FRAME


@pytest.mark.parametrize(
    ("answer", "because"),
    [
        ("", "unreadable"),
        ("fine", "unreadable"),
        ('{"verdict":"keep"}', "unreadable"),
        (verdict("good", PLAN), "unreadable"),
        (verdict("keep", PLAN, severity="awful"), "unreadable"),
        (verdict("keep", PLAN, criteria={"format": True}), "unreadable"),
        (verdict("edit", " "), "contradictory"),
        (verdict("keep", "", criteria=dict.fromkeys(CRITERIA["planner"], False)), "contradictory"),
    ],
)
async def test_a_judge_that_cannot_be_read_is_asked_again_and_then_leaves_the_call_unjudged(
    automotive: Domain, answer: str, because: str
) -> None:
    judge, model = scripted(automotive, answer)
    judged = await judge.judge("planner", PLAN_FRAME, PLAN)
    assert (judged.verdict, judged.refined, judged.because) == ("unjudged", "", because)
    assert judged.failed and judged.asked == len(model.requests) == 2
    told = model.requests[1].messages
    assert told[:2] == model.requests[0].messages
    assert "That was refused" in told[-1].content  # the judge hears what was wrong with its answer


async def test_a_judge_that_does_not_answer_leaves_the_call_unjudged_with_the_reason(automotive: Domain) -> None:
    judge, model = scripted(automotive, ModelError("no route", retryable=False))
    judged = await judge.judge("planner", PLAN_FRAME, PLAN)
    assert (judged.verdict, judged.reason) == ("unjudged", "the judge did not answer: no route")
    assert len(model.requests) == 1


async def test_the_second_answer_counts_where_the_first_cannot_be_read(automotive: Domain) -> None:
    judge, _ = scripted(automotive, "hm", f"```json\n{verdict('keep', PLAN)}\n```")
    assert (await judge.judge("planner", PLAN_FRAME, PLAN)).verdict == "keep"


async def test_an_answer_that_is_cut_counts_as_no_verdict_and_what_it_cost_is_counted(automotive: Domain) -> None:
    class Cut(ScriptedModel):
        async def complete(self, request: ChatRequest) -> ChatReply:
            answer = await super().complete(request)
            return answer.model_copy(update={"finish_reason": "length" if len(self.requests) == 1 else "stop"})

    async def judged(attempts: int) -> Judged:
        judge = Judge(automotive, Cut(judge=verdict("keep", "")), ModelSettings(), attempts=attempts, max_tokens=10)
        return await judge.judge("planner", PLAN_FRAME, PLAN)

    done = await judged(2)
    assert (done.verdict, done.refined, done.asked, done.prompt_tokens) == ("keep", PLAN, 2, 2)
    assert (await judged(1)).because == "cut"


async def test_an_endpoint_that_refuses_the_schema_is_asked_without_it(automotive: Domain) -> None:
    def answer(request: ChatRequest) -> str:
        if request.response_schema is not None:
            raise ModelError("answered 400: response_format is unknown", retryable=False)
        return verdict("keep", "")

    endpoint = ModelSettings(kind="endpoint", url="http://localhost:1/v1", name="judge")
    model = ScriptedModel(judge=answer)
    judge = Judge(automotive, model, endpoint, attempts=2, max_tokens=100)
    assert (await judge.judge("planner", PLAN_FRAME, PLAN)).verdict == "keep"
    assert (await judge.judge("planner", PLAN_FRAME, PLAN)).asked == 1
    assert [request.structured for request in model.requests] == [True, False, False]
    schema = model.requests[0].response_schema
    assert schema is not None
    assert set(schema["properties"]["criteria"]["properties"]) == set(CRITERIA["planner"])


async def test_severity_follows_the_text(automotive: Domain) -> None:
    other = PLAN.replace("friday", "monday")
    judge, _ = scripted(automotive, verdict("edit", other, severity="critical"), verdict("edit", other))
    assert (await judge.judge("planner", PLAN_FRAME, PLAN)).severity == "critical"
    assert (await judge.judge("planner", PLAN_FRAME, PLAN)).severity == "minor"
    judge, _ = scripted(automotive, verdict("keep", PLAN, severity="major"))
    assert (await judge.judge("planner", PLAN_FRAME, PLAN)).severity == "none"


async def test_the_text_decides_whatever_the_judge_calls_it(automotive: Domain) -> None:
    judge, _ = scripted(automotive, verdict("keep", "hours = opening_hours()"), verdict("edit", PLAN))
    assert (await judge.judge("planner", PLAN_FRAME, PLAN)).verdict == "edit"
    assert (await judge.judge("planner", PLAN_FRAME, PLAN)).verdict == "keep"


def test_what_is_taught_is_in_the_agents_exact_format() -> None:
    loose = (
        '```json\n{"entities": {"day": "friday"}, "intent": "opening_hours", "question": null, "confirmed": false}\n```'
    )
    assert canonical_output("understander", loose) == HEARD
    assert canonical_output("evaluator", '{"violations": [], "ok": true}') == '{"ok":true,"violations":[]}'
    assert canonical_output("planner", f"```python\n{PLAN}\n```") == PLAN
    assert canonical_output("understander", "no json") == "no json"


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        (PLAN, ""),
        ("import os", "FORBIDDEN"),
        ('hours = opening_hours(day="monday")', "GROUNDED_ARGUMENT"),
        ("hours = opening_hours(day=5)", "WRONG_TYPE"),
        ("while True: pass", "FORBIDDEN"),
        ('hours = opening_hours(day="friday")\nif hours["nothing"]:\n    pass', "does not run"),
    ],
)
async def test_a_refined_plan_must_parse_keep_the_rules_and_run(verifier: Verifier, code: str, problem: str) -> None:
    found = await verifier.problem("planner", PLAN_FRAME, code, Place(3))
    assert problem in found
    assert bool(found) == bool(problem)


@pytest.mark.parametrize(
    ("agent", "output", "good"),
    [
        ("understander", HEARD, True),
        ("understander", HEARD.replace("opening_hours", "dance"), False),
        ("understander", HEARD.replace('"entities"', '"also":["directions"],"entities"'), True),
        ("understander", HEARD.replace('"entities"', '"also":["dance"],"entities"'), False),
        ("understander", HEARD.replace('"friday"', "5"), False),
        ("understander", HEARD.replace('"day"', '"colour"'), False),
        ("understander", "{}", False),
        ("evaluator", '{"ok":true,"violations":[]}', True),
        ("evaluator", '{"ok":true,"violations":["ONE_CHANGE"]}', False),
        ("evaluator", '{"ok":false,"violations":["NO_RULE"]}', False),
        ("explainer", "On Friday we are open from 09:00 to 18:00.", True),
        ("explainer", "On Friday we are open from 09:00 to 20:00.", False),
    ],
)
async def test_other_refined_outputs_must_fit_the_domain(
    verifier: Verifier, agent: Any, output: str, good: bool
) -> None:
    results = '{"hours":{"day":"friday","open":"09:00","close":"18:00"}}'
    frame = FRAME if agent == "understander" else f"{PLAN_FRAME}\ncustomer: When?\nresults: {results}"
    assert (await verifier.problem(agent, frame, output, Place(3)) == "") is good


async def test_the_checks_in_code_name_what_a_recorded_plan_breaks(verifier: Verifier) -> None:
    found = await verifier.violations(PLAN_FRAME, 'hours = opening_hours(day="monday")', Place(3))
    assert found is not None
    assert [violation.code for violation in found] == ["GROUNDED_ARGUMENT"]
    assert await verifier.violations(PLAN_FRAME, "no plan", Place(3)) is None


def test_a_frame_gives_its_state_back_with_typed_values(automotive: Domain) -> None:
    fields = parse_frame("intent: find_vehicles\nmake: Kia\nmax_price: 19000\nconfirmed: yes\nplan: x")
    state = DialogueState.read(fields, automotive)
    assert (state.intent, state.entities, state.confirmed) == (
        "find_vehicles",
        {"make": "Kia", "max_price": 19000},
        True,
    )
    assert DialogueState.read({"intent": "none"}, automotive).intent == ""
