"""What a simulated customer makes of a reply, from its words only: a question, a proposal, an answer, or no help.

The replies may come from any model, so this looks for few and plain signs. A customer notices when a reply talks of
another value than was asked for, and says so; that lets a conversation recover from a mistake.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from agentmill.domains.base import CHANGED_REPLY

Kind = Literal["question", "proposal", "mismatch", "refused", "unhelpful", "done", "changed", "puzzled", "pushes"]
UNHELPFUL = re.compile(
    r"other words|did not get that|how can i help|can only help|anything else i can|(?:cannot|can't|could not) find",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


class Heard(NamedTuple):
    """What a reply is for the goal at hand; `slots` are those asked for or those that it got wrong.

    The last three kinds are what the customer makes of it: a proposal that they want otherwise, a question that they do
    not follow, and what they push for more at.
    """

    kind: Kind
    slots: tuple[str, ...] = ()


@dataclass(frozen=True)
class Signs:
    """How the replies of one pack are told apart.

    `questions` are tried in order on a reply's last question. `carried_out` says of an intent that changes the world
    that it was done, `refused` of any that it cannot be. `stated` finds a slot's values in a reply; `checked` names the
    slots of an intent that a customer looks at; `forms(slot, value)` are the ways to write a value.
    """

    questions: tuple[tuple[str, re.Pattern[str]], ...]
    proposal: re.Pattern[str]
    carried_out: Mapping[str, re.Pattern[str]]
    refused: re.Pattern[str]
    stated: Mapping[str, re.Pattern[str]]
    checked: Mapping[str, tuple[str, ...]]
    forms: Callable[[str, Any], list[str]]
    unhelpful: re.Pattern[str] = UNHELPFUL

    def hear(self, intent: str, wishes: Mapping[str, Any], reply: str) -> Heard:
        """What `reply` is to a customer who wants `intent` with `wishes`."""
        if self.unhelpful.search(reply):
            return Heard("unhelpful")
        change = self.carried_out.get(intent)
        if change and (reply.endswith(CHANGED_REPLY) or change.search(reply)):
            return Heard("done")
        questions = [sentence for sentence in _SENTENCE.split(reply.strip()) if sentence.endswith("?")]
        last = questions[-1] if questions else ""
        proposal = change is not None and bool(self.proposal.search(last))
        if last and not proposal:
            slot = next((slot for slot, pattern in self.questions if pattern.search(last)), None)
            return Heard("question", (slot,)) if slot else Heard("unhelpful")
        wrong = tuple(
            slot for slot in self.checked.get(intent, ()) if slot in wishes and self._differs(slot, wishes, reply)
        )
        if wrong:
            return Heard("mismatch", wrong)
        if proposal:
            return Heard("proposal")
        if self.refused.search(reply):
            return Heard("refused")
        return Heard("unhelpful" if change else "done")

    def mentions(self, slot: str, value: Any, text: str) -> bool:
        """Whether `text` holds the value in one of its forms, whatever the case."""
        lower = text.casefold()
        return any(form.casefold() in lower for form in self.forms(slot, value))

    def _differs(self, slot: str, wishes: Mapping[str, Any], reply: str) -> bool:
        """Whether the reply states a value of this kind, and never the customer's own."""
        return bool(self.stated[slot].search(reply)) and not self.mentions(slot, wishes[slot], reply)
