"""A rehearsal of a domain pack: its error-free expert plays every part in process, and what goes wrong is told.

In go a Domain with an expert and scenarios of it; out come findings. A conversation is the one that the simulation
would play. The expert is also the pack's first judge: what it answered without a mistake, it must keep as it is.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence

from agentmill.agents.frames import parse_frame
from agentmill.agents.settings import TeamSettings
from agentmill.agents.team import Team
from agentmill.domains.base import ALL, Domain, Scenario
from agentmill.domains.check.finding import Finding, shortened
from agentmill.models.chat import ChatModel, frame_of
from agentmill.plans.parse import Plan
from agentmill.plans.sandbox import Sandbox
from agentmill.records import Call
from simulation.judge import TRAINABLE, Judge
from simulation.models import ModelSettings
from simulation.rolled import Rolled
from simulation.rollout import converse
from simulation.verify import ungrounded

PER_INTENT, MORE = 6, 60
SWITCHING = 120
JUDGED = 200


async def rehearse(domain: Domain, scenarios: Sequence[Scenario], spare: Sequence[Scenario] = ()) -> list[Finding]:
    """Play the scenarios and look at what came of them.

    Where a tool was not called, some of the `spare` ones that could call it are played too. Replies are not checked by
    the Explainer, which would ask again for what is to be found here.
    """
    if domain.expert is None:
        told = "there is none, so nothing can be simulated without a model's endpoint; give the Domain its expert"
        return [Finding("expert", told, error=False)]
    model = domain.expert(0.0)
    async with Sandbox(processes=2) as sandbox:
        team = Team.local(domain, model, sandbox, TeamSettings(grounded_replies=False))
        played = await _played(team, model, scenarios)
        further = _calling(domain, uncalled(domain, played), spare)
        scenarios = [*scenarios, *further]
        played += await _played(team, model, further)
    calls = [call for rolled in played for call in rolled.calls]
    return [
        *shortened("expert", _failures(scenarios, played)),
        *shortened("expert", _refused(calls)),
        *shortened("expert", _ungrounded(domain, calls)),
        *shortened("judge", [finding async for finding in _edited(domain, model, calls)]),
        *_never(domain, played),
    ]


def chosen(domain: Domain, count: int) -> tuple[list[Scenario], list[Scenario]]:
    """About `count` scenarios of both splits, each intent that is drawn at all several times, and spare ones.

    Of the scenarios in which the business changes, in whatever mix, one for every switch comes on top.
    """
    pairs = zip(domain.scenarios(4 * count, 0, "train"), domain.scenarios(4 * count, 0, "heldout"), strict=True)
    unique = list({scenario.sid: scenario for pair in pairs for scenario in pair}.values())
    counts: Counter[str] = Counter()
    taken: list[Scenario] = []
    rest: list[Scenario] = []
    for scenario in unique:
        wanted = [goal.intent for goal in scenario.goals if counts[goal.intent] < PER_INTENT]
        counts.update(wanted)
        (taken if wanted else rest).append(scenario)
    fill = max(0, count - len(taken))
    return taken + rest[:fill] + _switching(domain), rest[fill:]


def _switching(domain: Domain) -> list[Scenario]:
    sources = [domain.source(mix) for mix in (ALL, *domain.mixes)] if domain.switches else []
    drawn = [scenario for source in sources for scenario in source(SWITCHING, 0, "train")]
    first: dict[str, Scenario] = {}
    for scenario in drawn:
        for planned in scenario.switches:
            first.setdefault(planned.name.partition(":")[0], scenario)
    return list({scenario.sid: scenario for scenario in first.values()}.values())


async def _played(team: Team, model: ChatModel, scenarios: Sequence[Scenario]) -> list[Rolled]:
    playing = (converse(team, model, s, sid=s.sid, seed=0, speaker=ModelSettings()) for s in scenarios)
    return list(await asyncio.gather(*playing))


def uncalled(domain: Domain, played: Sequence[Rolled]) -> list[str]:
    """The tools that some intent offers and that no plan that ran has called."""
    plans = {turn.plan for rolled in played for turn in rolled.turns if turn.status == "answered" and turn.plan}
    called = {call.tool for plan in plans for call in Plan.parse(plan).calls}
    offered = {tool for intent in domain.intents.values() for tool in intent.tools}
    return [name for name in domain.tools if name in offered - called]


def _calling(domain: Domain, tools: Sequence[str], spare: Sequence[Scenario]) -> list[Scenario]:
    wanted = {intent.name for intent in domain.intents.values() if set(intent.tools) & set(tools)}
    return [scenario for scenario in spare if any(goal.intent in wanted for goal in scenario.goals)][:MORE]


def _failures(scenarios: Sequence[Scenario], played: Sequence[Rolled]) -> Iterator[Finding]:
    for scenario, rolled in zip(scenarios, played, strict=True):
        done = rolled.conversation
        if done.success and done.status == "exit":
            continue
        intents = ", ".join(goal.intent for goal in scenario.goals)
        reasons = done.error or "; ".join(done.reasons) or f"it ended with {done.status}"
        last = f"{rolled.turns[-1].utterance!r} -> {rolled.turns[-1].reply!r}" if rolled.turns else "no turn"
        told = f"without mistakes it does not reach the goals ({intents}): {reasons}; the last turn was {last}"
        yield Finding("expert", f"scenario {scenario.sid}: {told}; mend the expert, the scenario or assess")


def _refused(calls: Sequence[Call]) -> Iterator[Finding]:
    """Answers that the agents did not take, one of each kind."""
    counts = Counter((call.agent, call.error) for call in calls if call.status != "ok")
    for (agent, error), count in counts.most_common():
        output = next(call.output for call in calls if call.agent == agent and call.error == error)
        told = f"its answer {output!r} as {agent} is refused ({error}), {count} times"
        yield Finding("expert", f"{told}; answer in the agent's form")


def _ungrounded(domain: Domain, calls: Sequence[Call]) -> Iterator[Finding]:
    for call in calls:
        if call.agent == "explainer" and call.status == "ok":
            facts = ungrounded(domain, parse_frame(frame_of(call.messages)), call.output)
            if facts:
                told = f"its reply {call.output!r} states {', '.join(facts)}, which its prompt does not hold"
                yield Finding("expert", f"{told}; mend the reply, or what the pack counts as grounded")


async def _edited(domain: Domain, model: ChatModel, calls: Sequence[Call]) -> AsyncIterator[Finding]:
    """Right answers that the judge does not leave as they are."""
    judge = Judge(domain, model, ModelSettings(), attempts=1, max_tokens=1024)
    seen: dict[tuple[str, str], Call] = {}
    for call in calls:
        if call.agent in TRAINABLE and call.status == "ok":
            seen.setdefault((frame_of(call.messages), call.output), call)
    for (frame, output), call in list(seen.items())[:JUDGED]:
        said = await judge.judge(call.agent, frame, output)
        if said.verdict != "keep":
            told = (
                f"{output!r} of the {call.agent} is right and the expert as judge says {said.verdict} ({said.reason})"
            )
            yield Finding("judge", f"{told}; let judge and agents follow the same policy")


def _never(domain: Domain, played: Sequence[Rolled]) -> Iterator[Finding]:
    for name in uncalled(domain, played):
        told = f"no plan of {len(played)} conversations calls it, so no model will learn it; let the expert use it"
        yield Finding(f"tool {name}", told)
