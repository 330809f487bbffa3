"""`agentmill bench fidelity`: how well the simulator's own errors are found, measured on errors made on purpose.

Good customers (the expert) talk to a system whose agents err now and then, so that conversations fail by no fault of
theirs: whatever is found there is a false alarm. Then the same customers are spoiled in one way each; of the faults
that were really made, the share that is found is the recall. Both say how far `simulate.user_errors` can be trusted.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from agentmill.agents.settings import TeamSettings
from agentmill.agents.team import Team
from agentmill.config import ConfigError
from agentmill.domains.base import ALL, Domain, Scenario
from agentmill.plans.sandbox import Sandbox
from agentmill.runs import Run
from simulation.faults import FaultyUser
from simulation.fidelity import CODES
from simulation.metrics import Measure, rate
from simulation.models import ModelSettings
from simulation.rollout import Rolled, converse

AT_ONCE = 16
MISTAKES = 0.2  # of the system's agents
_SEED = 20_260_618


@dataclass(frozen=True)
class Detection:
    """What was found: `false_alarms` over good customers, `recall` over the faults made, by kind and in all."""

    false_alarms: Measure
    recall: Measure
    by_kind: dict[str, Measure]


def detect(domain: Domain, conversations: int, mix: str = ALL) -> Detection:
    """Play `conversations` with good customers, and as many with faulty ones in equal parts of each kind.

    Raises:
        ConfigError: when the domain has no expert.
    """
    if domain.expert is None:
        raise ConfigError(f"domain={domain.name!r} has no expert to play with; bench one that has")
    return asyncio.run(_detect(domain, list(domain.source(mix)(conversations, _SEED, "train"))))


async def _detect(domain: Domain, scenarios: Sequence[Scenario]) -> Detection:
    assert domain.expert is not None
    expert, erring = domain.expert(0.0), domain.expert(MISTAKES)
    free = asyncio.Semaphore(AT_ONCE)
    async with Sandbox(1) as sandbox:
        failing = Team.local(domain, erring, sandbox, TeamSettings())
        sound = Team.local(domain, expert, sandbox, TeamSettings())

        async def good(number: int, scenario: Scenario) -> bool:
            async with free:
                done = await converse(failing, expert, scenario, sid=f"g{number}", seed=0, speaker=ModelSettings())
            return bool(done.conversation.user_errors)

        async def faulty(number: int, scenario: Scenario) -> tuple[str, Rolled] | None:
            kind = CODES[number % len(CODES)]
            user = FaultyUser(domain, expert, kind, number)
            async with free:
                done = await converse(sound, user, scenario, sid=f"f{number}", seed=0, speaker=ModelSettings())
            early = kind == "left_early" and done.conversation.success
            return (kind, done) if user.applied and not early else None

        alarms = await asyncio.gather(*(good(*pair) for pair in enumerate(scenarios)))
        spoiled = [one for one in await asyncio.gather(*(faulty(*pair) for pair in enumerate(scenarios))) if one]
    found = [(kind, kind in done.conversation.user_errors) for kind, done in spoiled]
    by_kind = {code: rate([hit for kind, hit in found if kind == code]) for code in CODES}
    return Detection(rate(list(alarms)), rate([hit for _, hit in found]), by_kind)


def record(run: Run, found: Detection) -> None:
    """Record `simulate.fidelity.*`."""
    measures = {"false_alarms": found.false_alarms, "recall": found.recall}
    measures |= {f"recall.{kind}": measure for kind, measure in found.by_kind.items()}
    for name, measure in measures.items():
        run.record(f"simulate.fidelity.{name}", measure.value, n=measure.n, interval=measure.interval)
