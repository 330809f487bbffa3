"""The red team: a pack's corpus of attacks against the system M, in this process or served; rates with intervals.

In process the agents ask the model that the settings name; `prepare`d worlds are possible only there, so over HTTP
such attacks are left out, and that is said. Worlds are private copies in memory, whatever the configuration says: no
attack is ever played on a company's own database. Invariant: an attack without an answer (the model is away) is
counted as `unanswered`, neither as held nor as an effect.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from pydantic import Field

from agentmill.agents.contracts import TurnOutcome
from agentmill.agents.settings import TeamSettings
from agentmill.agents.team import Team
from agentmill.config import ConfigError, Strict, UserError
from agentmill.domains.base import Attack, Domain, Json, World, WorldSettings
from agentmill.log import progress, say
from agentmill.models.chat import ChatModel
from agentmill.plans.sandbox import Sandbox
from agentmill.records import Turn
from agentmill.runs import Run, wilson
from simulation.conversation import TurnFailed
from simulation.effects import effects
from simulation.gateway_client import GatewayClient
from simulation.models import ModelSettings, build_model, closing

_REFUSED = ("HTTP 400", "HTTP 413")  # what the gateway does not let in
_SEED = 20_260  # of every turn: the same attack on the same model is the same conversation


class RedteamFailed(UserError):
    """Too many attacks got no answer for the rates to say anything."""


class RedteamSettings(Strict):
    """Who answers for the agents, and how many attacks are played at a time.

    Up to `max_error_share` of the attacks may stay without an answer; beyond that no figure is recorded.
    """

    model: ModelSettings = ModelSettings()
    concurrency: int = Field(8, ge=1)
    attack_timeout_s: float = Field(600.0, gt=0.0)
    max_error_share: float = Field(0.1, ge=0.0, le=1.0)


@dataclass(frozen=True)
class Attempt:
    """An attack as it went. `error` says why it stayed without an answer, "" where it did not."""

    attack: Attack
    effects: tuple[str, ...]
    replies: tuple[str, ...]
    error: str = ""

    @property
    def answered(self) -> bool:
        return bool(self.effects) or not self.error


@dataclass(frozen=True)
class Rate:
    """Attacks that had an effect, of those that were answered."""

    effects: int
    n: int

    @property
    def share(self) -> float:
        return self.effects / self.n if self.n else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.effects, self.n)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.effects:>4} of {self.n:<4} {self.share:7.1%}  [{low:.1%}, {high:.1%}]"


def chosen(domain: Domain, limit: int | None = None) -> list[Attack]:
    """The pack's attacks; with `limit` so many of them, spread over the corpus.

    Raises:
        ConfigError: when the pack has none.
    """
    corpus = list(domain.attacks())
    if not corpus:
        raise ConfigError(f"domain={domain.name}: the pack has no attacks; give Domain(attacks=...) in its build()")
    count = min(limit or len(corpus), len(corpus))
    return [corpus[place * len(corpus) // count] for place in range(count)]


def run_local(
    settings: RedteamSettings, domain: Domain, system: TeamSettings, attacks: Sequence[Attack],
    model: ChatModel | None = None,
) -> list[Attempt]:  # fmt: skip
    """Play the attacks on a system in this process; `model` answers in place of the one in the settings."""
    return asyncio.run(_run_local(settings, domain, system, attacks, model or build_model(settings.model, domain)))


def run_served(settings: RedteamSettings, domain: Domain, url: str, attacks: Sequence[Attack]) -> list[Attempt]:
    """Play the attacks on a served system, but for those that need a prepared world.

    Raises:
        GatewayError: when no gateway with a sessions API answers there.
    """
    playable = [attack for attack in attacks if attack.prepare is None]
    if len(playable) < len(attacks):
        say("redteam", f"{len(attacks) - len(playable)} attacks are left out: a served world cannot be prepared")
    return asyncio.run(_run_served(settings, domain, url, playable))


async def _run_local(
    settings: RedteamSettings, domain: Domain, system: TeamSettings, attacks: Sequence[Attack], model: ChatModel
) -> list[Attempt]:
    private = system.model_copy(update={"world": WorldSettings()})
    async with closing(model), Sandbox(1) as sandbox:

        async def one(attack: Attack) -> Attempt:
            return await attempt(attack, prepared(domain, attack), model, sandbox, private)

        return await _all(settings, attacks, one)


async def _run_served(settings: RedteamSettings, domain: Domain, url: str, attacks: Sequence[Attack]) -> list[Attempt]:
    async with GatewayClient(url, timeout_s=settings.attack_timeout_s) as client:

        async def one(attack: Attack) -> Attempt:
            return await attempt_served(attack, domain, client)

        return await _all(settings, attacks, one)


async def attempt(attack: Attack, domain: Domain, model: ChatModel, sandbox: Sandbox, system: TeamSettings) -> Attempt:
    """Play one attack in a world of its own."""
    team = Team.local(domain, model, sandbox, system)
    session = await team.start(attack.id, attack.world_seed)
    try:
        before = await team.executor.snapshot(attack.id)
        outcomes = [await team.turn(session, said, _SEED) for said in attack.turns]
        after = await team.executor.snapshot(attack.id)
    finally:
        await team.executor.close(attack.id)
    return _judged(attack, domain, before, after, outcomes)


async def attempt_served(attack: Attack, domain: Domain, client: GatewayClient) -> Attempt:
    """Play one attack in a session of a served system. A turn that the gateway refuses has no effect and no reply."""
    outcomes: list[TurnOutcome] = []
    refused = ""
    try:
        session = await client.open(attack.world_seed)
        before = await client.world(session)
        for said in attack.turns:
            try:
                outcomes.append(await client.turn(session, said, _SEED))
            except TurnFailed as error:
                if not any(code in str(error) for code in _REFUSED):
                    raise
                refused = str(error)
        after = await client.world(session)
        await client.close(session)
    except TurnFailed as error:
        return Attempt(attack, (), tuple(outcome.turn.reply for outcome in outcomes), str(error) or refused)
    return _judged(attack, domain, before, after, outcomes)


def prepared(domain: Domain, attack: Attack) -> Domain:
    """The same pack, whose worlds the attack has changed before anything is said."""
    prepare = attack.prepare
    if prepare is None:
        return domain

    def open_world(seed: int, session: str, where: WorldSettings) -> World:
        world = domain.open_world(seed, session, where)
        prepare(world)
        world.commit()
        return world

    return replace(domain, open_world=open_world)


def _judged(attack: Attack, domain: Domain, before: Json, after: Json, outcomes: Sequence[TurnOutcome]) -> Attempt:
    turns: list[Turn] = [outcome.turn for outcome in outcomes]
    silent = [
        outcome.calls[-1].error
        for outcome in outcomes
        if outcome.turn.status == "safe_reply" and outcome.calls and outcome.calls[-1].status == "error"
    ]
    found = effects(attack, domain, before, after, turns)
    return Attempt(attack, found, tuple(turn.reply for turn in turns), silent[0] if silent else "")


async def _all(
    settings: RedteamSettings, attacks: Sequence[Attack], play: Callable[[Attack], Awaitable[Attempt]]
) -> list[Attempt]:
    """Every attack once, `concurrency` at a time, in the order given."""
    free = asyncio.Semaphore(settings.concurrency)
    hits = 0

    async def one(attack: Attack) -> Attempt:
        nonlocal hits
        async with free:
            try:
                async with asyncio.timeout(settings.attack_timeout_s):
                    done = await play(attack)
            except TimeoutError:
                error = f"not finished within redteam.attack_timeout_s={settings.attack_timeout_s:g}"
                done = Attempt(attack, (), (), error)
        hits += bool(done.effects)
        bar.advance(1, effects=hits)
        return done

    with progress("redteam", len(attacks), "attacks") as bar:
        return list(await asyncio.gather(*map(one, attacks)))


def rates(attempts: Sequence[Attempt]) -> dict[str, Rate]:
    """The rate of each kind of attack, and of all as "all"."""
    answered = [done for done in attempts if done.answered]
    groups: dict[str, list[Attempt]] = {done.attack.kind: [] for done in attempts}
    for done in answered:
        groups[done.attack.kind].append(done)
    groups["all"] = answered
    return {name: Rate(sum(bool(done.effects) for done in group), len(group)) for name, group in groups.items()}


def record(run: Run, attempts: Sequence[Attempt], settings: RedteamSettings, command: str) -> None:
    """Write the figures `agents.redteam.*` of a corpus that was played.

    Raises:
        RedteamFailed: when too many attacks got no answer; nothing is written then.
    """
    silent = [done for done in attempts if not done.answered]
    if len(silent) > settings.max_error_share * len(attempts):
        raise RedteamFailed(
            f"redteam: {len(silent)} of {len(attempts)} attacks got no answer, more than redteam.max_error_share="
            f"{settings.max_error_share:g} allows; the first: {silent[0].error}; mend the cause and start again"
        )
    for name, rate in rates(attempts).items():
        figure = "agents.redteam.effects" if name == "all" else f"agents.redteam.kinds.{name}"
        run.record(figure, rate.share, n=rate.n, interval=rate.interval, command=command)
    run.record("agents.redteam.unanswered", len(silent), n=len(attempts), command=command)
