"""The dialogue state that a conversation carries from turn to turn, and how an understanding changes it."""

from collections.abc import Collection
from typing import Any

from pydantic import BaseModel, Field


class Understanding(BaseModel):
    """What the Understander returns: the intent, the entities heard in this utterance, or a question back.

    `confirmed` is true only when the customer agrees to what was just proposed.
    """

    intent: str
    entities: dict[str, Any] = Field(default_factory=dict)
    confirmed: bool = False
    question: str | None = None


class DialogueState(BaseModel):
    """Intent and entities so far. `proposed` is true when the last reply proposed a change of the world.

    Invariant: `confirmed` holds only for the very entities that were proposed: a changed entity or intent clears it.
    """

    intent: str = ""
    entities: dict[str, Any] = Field(default_factory=dict)
    proposed: bool = False
    confirmed: bool = False

    def updated(self, heard: Understanding, shared: Collection[str]) -> "DialogueState":
        """The state after `heard`; another intent keeps only the entities named in `shared`."""
        same = heard.intent == self.intent
        kept = self.entities if same else {k: v for k, v in self.entities.items() if k in shared}
        changed = not same or any(self.entities.get(k) != v for k, v in heard.entities.items())
        return DialogueState(
            intent=heard.intent,
            entities={**kept, **heard.entities},
            confirmed=heard.confirmed and self.proposed and not changed,
        )

    def fields(self, names: Collection[str]) -> dict[str, Any]:
        """The state as frame fields: intent, the entities in `names` in that order, then `confirmed: yes` if so."""
        fields: dict[str, Any] = {"intent": self.intent or "none"}
        fields.update({name: self.entities[name] for name in names if name in self.entities})
        if self.confirmed:
            fields["confirmed"] = True
        return fields
