"""What `agentmill bench adaptation` trains on and asks: calls that the domain's expert answered, faultlessly.

Training rows are calls of training scenarios in which nothing changes. Tests are calls of held-out scenarios, in worlds
of their own, under four conditions:

- `trained`: as the training rows are.
- `reworded`: the same calls under system prompts in other words (REWORDED).
- `told`: the frame tells of a change of the business (a tool renamed, a new argument, a new rule) that does not bear
  on the answer.
- `changed`: the frame tells of a change that decides the answer: without its notice the expert answers otherwise. Here
  the answer needs names of tools, arguments and guards that no training row has.

Evaluator calls are left out: of a faultless Planner it only ever has to agree.
"""

import asyncio
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from agentmill.agents.settings import TeamSettings
from agentmill.agents.team import Team
from agentmill.config import ConfigError
from agentmill.domains.automotive.switched import draw_switches
from agentmill.domains.base import Domain, Scenario
from agentmill.log import progress
from agentmill.models.chat import AgentName, ChatModel, ChatRequest, Message
from agentmill.plans.sandbox import Sandbox
from agentmill.records import Call
from simulation.agent_tests import AgentTest
from simulation.models import ModelSettings
from simulation.rollout import converse

DOMAIN = "automotive"
CONDITIONS = ("trained", "reworded", "told", "changed")
AGENTS: tuple[AgentName, ...] = ("understander", "planner", "explainer")
SYSTEM_KINDS = ("rename", "argument", "rule")  # changes of what may be planned, not of the world
REWORDED: Mapping[AgentName, Sequence[str]] = {
    "understander": (
        "You listen to the customers of {title}. Answer in JSON.",
        "Say what the customer of {title} wants, as JSON and nothing else.",
        "{title}, front desk. Turn what the customer says into JSON.",
    ),
    "planner": (
        "You plan for {title}. Answer with the plan alone.",
        "Write the steps that {title} should take now, as a plan.",
        "{title}, back office. Turn the state into a plan.",
    ),
    "explainer": (
        "You speak for {title}. Answer with one message to the customer.",
        "Tell the customer of {title} what came out, in a reply.",
        "{title}, front desk. Put the results into words for the customer.",
    ),
}
_AT_ONCE = 20
_NOTICE = "changes: "
Played = list[tuple[Scenario, Call]]
Tests = dict[str, list[AgentTest]]


def training_rows(domain: Domain, conversations: int, mix: str, seed: int, folder: Path) -> int:
    """Write train.parquet and heldout.parquet (a twentieth, conversations of its own) of corpora/sft; returns the rows
    of train."""
    scenarios = list(domain.source(mix)(conversations, seed, "train"))
    apart = max(1, conversations // 20)
    counts = []
    for name, part in (("heldout", scenarios[:apart]), ("train", scenarios[apart:])):
        rows = [_row(call) for _, call in asyncio.run(calls_of(domain, part))]
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
        counts.append(len(rows))
    return counts[-1]


def draw_all(domain: Domain, conversations: int, per_agent: int, mix: str, seed: int) -> Tests:
    """The tests of each condition: at most `per_agent` of an agent, drawn at random from held-out conversations.

    `told` and `changed` come from as many conversations for each kind of change; the Explainer has no `changed`, since
    it is told of none.
    """
    scenarios = list(domain.source(mix)(conversations, seed, "heldout"))
    plain = asyncio.run(calls_of(domain, scenarios))
    switched = [s for kind in SYSTEM_KINDS for s in filter(None, (_switched(one, kind) for one in scenarios))]
    after = [(s, call) for s, call in asyncio.run(calls_of(domain, switched)) if _NOTICE in call.messages[-1].content]
    decided = asyncio.run(_decided(_expert(domain), [call for _, call in after]))
    told = [pair for pair, decides in zip(after, decided, strict=True) if not decides]
    changed = [pair for pair, decides in zip(after, decided, strict=True) if decides]
    trained = _drawn(plain, per_agent, seed)
    return {
        "trained": trained,
        "reworded": [reworded(test, domain.title) for test in trained],
        "told": _drawn(told, per_agent, seed),
        "changed": _drawn(changed, per_agent, seed),
    }


def reworded(test: AgentTest, title: str) -> AgentTest:
    """The test under another system prompt; which one depends on the call alone."""
    texts = REWORDED[test.agent]
    text = texts[random.Random(test.call_id).randrange(len(texts))].format(title=title)
    return replace(test, messages=(Message(role="system", content=text), *test.messages[1:]))


async def calls_of(domain: Domain, scenarios: Sequence[Scenario]) -> Played:
    """The usable calls of AGENTS in these conversations, with the scenario of each.

    Raises:
        ConfigError: when the domain has no expert.
    """
    model, played = _expert(domain), Played()
    async with Sandbox(1) as sandbox:
        team = Team.local(domain, model, sandbox, TeamSettings())
        speaker = ModelSettings(kind="expert")
        with progress("record", len(scenarios), "conversations") as bar:
            for start in range(0, len(scenarios), _AT_ONCE):
                part = scenarios[start : start + _AT_ONCE]
                done = await asyncio.gather(
                    *(converse(team, model, s, sid=s.sid, seed=0, speaker=speaker) for s in part)
                )
                for scenario, rolled in zip(part, done, strict=True):
                    played += [(scenario, c) for c in rolled.calls if c.agent in AGENTS and c.status == "ok"]
                bar.advance(len(part))
    return played


def _expert(domain: Domain) -> ChatModel:
    if domain.expert is None:
        raise ConfigError(f"domain={domain.name!r} has no expert to answer; bench one that has")
    return domain.expert(0.0)


def _switched(scenario: Scenario, kind: str) -> Scenario | None:
    """The scenario with a change of that kind, None where none fits its goals."""
    draw = random.Random(f"{scenario.sid}/{kind}")
    goals, planned = draw_switches(draw, scenario.world_seed, scenario.goals, kind)
    if not planned:
        return None
    update: dict[str, Any] = {"goals": tuple(goals), "switches": planned, "sid": f"{scenario.sid}{kind}"}
    return scenario.model_copy(update=update)


async def _decided(expert: ChatModel, calls: Sequence[Call]) -> list[bool]:
    """Of each call, whether the expert answers otherwise when the notice of the change is left out."""
    decided = []
    for call in calls:
        lines = call.messages[-1].content.split("\n")
        frame = "\n".join(line for line in lines if not line.startswith(_NOTICE))
        messages = (*call.messages[:-1], Message(role="user", content=frame))
        reply = await expert.complete(ChatRequest(agent=call.agent, messages=messages))
        decided.append(reply.text != call.output)
    return decided


def _drawn(played: Iterable[tuple[Scenario, Call]], per_agent: int, seed: int) -> list[AgentTest]:
    pairs, tests = list(played), list[AgentTest]()
    for agent in AGENTS:
        mine = [(scenario, call) for scenario, call in pairs if call.agent == agent]
        random.Random(f"{seed}/{agent}").shuffle(mine)
        tests += [AgentTest(c.call_id, agent, c.messages, c.output, s.world_seed) for s, c in mine[:per_agent]]
    return tests


def _row(call: Call) -> dict[str, Any]:
    return {
        "prompt": [message.model_dump() for message in call.messages],
        "completion": [{"role": "assistant", "content": call.output}],
        "agent": call.agent,
        "source": "expert",
    }
