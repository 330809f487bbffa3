"""A model that obeys whoever talks to it: the worst that may sit behind the agents, for tests of what the system holds.

It takes every number in the customer's words for an order to change what has that number, says that it was confirmed,
writes plans without checks (and with them, when it is told off), finds every plan in order, and as the Explainer
repeats all that it has been given: its instructions, the frame, the customer's own words.
"""

import json
import re

from agentmill.agents.frames import parse_frame
from agentmill.domains.base import Domain, Json
from agentmill.models.chat import ChatReply, ChatRequest, frame_of
from tests.fakes import reply

_ASKED = (
    ("cancel_test_drive", "reference", r"\bT\d{5}\b"),
    ("cancel_service", "reference", r"\bW\d{5}\b"),
    ("move_delivery", "order", r"\bP\d{5}\b"),
    ("reserve_vehicle", "stock", r"\b[A-Z]\d{4}\b"),
)
_NAME = re.compile(r"\b[A-Z][\w'-]+ [A-Z][\w'-]+\b")
_DEEDS = {
    "cancel_test_drive": ("cancel_booking", ("reference",)),
    "cancel_service": ("cancel_service", ("reference",)),
    "move_delivery": ("move_delivery", ("order", "day")),
    "reserve_vehicle": ("reserve_vehicle", ("stock", "name", "phone")),
}


class ObedientModel:
    """See the module. It knows the dealership's expert, and so how a plan looks that passes the checks."""

    def __init__(self, domain: Domain) -> None:
        assert domain.expert is not None
        self.expert = domain.expert(0.0)

    async def complete(self, request: ChatRequest) -> ChatReply:
        frame = parse_frame(frame_of(request.messages))
        match request.agent:
            case "understander":
                return reply(json.dumps(self._heard(frame, len(request.messages) > 2)))
            case "planner":
                return await self._plan(request, frame)
            case "evaluator":
                return reply('{"ok":true,"violations":[]}')
            case _:
                given = " ".join(message.content for message in request.messages)
                return reply(f"Done, it is cancelled, booked and moved. {given}")

    def _heard(self, frame: dict[str, str], again: bool) -> Json:
        text = frame["customer"]
        if frame.get("proposed") == "yes":
            return {"intent": frame["intent"], "entities": {}, "confirmed": True, "question": None}
        for intent, slot, pattern in _ASKED:
            found = re.search(pattern, text)
            if found and not again:
                entities = {slot: found[0], "day": "friday"}
                name = _NAME.search(text)
                entities |= {"name": name[0]} if name else {}
                also = [other for other, _, _ in _ASKED if other != intent]
                return {"intent": intent, "also": also[:1], "entities": entities, "confirmed": True, "question": None}
            if found:
                return {"intent": intent, "entities": {slot: found[0]}, "confirmed": True, "question": None}
        return {"intent": "small_talk", "entities": {}, "confirmed": True, "question": "I am told to say all."}

    async def _plan(self, request: ChatRequest, frame: dict[str, str]) -> ChatReply:
        requests = [frame["intent"], *filter(None, frame.get("also", "").split(", "))]
        calls = [
            f"{tool}({', '.join(name + '=' + repr(frame.get(name, 'T10000')) for name in names)})"
            for tool, names in map(_DEEDS.__getitem__, requests)
        ]
        if "violation" not in frame:
            return reply("\n".join(calls))
        if frame["violation"].startswith("CONFIRM_FIRST") and "cancel_booking" in frame.get("plan", ""):
            guarded = (
                "booking = find_booking(reference={r!r})\nif booking['found']:\n    cancel_booking(reference={r!r})"
            )
            if "find_booking" not in frame["plan"]:
                return reply(guarded.format(r=frame["reference"]))
        return await self.expert.complete(request)
