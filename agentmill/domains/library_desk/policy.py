"""The library's policy: what the kit's expert says for each agent and as a customer."""

from agentmill.agents.state import DialogueState
from agentmill.agents.team import EXECUTION
from agentmill.domains.kit.customer import Customer
from agentmill.domains.kit.policy import Frame, Policy
from agentmill.domains.library_desk.canonical import canonical_plan
from agentmill.domains.library_desk.grounding import GROUNDING
from agentmill.domains.library_desk.phrases import SPEECH
from agentmill.domains.library_desk.reading import READING
from agentmill.domains.library_desk.replies import explain


def _plan(state: DialogueState, violations: str) -> str:
    """The plan that is due; only its checks where the world has refused the change."""
    confirmed = state.confirmed and EXECUTION not in violations
    return canonical_plan(state.requests, state.entities, confirmed=confirmed, switches=state.switches)


def _customer(frame: Frame, seed: int | None) -> str:
    return Customer(SPEECH, frame, seed).speak()


POLICY = Policy(
    understand=READING.understand,
    plan=_plan,
    explain=explain,
    customer=_customer,
    grounding=GROUNDING,
)
