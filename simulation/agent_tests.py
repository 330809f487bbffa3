"""Single agents on held-out calls: the recorded prompts of corpora/sft/heldout, answered anew and compared with y*.

The same prompts go to every stage. Invariant: a call that gets no answer counts as wrong and is counted apart too.
"""

import asyncio
import json
import random
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from agentmill.agents.frames import parse_frame
from agentmill.agents.settings import TeamSettings
from agentmill.domains.base import Domain
from agentmill.log import progress
from agentmill.models.chat import AgentName, ChatModel, ChatRequest, Message, ModelError, Sampling
from agentmill.plans.sandbox import Sandbox
from agentmill.records import SCHEMA_VERSION
from simulation.judge import TRAINABLE
from simulation.metrics import Heard, Measure, compare_understanding, entity_f1, rate, same_plan, same_verdict
from simulation.tables import VERSION_KEY, compact
from simulation.verify import Place, Verifier, ungrounded

Marks = dict[str, bool]

RESULT_SCHEMA = pa.schema(
    [(n, pa.string()) for n in ("call_id", "agent", "prompt_json", "reference", "output", "error", "marks_json")]
    + [("right", pa.bool_())],
    metadata={VERSION_KEY: SCHEMA_VERSION.encode()},
)


@dataclass(frozen=True)
class AgentTest:
    """One held-out prompt with its refined output. `world_seed` is the world that a plan is run in."""

    call_id: str
    agent: AgentName
    messages: tuple[Message, ...]
    reference: str
    world_seed: int


@dataclass(frozen=True)
class Answer:
    """What a model said to a test; `error` where it said nothing."""

    test: AgentTest
    output: str
    error: str = ""

    @property
    def frame(self) -> str:
        return self.test.messages[-1].content


def draw_tests(heldout: pa.Table, world_seeds: dict[str, int], per_agent: int, seed: int) -> list[AgentTest]:
    """At most `per_agent` rows of each trained agent, drawn at random, the same for every stage."""
    rows = heldout.to_pylist()
    tests: list[AgentTest] = []
    for agent in TRAINABLE:
        mine = [row for row in rows if row["agent"] == agent]
        random.Random(f"{seed}/{agent}").shuffle(mine)
        tests.extend(
            AgentTest(
                call_id=row["call_id"],
                agent=agent,
                messages=tuple(Message.model_validate(message) for message in row["prompt"]),
                reference=row["completion"][0]["content"],
                world_seed=world_seeds[row["sid"]],
            )
            for row in mine[:per_agent]
        )
    return tests


async def ask_all(
    model: ChatModel, tests: list[AgentTest], system: TeamSettings, *, concurrency: int, seed: int, label: str
) -> list[Answer]:
    """Every test's prompt to the model, greedy, `concurrency` at a time; answers in the order of the tests."""
    free = asyncio.Semaphore(concurrency)

    async def ask(test: AgentTest) -> Answer:
        sampling = Sampling(max_tokens=getattr(system.max_tokens, test.agent), seed=seed)
        async with free:
            try:
                reply = await model.complete(ChatRequest(agent=test.agent, messages=test.messages, sampling=sampling))
            except ModelError as error:
                return Answer(test, "", str(error))
            finally:
                bar.advance()
        return Answer(test, reply.text)

    with progress(label, len(tests), "agent calls") as bar:
        return list(await asyncio.gather(*map(ask, tests)))


async def measure(answers: list[Answer], domain: Domain) -> tuple[dict[str, Measure], list[Marks]]:
    """The measures of each agent by their figure name, and each answer's marks by the last part of that name."""
    async with Sandbox(1) as sandbox:
        verifier = Verifier(domain, sandbox)
        given = [await _marks(answer, verifier, domain) for answer in answers]
    measures: dict[str, Measure] = {}
    for agent in TRAINABLE:
        mine = [(answer, marks) for answer, marks in zip(answers, given, strict=True) if answer.test.agent == agent]
        if not mine:
            continue
        for name in mine[0][1]:
            measures[f"{agent}.{name}"] = rate([marks[name] for _, marks in mine])
        if agent == "understander":
            measures["understander.entities"] = entity_f1([_heard(answer) for answer, _ in mine])
    return measures, given


def result_table(answers: list[Answer], given: list[Marks]) -> pa.Table:
    """The answers as rows that a person or a later stage can read; `right` where every mark is good."""
    rows: list[dict[str, Any]] = [
        {
            "call_id": answer.test.call_id,
            "agent": answer.test.agent,
            "prompt_json": json.dumps([m.model_dump() for m in answer.test.messages], ensure_ascii=False),
            "reference": answer.test.reference,
            "output": answer.output,
            "error": answer.error,
            "marks_json": compact(marks),
            "right": all(marks.values()),
        }
        for answer, marks in zip(answers, given, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=RESULT_SCHEMA)


async def _marks(answer: Answer, verifier: Verifier, domain: Domain) -> Marks:
    test, output = answer.test, answer.output
    if test.agent == "understander":
        heard = _heard(answer)
        return {
            "intent": heard.intent,
            "entities_exact": heard.exact,
            "confirmed": heard.confirmed,
            "question": heard.question,
        }
    if test.agent == "planner":
        runs = await verifier.executable(answer.frame, output, Place(test.world_seed))
        return {"equivalent": same_plan(test.reference, output), "executable": runs}
    if test.agent == "evaluator":
        return {"agreement": same_verdict(test.reference, output)}
    said = bool(output.strip())
    return {"grounded": said and not ungrounded(domain, parse_frame(answer.frame), output)}


def _heard(answer: Answer) -> Heard:
    return compare_understanding(answer.test.reference, answer.output)
