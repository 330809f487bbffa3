"""Whether a refined output can be used: a plan is run in a copy of the world, the rest is checked against the domain.

A judge can be wrong too. What is taught must at least parse, keep the rules, do what the state asks for, run, work for
the customer's goals and not against them, and state no fact that its prompt does not hold.

    Place: the scenario, and the plans of the conversation's earlier turns that changed the world
    a fresh world of the scenario's seed -> those plans again, each after the switches of its turn, and the frame's
    own switches -> the world as the turn found it -> the refined plan

Invariant: what is said of an output depends on it, its frame and its place alone, never on what was verified before.
"""

import itertools
import json
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from agentmill.agents.contracts import ExecutorTask
from agentmill.agents.evaluator import JUDGED, Verdict
from agentmill.agents.executor import Executor
from agentmill.agents.frames import parse_frame
from agentmill.agents.state import DialogueState, Understanding
from agentmill.domains.base import Domain, Json, Scenario, Violation
from agentmill.models.chat import AgentName
from agentmill.plans.check import check
from agentmill.plans.parse import Plan, PlanError
from agentmill.plans.sandbox import Sandbox
from simulation.remembered import Remembered

REMEMBERED = 4096
NOT_COMPLETE = "not complete"
AGAINST_THE_GOAL = "against the goal"


@dataclass(frozen=True)
class Place:
    """Where in which conversation a call was made. `before` are (intent, plan, switches in force) of earlier turns, in
    order, whose plan changed the world; without a `scenario` nothing is said about goals.
    """

    world_seed: int
    scenario: Scenario | None = None
    before: tuple[tuple[str, str, tuple[str, ...]], ...] = ()


def changing(domain: Domain, plan: str) -> bool:
    """Whether a plan calls a tool that changes the world; False for a text that is no plan."""
    try:
        calls = Plan.parse(plan).calls
    except PlanError:
        return False
    return any(call.tool in domain.tools and domain.tools[call.tool].changes for call in calls)


class Verifier:
    """Checks outputs of every agent. The sandbox belongs to the caller."""

    def __init__(self, domain: Domain, sandbox: Sandbox) -> None:
        self.domain = domain
        self._executor = Executor(domain, sandbox)
        self._numbers = itertools.count()
        self._facts = Remembered[Json](REMEMBERED)
        self._problems = Remembered[str](REMEMBERED)

    async def problem(self, agent: AgentName, frame: str, output: str, place: Place) -> str:
        """Why `output` cannot be the answer to the user frame `frame`, or ""."""
        fields = parse_frame(frame)
        if agent == "planner":
            return await self._plan_problem(frame, output, place)
        if agent == "understander":
            return self._understanding_problem(output)
        if agent == "evaluator":
            return self._verdict_problem(output, self.domain.under(self.domain.changed_in(fields)))
        if "\n" in output or not output.strip():
            return "not one line"
        missing = ungrounded(self.domain, fields, output)
        return f"not grounded: {', '.join(missing)}" if missing else ""

    async def executable(self, frame: str, plan: str, place: Place) -> bool:
        """Whether a plan keeps the rules and runs, whatever it is good for."""
        return not await self._run_problem(DialogueState.read(parse_frame(frame), self.domain), plan, place)

    async def violations(self, frame: str, plan: str, place: Place) -> list[Violation] | None:
        """What the checks in code say of a plan; None where the text is no plan."""
        try:
            parsed = Plan.parse(plan)
        except PlanError:
            return None
        state = DialogueState.read(parse_frame(frame), self.domain)
        return check(parsed, self.domain, state, await self._facts_at(place, state.switches))

    async def _plan_problem(self, frame: str, code: str, place: Place) -> str:
        """What is wrong with a plan. Of one that changes nothing the goals say nothing, so it is looked at once."""
        if changing(self.domain.under(self.domain.changed_in(parse_frame(frame))), code):
            return await self._whole_problem(frame, code, place)
        key = (frame, code, place.world_seed, place.before)
        problem = self._problems.get(key)
        if problem is None:
            problem = self._problems.put(key, await self._whole_problem(frame, code, place))
        return problem

    async def _whole_problem(self, frame: str, code: str, place: Place) -> str:
        fields = parse_frame(frame)
        state = DialogueState.read(fields, self.domain)
        try:
            left_out = undone(self.domain, state, Plan.parse(code), mended=bool(fields.get("violation")))
        except PlanError as error:
            return str(error)
        problem = await self._run_problem(state, code, place)
        if not problem and left_out:
            return f"{NOT_COMPLETE}: no call for {', '.join(left_out)}"
        return problem

    async def _run_problem(self, state: DialogueState, code: str, place: Place) -> str:
        """Why a plan breaks a rule, does not run, or brings about what the scenario's goals do not want."""
        try:
            plan = Plan.parse(code)
        except PlanError as error:
            return str(error)
        async with self._world(place, state.switches) as (session, facts):
            found = check(plan, self.domain, state, facts)
            if found:
                return f"{found[0].code}: {found[0].message}"
            judged = place.scenario is not None and changing(self.domain.under(state.switches), code)
            before = await self._wrongs(session, place) if judged else ()
            ran = await self._executor.run(ExecutorTask(session=session, plan=code, state=state))
            if ran.error is not None:
                return f"does not run: {ran.error}"
            after = await self._wrongs(session, place) if judged else ()
        new = [reason for reason in after if reason not in before]
        return f"{AGAINST_THE_GOAL}: {new[0]}" if new else ""

    async def _wrongs(self, session: str, place: Place) -> Collection[str]:
        """What the domain finds wrong with the world as it is; a plan for the goals may only make it less."""
        assert place.scenario is not None
        return self.domain.assess(place.scenario, await self._executor.snapshot(session)).reasons

    async def _facts_at(self, place: Place, switches: tuple[str, ...]) -> Json:
        """What rules may know of the world at `place` with these switches in force."""
        facts = self._facts.get((place.world_seed, place.before, switches))
        if facts is None:
            async with self._world(place, switches) as (_, facts):
                pass
        return facts

    @asynccontextmanager
    async def _world(self, place: Place, switches: tuple[str, ...]) -> AsyncIterator[tuple[str, Json]]:
        """A world of its own as the turn at `place` found it: its session and its facts."""
        session = f"verify-{next(self._numbers)}"
        facts = await self._executor.open(session, place.world_seed)
        try:
            for requests, plan, before in place.before:
                for name in before:
                    await self._executor.switch(session, name)
                intent, *also = requests.split("+")
                agreed = DialogueState(intent=intent, also=tuple(also), confirmed=True, switches=before)
                ran = await self._executor.run(ExecutorTask(session=session, plan=plan, state=agreed))
                facts = ran.facts or facts
            for name in switches:
                facts = await self._executor.switch(session, name)
            self._facts.put((place.world_seed, place.before, switches), facts)
            yield session, facts
        finally:
            await self._executor.close(session)

    def _understanding_problem(self, output: str) -> str:
        try:
            heard = Understanding.model_validate_json(output)
        except ValidationError as error:
            return f"no understanding: {error.errors(include_url=False)[0]['msg']}"
        unknown = [name for name in heard.requests if name not in self.domain.intents]
        if unknown:
            return f"intent={unknown[0]!r} is unknown"
        for name, value in heard.entities.items():
            entity = self.domain.entities.get(name)
            if entity is None:
                return f"entity {name!r} is unknown"
            if type(value) is not entity.kind or (entity.choices and value not in entity.choices):
                return f"{name}={value!r} is no value of this entity"
        return ""

    def _verdict_problem(self, output: str, domain: Domain) -> str:
        try:
            said = Verdict.model_validate_json(output)
        except ValidationError as error:
            return f"no verdict: {error.errors(include_url=False)[0]['msg']}"
        unknown = set(said.violations) - {rule.code for rule in domain.rules} - JUDGED.keys()
        if unknown:
            return f"violation code {min(unknown)!r} is unknown"
        return "" if said.ok != bool(said.violations) else f"ok={said.ok} contradicts its violations"


def undone(domain: Domain, state: DialogueState, plan: Plan, *, mended: bool) -> list[str]:
    """The requests of a state that a plan does nothing for.

    A confirmed change is to be made, unless the plan is to mend a refused one: then the change may be what cannot be.
    """
    domain = domain.under(state.switches)
    called = {call.tool for call in plan.calls}
    left_out = []
    for name in state.requests[:1] if mended else state.requests:
        intent = domain.intents.get(name)
        if intent is None or not intent.tools:
            continue
        due = set(intent.tools)
        if state.confirmed and intent.needs_confirmation and not mended:
            due = {tool for tool in due if domain.tools[tool].changes} or due
        if not due & called:
            left_out.append(name)
    return left_out


def ungrounded(domain: Domain, fields: dict[str, str], reply: str) -> list[str]:
    """The facts of an Explainer's reply that stand nowhere in its frame."""
    results: Any = json.loads(fields["results"]) if "results" in fields else {}
    state = DialogueState.read(fields, domain).entities
    return domain.grounded(reply, {"results": results, "state": state, "utterance": fields.get("customer", "")})
