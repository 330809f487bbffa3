"""The dealership's policy: what the kit's expert says for each agent and as a customer."""

from agentmill.agents.state import DialogueState
from agentmill.domains.automotive.canonical import canonical_plan
from agentmill.domains.automotive.grounding import GROUNDING
from agentmill.domains.automotive.intents import INTENTS
from agentmill.domains.automotive.reading import understand
from agentmill.domains.automotive.replies import explain
from agentmill.domains.automotive.switches import SWITCHES
from agentmill.domains.automotive.user import Customer
from agentmill.domains.kit.policy import Frame, Policy
from agentmill.domains.switching import intents_under


def _plan(state: DialogueState, violations: str) -> str:
    intents = intents_under(INTENTS, SWITCHES, state.switches)
    return canonical_plan(
        state.requests, state.entities, confirmed=state.confirmed, violations=violations, intents=intents
    )


def _customer(frame: Frame, seed: int | None) -> str:
    return Customer(frame, seed).speak()


POLICY = Policy(understand=understand, plan=_plan, explain=explain, customer=_customer, grounding=GROUNDING)
