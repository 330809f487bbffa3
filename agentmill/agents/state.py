"""The dialogue state that a conversation carries from turn to turn: what is wanted, what is known, what was mentioned.

An utterance has one request or several ("find one and book it"): the intent and those `also` wanted. Invariant: the
order of requests is that of the utterance, and every one of several has tools.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, Field

from agentmill.domains.base import Domain, Json

MAX_REMEMBERED = 5
Memory = dict[str, list[Any]]


class Understanding(BaseModel):
    """What the Understander returns: the intent, the entities heard in this utterance, or a question back.

    `also` names further requests of the same utterance. `confirmed` is true only when the customer agrees to what was
    just proposed.
    """

    intent: str
    also: tuple[str, ...] = ()
    entities: dict[str, Any] = Field(default_factory=dict)
    confirmed: bool = False
    question: str | None = None

    @property
    def requests(self) -> tuple[str, ...]:
        return (self.intent, *self.also)


class DialogueState(BaseModel):
    """Requests and entities so far. `proposed` is true when the last reply proposed a change of the world.

    `memory` holds, for every entity that can be referred to, the values that were last told or returned, in order.
    `switches` names the changes of the business that took hold since the conversation began; what is asked of a domain
    for this state is asked of `domain.under(state.switches)`.
    Invariant: `confirmed` holds only for the very entities that were proposed: a changed entity or intent clears it.
    """

    intent: str = ""
    also: tuple[str, ...] = ()
    entities: dict[str, Any] = Field(default_factory=dict)
    proposed: bool = False
    confirmed: bool = False
    memory: Memory = Field(default_factory=dict)
    switches: tuple[str, ...] = ()

    @classmethod
    def read(cls, frame: Mapping[str, str], domain: Domain) -> "DialogueState":
        """The state that a frame shows, its values with the types that their entities have.

        Raises:
            ValueError: for a value that is none of its entity's type, a memory that is no JSON, an unknown change.
        """
        switches = domain.changed_in(frame)
        intent = frame.get("intent", "none")
        also = tuple(frame["also"].split(", ")) if frame.get("also") else ()
        shown = cls(intent="" if intent == "none" else intent, also=also, switches=switches)
        slots = domain.under(switches).slots_of(shown.requests)
        return shown.model_copy(
            update={
                "entities": {name: domain.entities[name].read(frame[name]) for name in slots if name in frame},
                "proposed": frame.get("proposed") == "yes",
                "confirmed": frame.get("confirmed") == "yes",
                "memory": json.loads(frame["memory"]) if "memory" in frame else {},
            }
        )

    @property
    def requests(self) -> tuple[str, ...]:
        """Every intent that is asked for, in the order of the utterance; none at the start."""
        return (self.intent, *self.also) if self.intent else ()

    def updated(self, heard: Understanding, domain: Domain) -> "DialogueState":
        """The state after `heard`.

        Entities stay while one of their intents is asked for, and shared ones always, unless one of several new
        requests is to supply them.
        """
        domain = domain.under(self.switches)
        still = domain.slots_of([name for name in heard.requests if name in self.requests])
        kept = {k: v for k, v in self.entities.items() if k in still or domain.entities[k].shared}
        if heard.also and heard.requests != self.requests:
            supplied = {name for intent in heard.requests for name in domain.intents[intent].supplies}
            kept = {name: value for name, value in kept.items() if name not in supplied}
        same = set(heard.requests) <= set(self.requests)
        changed = not same or any(self.entities.get(k) != v for k, v in heard.entities.items())
        told = {name: [value] for name, value in heard.entities.items() if domain.entities[name].refers}
        news = {name: value for name, value in told.items() if value[0] not in self.memory.get(name, [])}
        return DialogueState(
            intent=heard.intent,
            also=heard.also,
            entities={**kept, **heard.entities},
            confirmed=heard.confirmed and self.proposed and not changed,
            memory={**self.memory, **news},
            switches=self.switches,
        )

    def after(self, results: Json, domain: Domain) -> "DialogueState":
        """The state that the next turn starts from once a plan has run.

        What the tools returned can be referred to. Requests that wait for the customer's word remain and are
        `proposed`, with what the others supplied in this very plan; where they supplied nothing, all requests remain.
        """
        domain = domain.under(self.switches)
        found = mentioned(results, domain)
        memory = {**self.memory, **found}
        intents = [domain.intents[name] for name in self.requests]
        waiting = [] if self.confirmed else [intent for intent in intents if intent.needs_confirmation]
        if not waiting:
            return self.model_copy(update={"memory": memory, "proposed": False, "confirmed": False})
        supplied = {name for intent in intents for name in intent.supplies if intent not in waiting}
        pinned = {name: found[name][0] for name in supplied if name not in self.entities and name in found}
        entities = {**self.entities, **pinned}
        names = tuple(intent.name for intent in waiting)
        if domain.missing(names, entities) is not None:
            return self.model_copy(update={"memory": memory, "proposed": False})
        return DialogueState(
            intent=names[0], also=names[1:], entities=entities, proposed=True, memory=memory, switches=self.switches
        )

    def fields(self, names: Collection[str]) -> dict[str, Any]:
        """The state as frame fields: the requests, the entities in `names` in that order, `confirmed: yes` if so."""
        fields: dict[str, Any] = {"intent": self.intent or "none"}
        if self.also:
            fields["also"] = ", ".join(self.also)
        fields.update({name: self.entities[name] for name in names if name in self.entities})
        if self.confirmed:
            fields["confirmed"] = True
        return fields

    def remembered(self) -> Memory:
        """What the memory holds beyond the entities themselves."""
        return {name: values for name, values in self.memory.items() if values != [self.entities.get(name)]}


def mentioned(results: Json, domain: Domain) -> Memory:
    """For every entity that can be referred to, the distinct values under its name in a plan's results, in order."""
    found: Memory = {}
    for name, value in _pairs(results):
        if name in domain.entities and domain.entities[name].refers and type(value) is domain.entities[name].kind:
            values = found.setdefault(name, [])
            if value not in values and len(values) < MAX_REMEMBERED:
                values.append(value)
    return found


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield name, inner
            yield from _pairs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _pairs(inner)
