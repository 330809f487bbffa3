"""What agents prescribe: schemas and grammars that hold right outputs, and attempts without them after a refusal."""

import asyncio
import json
import random
from functools import lru_cache
from typing import Any

import pytest
from pydantic import ValidationError

from agentmill.agents.asking import UNSTRUCTURED
from agentmill.agents.contracts import EvaluatorTask, PlannerTask, TurnOutcome, UnderstanderTask
from agentmill.agents.evaluator import Evaluator
from agentmill.agents.planner import Planner
from agentmill.agents.schemas import understanding_schema, verdict_schema
from agentmill.agents.settings import Structured, TeamSettings
from agentmill.agents.state import DialogueState
from agentmill.agents.team import Team
from agentmill.agents.understander import Understander
from agentmill.domains.base import Domain, load_domain
from agentmill.models.chat import ChatModel, ChatReply, ChatRequest, Message, ModelError
from agentmill.plans.sandbox import Sandbox
from simulation.conversation import play
from tests.fakes import LEND_PLAN, ScriptedModel, heard, library
from tests.matchers import Guidance, XGrammar, derive

SCENARIOS = 150
ALL = Structured(understander=True, planner=True, evaluator=True)
BACKENDS = {"guidance": Guidance, "xgrammar": XGrammar}
WORDS = "Could I have Dune for Ana, shelf 4?"


class Checked:
    """A model whose every prescribed structure is matched against what it answers by itself."""

    def __init__(self, model: ChatModel, backend: Any) -> None:
        self.model = model
        self.refused: list[tuple[str, str]] = []
        self.matched = {"understander": 0, "planner": 0, "evaluator": 0}
        self._matcher = lru_cache(maxsize=None)(self._made)
        self._backend = backend

    def _made(self, schema: str, grammar: str | None) -> Any:
        return self._backend(schema=json.loads(schema) if schema else None, grammar=grammar)

    async def complete(self, request: ChatRequest) -> ChatReply:
        reply = await self.model.complete(request)
        if request.structured:
            self.matched[request.agent] += 1
            schema = json.dumps(request.response_schema) if request.response_schema else ""
            if not self._matcher(schema, request.response_grammar).accepts(reply.text):
                self.refused.append((request.agent, reply.text))
        return reply


@pytest.mark.parametrize("name", ["automotive", "library_desk"])
@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
async def test_all_that_the_expert_writes_has_the_prescribed_structure(backend: Any, name: str) -> None:
    domain: Domain = load_domain(name)
    assert domain.expert is not None
    model = Checked(domain.expert(0.0), backend)
    async with Sandbox() as sandbox:
        team = Team.local(domain, model, sandbox, TeamSettings(structured=ALL))

        async def converse(scenario: Any) -> None:
            session = await team.start(scenario.sid, scenario.world_seed)

            async def turn(utterance: str) -> TurnOutcome:
                return await team.turn(session, utterance, seed=1)

            assert domain.expert is not None
            await play(turn, domain.expert(0.0), scenario, domain)
            await team.executor.close(scenario.sid)

        await asyncio.gather(*(converse(scenario) for scenario in domain.scenarios(SCENARIOS, 21, "train")))
    assert model.refused == [], model.refused[0]
    assert min(model.matched.values()) > SCENARIOS


@pytest.mark.parametrize("name", ["automotive", "library_desk", "library"])
async def test_random_derivations_are_valid_but_for_the_customers_words(name: str) -> None:
    domain = library() if name == "library" else load_domain(name)
    rng = random.Random(3)
    schemas = [
        Guidance(schema=understanding_schema(domain, proposed=proposed, max_text=8)) for proposed in (False, True)
    ]
    drawn = [derive(rng.choice(schemas), rng) for _ in range(200)]
    model = ScriptedModel(understander=[text for text in drawn if text])
    understander = Understander(domain, model, TeamSettings(attempts=1))
    for _ in range(len(model.scripts["understander"])):
        result = await understander.run(UnderstanderTask(state=DialogueState(), assistant="", utterance="x"))
        assert result.understanding is not None or "not in the customer's words" in result.calls[0].error, result


async def test_random_verdicts_are_valid() -> None:
    rng = random.Random(4)
    domain = library()
    schema = Guidance(schema=verdict_schema(["COPY_CHECK", "INCOMPLETE_PLAN", "NEEDLESS_CALL"]))
    texts = [text for text in (derive(schema, rng) for _ in range(60)) if text]
    evaluator = Evaluator(domain, ScriptedModel(evaluator=texts), TeamSettings(attempts=1))
    state = DialogueState(intent="lend", confirmed=True)
    results = [await evaluator.run(EvaluatorTask(state=state, plan=LEND_PLAN)) for _ in texts]
    assert {result.calls[0].status for result in results} == {"ok"}
    assert {bool(result.violations) for result in results} == {True, False}


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_a_schema_keeps_out_what_is_not_the_domains(backend: Any) -> None:
    schema = backend(schema=understanding_schema(library(), proposed=False, max_text=9))
    right = '{"intent":"find","entities":{"title":"Dune","shelf":4},"confirmed":false,"question":null}'
    assert schema.accepts(right)
    assert schema.accepts(right.replace('"find",', '"find","also":["lend"],'))
    for wrong, instead in {
        '"find"': '"fly"',
        '"title"': '"colour"',
        "4": '"4"',
        "false": "true",
        '"Dune"': '"more than nine"',
        '"shelf":4': '"genre":"crime"',
        '"find",': '"find","also":["small_talk"],',
    }.items():
        assert not schema.accepts(right.replace(wrong, instead, 1)), instead
    assert backend(schema=understanding_schema(library(), proposed=True, max_text=9)).accepts(
        right.replace("false", "true")
    )
    verdict = backend(schema=verdict_schema(["A", "B"]))
    assert verdict.accepts('{"ok":true,"violations":[]}')
    assert verdict.accepts('{"ok":false,"violations":["B","A"]}')
    for text in ('{"ok":false,"violations":[]}', '{"ok":true,"violations":["A"]}', '{"ok":false,"violations":["C"]}'):
        assert not verdict.accepts(text)


async def planned(state: DialogueState, *replies: Any, **settings: Any) -> tuple[Any, list[ChatRequest]]:
    model = ScriptedModel(planner=replies or LEND_PLAN)
    result = await Planner(library(), model, TeamSettings(**settings)).run(PlannerTask(state=state))
    return result, model.requests


async def test_the_planners_grammar_has_the_states_tools_and_no_change_before_the_confirmation() -> None:
    grammars = []
    for state in (DialogueState(intent="lend"), DialogueState(intent="lend", confirmed=True)):
        _, requests = await planned(state, structured=ALL)
        grammars.append(requests[0].response_grammar or "")
    assert ['"find_book("' in one for one in grammars] == [True, True]
    assert ['"lend_book("' in one for one in grammars] == [False, True]
    assert all('"list_books("' not in one for one in grammars)


async def test_nothing_is_prescribed_unless_it_is_switched_on() -> None:
    state = DialogueState(intent="lend")
    for structured in (Structured(), Structured(understander=True, evaluator=True)):
        _, requests = await planned(state, structured=structured)
        assert not requests[0].structured


async def test_after_a_refused_structure_the_attempts_go_on_without_it() -> None:
    refusal = ModelError("the grammar is not understood", retryable=False)
    result, requests = await planned(DialogueState(intent="lend"), refusal, LEND_PLAN, structured=ALL)
    assert result.plan == LEND_PLAN
    assert [request.structured for request in requests] == [True, False]
    assert [request.sampling.temperature for request in requests] == [0.0, 0.0]
    assert result.calls[0].error == f"the grammar is not understood; {UNSTRUCTURED}"


async def test_what_is_refused_without_a_structure_too_is_not_asked_a_third_time() -> None:
    refusal = ModelError("no such model", retryable=False)
    result, requests = await planned(DialogueState(intent="lend"), refusal, structured=ALL)
    assert result.plan is None
    assert len(requests) == 2


async def test_an_invalid_output_is_asked_for_again_with_the_structure() -> None:
    result, requests = await planned(DialogueState(intent="lend"), "x = ", LEND_PLAN, structured=ALL)
    assert result.plan == LEND_PLAN
    assert [request.structured for request in requests] == [True, True]


async def test_the_understander_can_only_confirm_what_was_proposed() -> None:
    model = ScriptedModel(understander=heard("find", title="Dune"))
    understander = Understander(library(), model, TeamSettings(structured=ALL))
    for proposed in (False, True):
        state = DialogueState(intent="lend", proposed=proposed)
        await understander.run(UnderstanderTask(state=state, assistant="", utterance=WORDS))
    confirmed = [(request.response_schema or {})["properties"]["confirmed"] for request in model.requests]
    assert confirmed == [{"enum": [False]}, {"type": "boolean"}]


def test_an_output_has_one_structure() -> None:
    with pytest.raises(ValidationError, match="exclude each other"):
        ChatRequest(
            agent="planner",
            messages=(Message(role="user", content="x"),),
            response_schema={},
            response_grammar='root ::= "a"',
        )
