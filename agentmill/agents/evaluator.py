"""The Evaluator: a plan -> its violations. Checks in code always; the model only for complex plans that pass them.

The model is asked when the plan's complexity (a Halstead measure) exceeds the threshold, and about a plan of the shadow
sample however simple it is. Beside the domain's rules it may name what
no rule in code can know: that the plan leaves out something asked for, or does something nobody asked for. When it
gives no valid answer the plan has passed: the checks in code are what keeps the world safe, the model's opinion is on
top of them.
"""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, ValidationError

from agentmill.agents.asking import Invalid, ModelAgent
from agentmill.agents.contracts import EvaluatorResult, EvaluatorTask, listed
from agentmill.agents.frames import render_frame
from agentmill.agents.schemas import verdict_schema
from agentmill.agents.state import DialogueState
from agentmill.domains.base import Violation
from agentmill.plans.check import check
from agentmill.plans.complexity import halstead
from agentmill.plans.parse import Plan, PlanError, unfenced

JUDGED = {
    "INCOMPLETE_PLAN": "The plan leaves out something that the customer asked for.",
    "NEEDLESS_CALL": "The plan makes a call that nobody asked for.",
}  # what only a model can say of a plan, by code


class Verdict(BaseModel):
    """What the model says: `ok` exactly when it names no violation."""

    model_config = ConfigDict(extra="forbid", strict=True)

    ok: bool
    violations: list[str]


class Evaluator(ModelAgent):
    """See the module."""

    name = "evaluator"
    told = "all"

    async def run(self, task: EvaluatorTask) -> EvaluatorResult:
        """Check one plan; a text that is no plan has the parser's violation."""
        try:
            plan = Plan.parse(task.plan)
        except PlanError as error:
            return EvaluatorResult(violations=(error.violation,), complexity=0.0)
        complexity = halstead(plan).of(self.settings.complexity_measure)
        violations = tuple(check(plan, self.domain, task.state, task.facts))
        if violations or not (task.shadow or self._is_complex(complexity)):
            return EvaluatorResult(violations=violations, complexity=complexity)
        sentences = self._sentences(task.state)
        structured = self.settings.structured.evaluator
        structure = {"response_schema": verdict_schema(list(sentences))} if structured else None
        asked = await self.ask(
            self.frame(task), lambda text: _validated(text, sentences), task.seed, structure=structure,
            switches=task.state.switches,
        )  # fmt: skip
        codes = asked.value.violations if asked.value else ()
        named = tuple(Violation(code=code, message=sentences[code]) for code in codes)
        return EvaluatorResult(violations=named, complexity=complexity, by_model=True, calls=asked.calls)

    def frame(self, task: EvaluatorTask) -> str:
        """The user message."""
        fields = self.state_fields(task.state)
        if task.violations:
            fields["violation"] = listed(task.violations)
        return render_frame(fields, block=("plan", task.plan))

    def _is_complex(self, complexity: float) -> bool:
        threshold = self.settings.complexity_threshold
        return threshold is not None and complexity > threshold

    def _sentences(self, state: DialogueState) -> dict[str, str]:
        """What the model may say of a plan for this state, by code."""
        return {**{rule.code: rule.description for rule in self.domain.under(state.switches).rules}, **JUDGED}


def _validated(text: str, sentences: Mapping[str, str]) -> Verdict:
    try:
        verdict = Verdict.model_validate_json(unfenced(text))
    except ValidationError as error:
        raise Invalid(f"no verdict: {error.errors(include_url=False)[0]['msg']}") from error
    if verdict.ok == bool(verdict.violations):
        raise Invalid(f"ok={verdict.ok} contradicts violations={verdict.violations}")
    unknown = [code for code in verdict.violations if code not in sentences]
    if unknown:
        raise Invalid(f"violation code {unknown[0]!r} is unknown")
    return verdict
