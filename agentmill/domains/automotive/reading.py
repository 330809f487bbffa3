"""How the expert Understander reads a customer of the dealership: cue words, references, and the kit's way of both.

References ("the second one", "the same day") are resolved from the frame's memory, those that no value answers.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from agentmill.domains.automotive.intents import ENTITIES, INTENTS
from agentmill.domains.automotive.requests import ORDINALS
from agentmill.domains.automotive.switches import SWITCHES
from agentmill.domains.automotive.values import READERS, STOCK, TALK, Values, read_entities
from agentmill.domains.base import Json
from agentmill.domains.kit.personas import INJECTION_CUE
from agentmill.domains.kit.policy import Frame
from agentmill.domains.kit.reading import Reading, cue

_CUES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("unsafe", cue(
        r"odometer|airbags?|without (?:a )?licence|drunk|forge|being caught|catalytic")),
    ("private_data", cue(
        r"another customer|other customers?|someone else's|whose booking|who (?:bought|booked)|"
        r"my (?:neighbour|boss)'s")),
    ("out_of_scope", cue(
        r"pizza|eat|restaurants?|flights?|plane|hotels?|essay|homework|\d+ times \d+|football|match|striker|bake|"
        r"recipes?|boil|headache|dentist|cough|invest|shares|bitcoin|rent|washing machines|" + INJECTION_CUE)),
    ("talk_to_person", cue(
        r"(?:talk|speak|connect me|put me through) (?:to|with) (?:an? |your )?"
        r"(?:person|human|colleague|manager|someone)")),
    ("leave_contact", cue(r"call me back|callback|give me (?:a )?call")),
    ("cancel_service", re.compile(r"(?=.*\bcancel\b)(?=.*\b(?:workshop|W\d{5})\b)", re.IGNORECASE)),
    ("cancel_test_drive", cue(r"cancel|call off|can't make it")),
    ("move_delivery", re.compile(r"\b(?:move|postpone|change|another day)\b.*\b(?:delivery|P\d{5})\b|"
                                 r"\bdelivery\b.*\banother day\b", re.IGNORECASE)),
    ("move_test_drive", cue(r"(?:move|reschedule|postpone|shift) (?:my |the )?(?:booking|test drive|T\d{5})")),
    ("book_service", cue(r"workshop")),
    ("finance_quote", cue(r"financ(?:e|ing)|monthly|a month|per month|instalments|credit score")),
    ("value_trade_in", cue(
        r"trade|trading|trade-in|worth|selling|(?:pay|get|estimate|price) for my|(?:buy|value) my")),
    ("order_status", cue(r"my order|i ordered")),
    ("check_booking", cue(r"my (?:booking|test drive|appointment)|booked under|did i book")),
    ("reserve_vehicle", cue(
        r"reserve (?:(?:the |a |that )?car|it\b|[A-Z]\d{4}|the (?:first|second|third|last))|"
        r"(?:hold|set aside|keep) (?:the |that |it\b|(?:a )?car\b|[A-Z]\d{4})")),
    ("price_offer", cue(r"discount|percent|\d+(?=%)|incentives?|best price|special offer|(?:an|me) offer|any deal")),
    ("compare_vehicles", cue(r"compare|comparison|difference between|versus|side by side")),
    ("book_test_drive", cue(r"test[- ]drive")),
    ("check_availability", cue(r"available|still have|still there|still for sale|sold already")),
    ("directions", cue(r"directions|get to you|reach you|find you|way to you|where are you")),
    ("opening_hours", cue(r"open|opening|close|closing|hours")),
    ("vehicle_details", cue(
        r"tell me about|tell me more|details|know (?:more|everything)|question about|describe|info|information|specs|"
        r"what is stock|how much is|does [A-Z]\d{4} cost|what colour")),
    ("find_vehicles", cue(
        r"looking for|do you have|you have maybe|show me|buy|buying|(?:have you|you have) got|find|"
        r"i need|we need|needs|search|searching|"
        r"interested in|is there|in (?:the )?market|can i see|see some cars|don't mind|no preference|any kind|"
        r"doesn't matter")),
)  # fmt: skip
_TOGETHER = frozenset(
    (
        ("find_vehicles", "book_test_drive"), ("value_trade_in", "finance_quote"), ("opening_hours", "directions"),
        ("vehicle_details", "check_availability"), ("vehicle_details", "price_offer"),
        ("check_availability", "book_test_drive"), ("check_booking", "opening_hours"),
        ("order_status", "opening_hours"),
    )
)  # fmt: skip
_ORDINAL = re.compile(rf"\bthe ({'|'.join(ORDINALS)}|last)(?: one| car|\b)", re.IGNORECASE)
_SAME_DAY = re.compile(r"\b(?:the|that) same day\b", re.IGNORECASE)


class CarReading(Reading):
    """The kit's reading, but that two cars may be pointed at in one utterance."""

    def values(self, requests: Sequence[str], text: str, frame: Frame, assistant: str) -> Json:
        """The entities in a text, references resolved."""
        wanted = set(self.slots(requests))
        found = read_entities(wanted, text, assistant)
        left = wanted - self.supplied(requests) - found.keys()
        found |= _referred(text, json.loads(frame.get("memory", "{}")), left, assistant)
        pointed, numbered = _ORDINAL.search(text), STOCK.search(text)
        if pointed and numbered and pointed.start() < numbered.start() and {"stock", "other_stock"} <= found.keys():
            found["stock"], found["other_stock"] = found["other_stock"], found["stock"]  # in the order of the words
        return found


def _referred(text: str, memory: dict[str, list[Any]], wanted: set[str], assistant: str) -> Values:
    """What "the second one" and "the same day" stand for."""
    found: Values = {}
    listed = memory.get("stock", [])
    named = [match[1].lower() for match in _ORDINAL.finditer(text)]
    places = [-1 if name == "last" else ORDINALS.index(name) for name in named]
    cars = [listed[place] for place in places if place < len(listed) and listed]
    slots = ("other_stock",) if "compare it with" in assistant else ("stock", "other_stock")
    found.update(zip([slot for slot in slots if slot in wanted], cars, strict=False))
    if "day" in wanted and memory.get("day") and _SAME_DAY.search(text):
        found["day"] = memory["day"][0]
    return found


READING = CarReading(
    entities=ENTITIES,
    intents=INTENTS,
    cues=_CUES,
    readers=READERS,
    together=_TOGETHER,
    alone=("find_vehicles", "vehicle_details", "check_booking"),
    talk=TALK,
    switches=SWITCHES,
)
understand = READING.understand
