"""The Planner: a state -> a plan in the plan language; with a refused plan and its violations, a better one.

Its output is valid when it parses. Whether it names the right tools and keeps the rules is the Evaluator's to say.
"""

from agentmill.agents.asking import Invalid, ModelAgent
from agentmill.agents.contracts import PlannerResult, PlannerTask, listed
from agentmill.agents.frames import render_frame
from agentmill.agents.state import DialogueState
from agentmill.plans.grammar import Bounds, plan_grammar
from agentmill.plans.parse import Plan, PlanError


class Planner(ModelAgent):
    """See the module."""

    name = "planner"
    told = "all"

    async def run(self, task: PlannerTask) -> PlannerResult:
        """Plan once; `plan` is None when no output was a plan."""
        structure = {"response_grammar": self._grammar(task.state)} if self.settings.structured.planner else None
        asked = await self.ask(
            self.frame(task), _validate, task.seed, structure=structure, switches=task.state.switches
        )
        return PlannerResult(plan=asked.value, calls=asked.calls)

    def frame(self, task: PlannerTask) -> str:
        """The user message."""
        fields = self.state_fields(task.state)
        if task.refused is None:
            return render_frame(fields)
        fields["violation"] = listed(task.violations)
        return render_frame(fields, block=("plan", task.refused))

    def _grammar(self, state: DialogueState) -> str:
        """The grammar of plans over the tools that serve the state; without a confirmation none that changes anything.

        Where all of them change something, they stay: a plan has to call a tool.
        """
        domain = self.domain.under(state.switches)
        names = domain.tools_of(state.requests) or tuple(domain.tools)
        tools = [domain.tools[name] for name in names]
        settings = self.settings.structured
        bounds = Bounds(settings.max_statements, settings.max_depth, settings.max_text)
        harmless = [tool for tool in tools if state.confirmed or not tool.changes]
        return plan_grammar(harmless or tools, bounds)


def _validate(text: str) -> str:
    try:
        return Plan.parse(text).text
    except PlanError as error:
        raise Invalid(str(error)) from error
