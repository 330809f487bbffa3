"""The error-free expert, agent by agent: the frame of a prompt -> the right answer, as text.

What is right depends on the frame alone. Rules speak first; a plan that keeps them all is compared with the plan that
is due, call by call: what is missing makes it incomplete, what is not due is needless. What was wrong with a plan
before stands in the frame, and makes another plan due.
"""

from agentmill.agents.evaluator import JUDGED
from agentmill.agents.state import DialogueState
from agentmill.domains.base import Domain, Json
from agentmill.domains.kit.policy import Frame, Policy, compact
from agentmill.plans.check import check
from agentmill.plans.compare import calls_of
from agentmill.plans.parse import Plan, PlanError
from agentmill.plans.rename import with_tools_named

INCOMPLETE, NEEDLESS = JUDGED
AGENTS = ("understander", "planner", "evaluator", "explainer")


class Answers:
    """The right answers of one domain, by its pack's policy."""

    def __init__(self, domain: Domain, policy: Policy) -> None:
        self.domain = domain
        self.policy = policy

    def answer(self, agent: str, frame: Frame) -> str:
        """The right answer of an agent.

        Raises:
            ValueError: for an agent without a policy, or a frame that no such agent gets.
        """
        match agent:
            case "understander":
                return compact(self.policy.understand(frame))
            case "planner":
                return self.plan(frame)
            case "evaluator":
                return self.verdict(frame)
            case "explainer":
                return self.policy.explain(frame)
            case _:
                raise ValueError(f"agent={agent!r} has no policy; it is one of {', '.join(AGENTS)}")

    def state_of(self, frame: Frame) -> DialogueState:
        """The dialogue state that a frame shows."""
        return DialogueState.read(frame, self.domain)

    def domain_of(self, frame: Frame) -> Domain:
        """The domain with the changes of the business that a frame tells of."""
        return self.domain.under(self.domain.changed_in(frame))

    def plan(self, frame: Frame) -> str:
        """The plan that is due for the state in a frame, after the violations in it; tools by their names of now."""
        state = self.state_of(frame)
        due = self.policy.plan(state, frame.get("violation", ""))
        return with_tools_named(due, self.domain.under(state.switches).renames)

    def verdict(self, frame: Frame) -> str:
        """Whether the plan in the frame keeps the rules and is the one that is due, as far as the frame tells."""
        text = frame.get("plan", "")
        verdicts = {*(rule.code for rule in self.domain_of(frame).rules), *JUDGED}
        codes = [code for code in self.broken(frame, text) if code in verdicts] or self._not_due(frame, text)
        return compact({"ok": not codes, "violations": codes})

    def broken(self, frame: Frame, text: str) -> list[str]:
        """The codes of what is wrong with a plan in the state that the frame shows, rule by rule."""
        try:
            parsed = Plan.parse(text)
        except PlanError as error:
            return [error.code]
        return [found.code for found in check(parsed, self.domain, self.state_of(frame), {})]

    def serves(self, frame: Frame, parsed: Plan) -> bool:
        """Whether every tool of a plan is one of the requests'."""
        domain = self.domain_of(frame)
        allowed = domain.tools_of(self.state_of(frame).requests) or tuple(domain.tools)
        return all(call.tool in allowed for call in parsed.calls)

    def context(self, frame: Frame) -> Json:
        """What an Explainer's frame lets it say."""
        slots = self.domain_of(frame).slots_of(self.state_of(frame).requests)
        state = {name: frame[name] for name in slots if name in frame}
        return {"results": frame.get("results", ""), "state": state, "utterance": frame.get("customer", "")}

    def _not_due(self, frame: Frame, text: str) -> list[str]:
        try:
            made = calls_of(Plan.parse(text))
        except PlanError:
            return [INCOMPLETE]
        due = calls_of(Plan.parse(self.plan(frame)))
        return [code for code, rest in ((INCOMPLETE, due - made), (NEEDLESS, made - due)) if rest]
