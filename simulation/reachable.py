"""Whether goals that were not reached can be reached at all: failed conversations, played again without an error.

    a seeded sample of failed conversations -> the error-free expert as system and as customer, in the same world
      -> what fails again has a goal that cannot be reached, which is the scenario's fault and no agent's

In go the conversations of a run, out comes the figure `simulate.user_errors.unreachable`, a share of all conversations.
A pack without an expert has nobody who could show it; then nothing is recorded.
"""

import asyncio
import heapq
import zlib
from collections.abc import Sequence

from agentmill.agents.settings import TeamSettings
from agentmill.agents.team import Team
from agentmill.domains.base import Domain, Scenario
from agentmill.log import say
from agentmill.plans.sandbox import Sandbox
from agentmill.runs import Run, wilson
from simulation.fidelity import UNREACHABLE
from simulation.models import ModelSettings
from simulation.rollout import converse
from simulation.tables import iter_parts

AT_ONCE = 16
_COLUMNS = ["sid", "scenario_json", "status", "success"]


async def unreachable(domain: Domain, scenarios: Sequence[Scenario], system: TeamSettings) -> list[bool]:
    """For each scenario, whether the error-free expert does not reach its goals either."""
    assert domain.expert is not None
    expert = domain.expert(0.0)
    free = asyncio.Semaphore(AT_ONCE)
    async with Sandbox(1) as sandbox:
        team = Team.local(domain, expert, sandbox, system)

        async def fails(number: int, scenario: Scenario) -> bool:
            async with free:
                sid = f"again-{number}"
                done = await converse(team, expert, scenario, sid=sid, seed=0, speaker=ModelSettings())
            return not done.conversation.success

        return list(await asyncio.gather(*(fails(*pair) for pair in enumerate(scenarios))))


def record(run: Run, domain: Domain, system: TeamSettings, *, sample: int, seed: int) -> None:
    """Play a sample of the failed conversations again and record the share of goals that cannot be reached.

    The sample's share, and its interval, are scaled by the share of conversations that failed.
    """
    run.forget(f"simulate.user_errors.{UNREACHABLE}")
    if domain.expert is None or not sample:
        return
    total, failed, chosen = _failed(run, sample, seed)
    again = asyncio.run(unreachable(domain, chosen, system)) if chosen else []
    share, count = failed / max(1, total), sum(again)
    low, high = wilson(count, len(again)) if again else (0.0, 0.0)
    value = share * count / max(1, len(again))
    name = f"simulate.user_errors.{UNREACHABLE}"
    run.record(name, value, n=len(again) or total, interval=(share * low, share * high))
    if count:
        bad = [scenario.sid for scenario, fails in zip(chosen, again, strict=True) if fails]
        say("simulate", f"{count} of {len(again)} failed conversations have goals that cannot be reached: {bad[:5]}")


def _failed(run: Run, sample: int, seed: int) -> tuple[int, int, list[Scenario]]:
    """All conversations, those that failed by no fault of a model's connection, and a sample of their scenarios."""
    heap: list[tuple[int, str]] = []
    total = failed = 0
    for part in iter_parts(run.path("simulate", "conversations"), _COLUMNS):
        total += part.num_rows
        for row in part.to_pylist():
            if not row["success"] and row["status"] != "error":
                failed += 1
                push = heapq.heappush if len(heap) < sample else heapq.heappushpop
                push(heap, (-zlib.crc32(f"{seed}:{row['sid']}".encode()), row["scenario_json"]))
    return total, failed, [Scenario.model_validate_json(text) for _, text in sorted(heap)]
