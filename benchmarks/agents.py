"""`agentmill bench agents`: what the system M does and costs without a real model behind it.

Success: the expert without errors plays n generated scenarios of a domain. Overhead: the same customer turns again with
an instant model, one that gives the expert's recorded answers, so that what is left is our own work: agents, checks,
sandbox and database. A rate is per core: turns by the seconds of CPU time of this process and its sandbox workers.
"""

import asyncio
import cProfile
import io
import pstats
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import psutil

from agentmill.agents.settings import TeamSettings
from agentmill.agents.team import Team
from agentmill.config import ConfigError
from agentmill.domains.base import Domain, Scenario
from agentmill.log import progress
from agentmill.models.chat import ChatModel, ChatReply, ChatRequest, Message
from agentmill.plans.parse import read_plan
from agentmill.plans.sandbox import Sandbox
from simulation.models import ModelSettings
from simulation.rolled import Rolled
from simulation.rollout import converse

Work = Callable[[], Awaitable[None]]
AT_ONCE = 20
PROFILE_LINES = 15
_SEED = 20_260_618


@dataclass(frozen=True)
class Played:
    """How many of the scenarios succeeded, the conversations, and why the others did not."""

    won: int
    conversations: tuple[Rolled, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Overhead:
    """Turns per second and core of each repeat, their median, and where the time goes."""

    turns: int
    rates: tuple[float, ...]
    profile: str

    @property
    def median(self) -> float:
        return statistics.median(self.rates)


class Recorded:
    """An instant model: asks another one the first time and repeats its answers from then on."""

    def __init__(self, model: ChatModel) -> None:
        self._model = model
        self._known: dict[tuple[str, tuple[Message, ...]], ChatReply] = {}

    async def complete(self, request: ChatRequest) -> ChatReply:
        """The recorded answer. See ChatModel."""
        key = (request.agent, request.messages)
        if key not in self._known:
            self._known[key] = await self._model.complete(request)
        return self._known[key]


def play(domain: Domain, count: int) -> Played:
    """Play `count` held-out scenarios with the domain's expert, without errors, as teacher and customer.

    Raises:
        ConfigError: when the domain has no expert.
    """
    return asyncio.run(_play(domain, count, _expert(domain)))


def overhead(domain: Domain, conversations: int = 60, repeats: int = 5) -> Overhead:
    """Measure turns per second and core over recorded conversations, `repeats` times, and profile once more."""
    return asyncio.run(_overhead(domain, conversations, repeats, Recorded(_expert(domain))))


def _expert(domain: Domain) -> ChatModel:
    if domain.expert is None:
        raise ConfigError(f"domain={domain.name!r} has no expert to play with; bench one that has")
    return domain.expert(0.0)


async def _play(domain: Domain, count: int, expert: ChatModel) -> Played:
    scenarios = domain.scenarios(count, _SEED, "heldout")
    done: list[Rolled] = []
    async with Sandbox(1) as sandbox:
        team = Team.local(domain, expert, sandbox, TeamSettings())
        with progress(f"bench {domain.name}", count, "conversations") as bar:
            for start in range(0, count, AT_ONCE):
                part = scenarios[start : start + AT_ONCE]
                done += await asyncio.gather(*(_converse(team, expert, scenario) for scenario in part))
                bar.advance(len(part))
    lost = [rolled.conversation for rolled in done if not rolled.conversation.success]
    problems = tuple(f"{one.sid}: {one.error or '; '.join(one.reasons)}" for one in lost)
    return Played(count - len(lost), tuple(done), problems)


async def _converse(team: Team, expert: ChatModel, scenario: Scenario) -> Rolled:
    return await converse(team, expert, scenario, sid=scenario.sid, seed=0, speaker=ModelSettings())


async def _overhead(domain: Domain, conversations: int, repeats: int, model: Recorded) -> Overhead:
    scenarios = domain.scenarios(conversations, _SEED, "heldout")
    async with Sandbox(1) as sandbox:
        team = Team.local(domain, model, sandbox, TeamSettings())
        played = [await converse(team, model, s, sid=s.sid, seed=0, speaker=ModelSettings()) for s in scenarios]
        said = [(s, [turn.utterance for turn in rolled.turns]) for s, rolled in zip(scenarios, played, strict=True)]
        turns = sum(len(utterances) for _, utterances in said)
        rates = [turns / await _cpu_seconds(lambda: _again(team, said)) for _ in range(repeats)]
        return Overhead(turns, tuple(rates), await _profiled(lambda: _again(team, said)))


async def _again(team: Team, said: Sequence[tuple[Scenario, list[str]]]) -> None:
    """The recorded customers say the same again; no plan is known from the time before."""
    read_plan.cache_clear()
    for scenario, utterances in said:
        session = await team.start(scenario.sid, scenario.world_seed)
        for utterance in utterances:
            await team.turn(session, utterance, scenario.seed)
        await team.executor.close(scenario.sid)


async def _cpu_seconds(work: Work) -> float:
    before = _cpu_time()
    await work()
    return _cpu_time() - before


def _cpu_time() -> float:
    """CPU seconds of this process and its living children, the sandbox's workers."""
    mine = psutil.Process()
    times = [process.cpu_times() for process in (mine, *mine.children(recursive=True))]
    return sum(one.user + one.system for one in times)


async def _profiled(work: Work) -> str:
    profiler = cProfile.Profile()
    profiler.enable()
    began = time.perf_counter()
    await work()
    profiler.disable()
    text = io.StringIO()
    stats = pstats.Stats(profiler, stream=text).sort_stats("tottime")
    stats.print_stats(PROFILE_LINES)
    lines = [line.rstrip() for line in text.getvalue().splitlines() if line.strip()]
    return "\n".join([f"{time.perf_counter() - began:.2f} s with the profiler on", *lines[1:]])
