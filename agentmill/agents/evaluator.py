"""The Evaluator: a plan -> its violations. Checks in code always; the model only for complex plans that pass them.

The model is asked when the plan's Halstead volume exceeds the threshold. When it gives no valid answer the plan has
passed: the checks in code are what keeps the world safe, the model's opinion is on top of them.
"""

from pydantic import BaseModel, ConfigDict, ValidationError

from agentmill.agents.asking import Invalid, ModelAgent
from agentmill.agents.contracts import EvaluatorResult, EvaluatorTask
from agentmill.agents.frames import render_frame
from agentmill.domains.base import Violation
from agentmill.plans.check import check
from agentmill.plans.complexity import halstead
from agentmill.plans.parse import Plan, PlanError, unfenced


class Verdict(BaseModel):
    """What the model says: `ok` exactly when it names no violation."""

    model_config = ConfigDict(extra="forbid", strict=True)

    ok: bool
    violations: list[str]


class Evaluator(ModelAgent):
    """See the module."""

    name = "evaluator"

    async def run(self, task: EvaluatorTask) -> EvaluatorResult:
        """Check one plan; a text that is no plan has the parser's violation."""
        try:
            plan = Plan.parse(task.plan)
        except PlanError as error:
            return EvaluatorResult(violations=(error.violation,), complexity=0.0)
        volume = halstead(plan).volume
        violations = tuple(check(plan, self.domain, task.state, task.facts))
        threshold = self.settings.complexity_threshold
        if violations or threshold is None or volume <= threshold:
            return EvaluatorResult(violations=violations, complexity=volume)
        asked = await self.ask(self.frame(task), self._validate, task.seed)
        named = tuple(map(self._violation, asked.value.violations)) if asked.value else ()
        return EvaluatorResult(violations=named, complexity=volume, by_model=True, calls=asked.calls)

    def frame(self, task: EvaluatorTask) -> str:
        """The user message."""
        return render_frame(task.state.fields(self.slots(task.state.intent)), block=("plan", task.plan))

    def _validate(self, text: str) -> Verdict:
        try:
            verdict = Verdict.model_validate_json(unfenced(text))
        except ValidationError as error:
            raise Invalid(f"no verdict: {error.errors(include_url=False)[0]['msg']}") from error
        if verdict.ok == bool(verdict.violations):
            raise Invalid(f"ok={verdict.ok} contradicts violations={verdict.violations}")
        unknown = [code for code in verdict.violations if code not in self._sentences]
        if unknown:
            raise Invalid(f"violation code {unknown[0]!r} is unknown")
        return verdict

    @property
    def _sentences(self) -> dict[str, str]:
        return {rule.code: rule.description for rule in self.domain.rules}

    def _violation(self, code: str) -> Violation:
        return Violation(code=code, message=self._sentences[code])
