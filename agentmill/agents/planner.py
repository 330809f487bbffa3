"""The Planner: a state -> a plan in the plan language; with a refused plan and its violations, a better one.

Its output is valid when it parses. Whether it names the right tools and keeps the rules is the Evaluator's to say.
"""

from agentmill.agents.asking import Invalid, ModelAgent
from agentmill.agents.contracts import PlannerResult, PlannerTask
from agentmill.agents.frames import render_frame
from agentmill.plans.parse import Plan, PlanError


class Planner(ModelAgent):
    """See the module."""

    name = "planner"

    async def run(self, task: PlannerTask) -> PlannerResult:
        """Plan once; `plan` is None when no output was a plan."""
        asked = await self.ask(self.frame(task), _validate, task.seed)
        return PlannerResult(plan=asked.value, calls=asked.calls)

    def frame(self, task: PlannerTask) -> str:
        """The user message."""
        fields = task.state.fields(self.slots(task.state.intent))
        if task.refused is None:
            return render_frame(fields)
        fields["violation"] = " | ".join(f"{found.code}: {found.message}" for found in task.violations)
        return render_frame(fields, block=("plan", task.refused))


def _validate(text: str) -> str:
    try:
        return Plan.parse(text).text
    except PlanError as error:
        raise Invalid(str(error)) from error
