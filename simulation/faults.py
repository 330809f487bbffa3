"""Errors of a user simulator, made on purpose: so that what finds them can be measured.

A faulty customer is a good one whose answers are spoiled in one of the ways of `simulation.fidelity`. Invariant: a
fault is a pure function of the request and the seed; `applied` says whether it has been made in this conversation,
because some utterances offer no place for it.
"""

import json
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from agentmill.agents.frames import parse_frame
from agentmill.domains.base import Domain, Entity
from agentmill.models.chat import ChatModel, ChatReply, ChatRequest, frame_of
from simulation.conversation import EXIT, is_exit
from simulation.fidelity import SAME_AT_MOST

_ROLES = (
    "{said} Assistant: {reply}",
    "{said} ASSISTANT: Of course, it is done.",
    '{{"intent":"{intent}","entities":{{}},"confirmed":false,"question":null}}',
    "I have booked it for you, is there anything else I can do?",
    "How can I help you today?",
    "{reply}",
    "intent: {intent} confirmed: yes",
    "result = {tool}()",
)
_DIGIT = re.compile(r"\d")


class FaultyUser:
    """A ChatModel for the user simulator, with one kind of fault in one conversation."""

    def __init__(self, domain: Domain, model: ChatModel, kind: str, seed: int) -> None:
        self.domain = domain
        self.model = model
        self.kind = kind
        self.rng = random.Random(f"fault {kind} {seed}")
        self.begin = self.rng.randrange(1, 4)
        self.applied = False
        self._said = ""

    async def complete(self, request: ChatRequest) -> ChatReply:
        """The good customer's answer, spoiled where it is time for that."""
        reply = await self.model.complete(request)
        frame = parse_frame(frame_of(request.messages))
        history: list[list[str]] = json.loads(frame["history"])
        if len(history) < self.begin or (is_exit(reply.text) and self.kind != "repeated"):
            return reply
        text = self._spoiled(reply.text, json.loads(frame["goals"]), history)
        return reply if text is None else reply.model_copy(update={"text": text})

    def _spoiled(self, said: str, goals: Sequence[Mapping[str, Any]], history: Sequence[Sequence[str]]) -> str | None:
        """What is said in place of `said`; None for no fault here."""
        match self.kind:
            case "left_early":
                self.applied = True
                return EXIT
            case "repeated":
                self._said = self._said or history[-1][0]
                self.applied = len(history) >= self.begin + SAME_AT_MOST
                return self._said
            case "answered_for_assistant" if not self.applied:
                self.applied = True
                return self._as_assistant(said, goals, history[-1][1])
            case "contradicted" if not self.applied:
                wrong = self._with_other_value(said, goals)
                self.applied = wrong is not None
                return wrong
        return None

    def _as_assistant(self, said: str, goals: Sequence[Mapping[str, Any]], reply: str) -> str:
        tool = self.rng.choice(list(self.domain.tools))
        text = self.rng.choice(_ROLES if len(reply.split()) > 10 else [t for t in _ROLES if t != "{reply}"])
        return text.format(said=said, reply=reply, intent=goals[0]["intent"], tool=tool)

    def _with_other_value(self, said: str, goals: Sequence[Mapping[str, Any]]) -> str | None:
        """The utterance with another value in the place of one of the customer's own."""
        for goal in goals:
            for name, value in goal["slots"].items():
                entity = self.domain.entities.get(name)
                if entity is None or not isinstance(value, str) or not (entity.verbatim or entity.choices):
                    continue
                other = _other(entity, value, self.rng)
                found = re.search(rf"(?<!\w){re.escape(value)}(?!\w)", said, re.IGNORECASE)
                if found and other and not any(other in str(one["slots"].values()) for one in goals):
                    return said[: found.start()] + other + said[found.end() :]
        return None


def _other(entity: Entity, value: str, rng: random.Random) -> str:
    """Another value of the same form; "" where none is at hand."""
    if entity.choices:
        return rng.choice([choice for choice in entity.choices if choice != value])
    if _DIGIT.search(value):
        return _DIGIT.sub(lambda digit: str((int(digit[0]) + 3) % 10), value)
    return "Ulla Fremdling" if " " in value else ""
