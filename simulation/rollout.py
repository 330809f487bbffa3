"""Playing conversations in process: the system M on one model, the user simulator on another, a world for each.

`converse` plays one; `Rollout` is the Ray Data actor that keeps many in flight on one event loop. Invariant: a
conversation that fails (a model that does not answer, a time-out) becomes a row with status `error`; what is our own
mistake is raised and stops the job.
"""

import asyncio
import time
from functools import partial

import pyarrow as pa

from agentmill.agents.contracts import TurnOutcome
from agentmill.agents.gate import settled
from agentmill.agents.settings import TeamSettings
from agentmill.agents.team import Team
from agentmill.domains.base import Assessment, Json, Scenario, load_domain
from agentmill.models.chat import ChatModel
from agentmill.plans.sandbox import Sandbox
from agentmill.records import Conversation
from simulation.conversation import Played, play
from simulation.fidelity import user_errors
from simulation.models import ModelSettings
from simulation.pacing import Flows
from simulation.rolled import Rolled, pack
from simulation.tables import compact
from simulation.worker import heed

SANDBOX_PROCESSES = 1


async def converse(
    team: Team, user: ChatModel, scenario: Scenario, *, sid: str, seed: int, speaker: ModelSettings
) -> Rolled:
    """Play one scenario in a world of its own and assess how the world ended; `speaker` describes the user's model."""
    began = time.perf_counter()
    session = await team.start(sid, scenario.world_seed)

    async def answer(utterance: str) -> TurnOutcome:
        return await settled(await team.turn(session, utterance, (scenario.seed + seed) % 2**31))

    try:
        played = await play(
            answer,
            user,
            scenario,
            team.domain,
            prompts=speaker.prompts,
            temperature=speaker.temperature,
            switch=partial(team.switch, session),
        )
        world = await team.executor.snapshot(sid)
    finally:
        await team.executor.close(sid)
    assessment = team.domain.assess(scenario, world)
    errors = user_errors(team.domain, scenario, played, assessment, world)
    seconds = time.perf_counter() - began
    return rolled(played, scenario, sid=sid, world=world, assessment=assessment, seconds=seconds, user_errors=errors)


def rolled(
    played: Played,
    scenario: Scenario,
    *,
    sid: str,
    world: Json,
    assessment: Assessment,
    seconds: float,
    user_errors: tuple[str, ...] = (),
) -> Rolled:
    """A played conversation as records. One that ended in an error is no success, whatever the world looks like."""
    calls = tuple(call.call.recorded(sid, call.turn, call.index) for call in played.calls)
    failed = played.status == "error"
    conversation = Conversation(
        sid=sid,
        scenario_json=scenario.model_dump_json(),
        status=played.status,
        error=played.error,
        success=assessment.success and not failed,
        reasons=assessment.reasons,
        user_errors=user_errors,
        turns=len(played.turns),
        calls=len(calls),
        world_json=compact(world),
        seconds=seconds,
    )
    turns = tuple(turn.model_copy(update={"sid": sid}) for turn in played.turns)
    return Rolled(conversation=conversation, turns=turns, calls=calls)


def stopped(scenario: Scenario, sid: str, error: str, seconds: float) -> Rolled:
    """The records of a conversation that had to be given up."""
    played = Played(status="error", turns=(), calls=(), error=error)
    return rolled(played, scenario, sid=sid, world={}, assessment=Assessment(success=False), seconds=seconds)


class Rollout:
    """The actor: a block of scenarios in, their finished conversations out, all of a block in flight at once."""

    def __init__(
        self,
        domain: str,
        system: TeamSettings,
        teacher: ModelSettings,
        user: ModelSettings,
        seed: int,
        timeout_s: float,
        in_flight: int,
        stop: str,
    ) -> None:
        self.domain = load_domain(domain)
        self.flows = Flows(in_flight, stop)
        self.teacher = self.flows.paced("teacher", teacher, self.domain, system.call_timeout_s)
        self.user_settings = user
        self.user = self.flows.paced("user", user, self.domain)
        # the paced teacher keeps the time of a call itself, from when the call has its place
        self.system = system.model_copy(update={"call_timeout_s": timeout_s})
        self.seed = seed
        self.timeout_s = timeout_s
        self.stop = stop
        self._opening = asyncio.Lock()
        self._team: Team | None = None

    async def __call__(self, block: pa.Table) -> pa.Table:
        """Play every `scenario_json` of the block under its `sid`; never raises because of a model."""
        team = await self._opened()
        rows = zip(block["sid"].to_pylist(), block["scenario_json"].to_pylist(), strict=True)
        return pack(await asyncio.gather(*(self._played(team, sid, text) for sid, text in rows)))

    async def _played(self, team: Team, sid: str, scenario_json: str) -> Rolled:
        scenario = Scenario.model_validate_json(scenario_json)
        async with self.flows.crowd.conversation():
            heed(self.stop)
            self.flows.note()
            began = time.perf_counter()
            try:
                async with asyncio.timeout(self.timeout_s):
                    return await converse(
                        team, self.user, scenario, sid=sid, seed=self.seed, speaker=self.user_settings
                    )
            except TimeoutError:
                error = f"not finished within conversation_timeout_s={self.timeout_s:g}"
                return stopped(scenario, sid, error, time.perf_counter() - began)

    async def _opened(self) -> Team:
        """The team, whose sandbox lives on the event loop of the calls and ends with this process."""
        async with self._opening:
            if self._team is None:
                sandbox = await Sandbox(SANDBOX_PROCESSES).__aenter__()
                self._team = Team.local(self.domain, self.teacher, sandbox, self.system)
            return self._team
