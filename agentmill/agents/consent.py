"""What the customer's word covers: which tools of a plan may change the world, with which values, and how often.

The Executor asks before every call, whoever let the plan through. Invariant: a change is made with the very values
that were proposed and confirmed, even where a plan takes an argument from a result; and once for each request that
has it, even where a plan repeats it in a loop.
"""

from collections.abc import Mapping
from typing import Any

from agentmill.agents.state import DialogueState
from agentmill.domains.base import Domain, Tool
from agentmill.plans.check import CONFIRM_FIRST
from agentmill.plans.sandbox import SandboxError


class Consent:
    """The customer's word in one state, for one run of one plan over the domain as it is now."""

    def __init__(self, domain: Domain, state: DialogueState) -> None:
        self._confirmed = state.confirmed
        self._said = {n: state.entities[n] for n in domain.slots_of(state.requests) if n in state.entities}
        tools = [name for request in state.requests if request in domain.intents for name in domain.tools_of([request])]
        self.used = False  # whether a change was let pass
        self._left = {name: tools.count(name) for name in tools}

    def require(self, tool: Tool, arguments: Mapping[str, Any]) -> None:
        """Let a call with these arguments (defaults included) pass, and count it where it changes the world.

        Raises:
            SandboxError: when the customer has not confirmed this change.
        """
        if not tool.changes:
            return
        if not self._confirmed:
            sentence = f"{CONFIRM_FIRST}: {tool.name} changes the world before the customer confirmed"
            raise SandboxError("type", sentence)
        for name, said in self._said.items():
            if name in arguments and (type(arguments[name]), arguments[name]) != (type(said), said):
                sentence = f"{CONFIRM_FIRST}: {tool.name} got another {name} than the {said!r} that was confirmed"
                raise SandboxError("type", sentence)
        if self._left.get(tool.name, 0) < 1:
            raise SandboxError("type", f"{CONFIRM_FIRST}: {tool.name} was confirmed once and is called again")
        self._left[tool.name] -= 1
        self.used = True
