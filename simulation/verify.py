"""Whether a refined output can be used: a plan is run in a copy of the world, the rest is checked against the domain.

A judge can be wrong too. What is taught must at least parse, keep the rules, run, and state no fact that its prompt
does not hold. Worlds are opened fresh from the conversation's seed: what an earlier turn of the conversation changed
is not there, which no plan needs in order to run.
"""

import itertools
import json
from typing import Any

from pydantic import ValidationError

from agentmill.agents.contracts import ExecutorTask
from agentmill.agents.evaluator import JUDGED, Verdict
from agentmill.agents.executor import Executor
from agentmill.agents.frames import parse_frame
from agentmill.agents.state import DialogueState, Understanding
from agentmill.domains.base import Domain, Json, Violation
from agentmill.models.chat import AgentName
from agentmill.plans.check import check
from agentmill.plans.parse import Plan, PlanError
from agentmill.plans.sandbox import Sandbox


class Verifier:
    """Checks outputs of every agent. The sandbox belongs to the caller."""

    def __init__(self, domain: Domain, sandbox: Sandbox) -> None:
        self.domain = domain
        self._executor = Executor(domain, sandbox)
        self._numbers = itertools.count()

    async def problem(self, agent: AgentName, frame: str, output: str, world_seed: int) -> str:
        """Why `output` cannot be the answer to the user frame `frame`, or ""."""
        fields = parse_frame(frame)
        if agent == "planner":
            return await self._plan_problem(DialogueState.read(fields, self.domain), output, world_seed)
        if agent == "understander":
            return self._understanding_problem(output)
        if agent == "evaluator":
            return self._verdict_problem(output, self.domain.under(self.domain.changed_in(fields)))
        missing = ungrounded(self.domain, fields, output)
        return f"not grounded: {', '.join(missing)}" if missing else ""

    async def violations(self, frame: str, plan: str, world_seed: int) -> list[Violation] | None:
        """What the checks in code say of a plan; None where the text is no plan."""
        try:
            parsed = Plan.parse(plan)
        except PlanError:
            return None
        state = DialogueState.read(parse_frame(frame), self.domain)
        session = f"check-{next(self._numbers)}"
        facts = await self._opened(session, state, world_seed)
        await self._executor.close(session)
        return check(parsed, self.domain, state, facts)

    async def _opened(self, session: str, state: DialogueState, world_seed: int) -> Json:
        """Open a fresh world in which the business has changed as the state says; returns its facts."""
        facts = await self._executor.open(session, world_seed)
        for name in state.switches:
            facts = await self._executor.switch(session, name)
        return facts

    async def _plan_problem(self, state: DialogueState, code: str, world_seed: int) -> str:
        session = f"verify-{next(self._numbers)}"
        facts = await self._opened(session, state, world_seed)
        try:
            found = check(Plan.parse(code), self.domain, state, facts)
            if found:
                return f"{found[0].code}: {found[0].message}"
            ran = await self._executor.run(ExecutorTask(session=session, plan=code, state=state))
        except PlanError as error:
            return str(error)
        finally:
            await self._executor.close(session)
        return f"does not run: {ran.error}" if ran.error is not None else ""

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


def ungrounded(domain: Domain, fields: dict[str, str], reply: str) -> list[str]:
    """The facts of an Explainer's reply that stand nowhere in its frame."""
    results: Any = json.loads(fields["results"]) if "results" in fields else {}
    state = DialogueState.read(fields, domain).entities
    return domain.grounded(reply, {"results": results, "state": state, "utterance": fields.get("customer", "")})
