"""What a simulated customer makes of a reply, from its words only: a question, a proposal, an answer, or no help.

The replies may come from any model, so this looks for few and plain signs. A customer notices when a reply talks of
another car, day, time or person than was asked for, and says so; that lets a conversation recover from a mistake.
"""

import re
from typing import Any, Literal, NamedTuple

from agentmill.domains.automotive.catalogue import CATALOGUE, CONDITIONS, DAYS
from agentmill.domains.automotive.voice import mentions
from agentmill.domains.base import CHANGED_REPLY

Kind = Literal[
    "question", "proposal", "mismatch", "refused", "gone", "unhelpful", "done",
    "changed", "bargains", "limit", "puzzled", "pushes",
]  # fmt: skip


class Heard(NamedTuple):
    """What a reply is for the goal at hand; `slots` are those asked for or those that it got wrong.

    `gone` is a refusal because the car is. The last five kinds are what the customer makes of a reply: a proposal that
    they want otherwise (`changed`) or try to better (`bargains`), the refusal of that (`limit`), a question that they
    do not follow (`puzzled`), and what they push for more at (`pushes`).
    """

    kind: Kind
    slots: tuple[str, ...] = ()


_UNHELPFUL = re.compile(r"other words|did not get that|how can i help|can only help|anything else i can", re.IGNORECASE)
_UNKNOWN = re.compile(r"(?:cannot|can't|could not|couldn't) find", re.IGNORECASE)
_PROPOSAL = re.compile(
    r"\b(?:shall|should|may|can) i (?:book|cancel|move|reserve|note)|would you like me to|do you want me to",
    re.IGNORECASE,
)
_REFUSED = re.compile(r"\b(?:taken|closed|not free|not available|unavailable|not open|another day)\b", re.IGNORECASE)
_LIMITED = re.compile(r"can only value|most that i can give|cannot offer you a rate|was delivered", re.IGNORECASE)
_TERMS = re.compile(r"we finance over", re.IGNORECASE)
_GONE = re.compile(r"\bis (?:sold|reserved)\b(?! for)", re.IGNORECASE)
_UNVERIFIED = re.compile(r"(?:could not|cannot|can't|not be|unable to|not)\s+(?:verif|valid)", re.IGNORECASE)
_BOOKED = re.compile(r"(?<!nothing is )(?<!not )\b(?:is|have|are|'ve) booked\b", re.IGNORECASE)
_CANCELLED = re.compile(r"(?<!not )\b(?:is|have|has been|'ve) cancell?ed\b", re.IGNORECASE)
_DONE = {
    "book_test_drive": _BOOKED,
    "cancel_test_drive": _CANCELLED,
    "cancel_service": _CANCELLED,
    "move_test_drive": re.compile(r"(?<!not )\b(?:is|have|has been|'ve) moved\b", re.IGNORECASE),
    "move_delivery": re.compile(r"\bis delivered on\b|(?<!not )\b(?:is|have|'ve) moved\b", re.IGNORECASE),
    "reserve_vehicle": re.compile(r"\b(?:is|have|'ve) reserved (?:it )?for\b", re.IGNORECASE),
    "book_service": re.compile(r"\bworkshop expects\b|(?<!not )\b(?:is|have|'ve) booked\b", re.IGNORECASE),
    "leave_contact": re.compile(r"\bcolleague will call\b", re.IGNORECASE),
}
SLOTTED = ("book_test_drive", "move_test_drive", "book_service", "move_delivery")
_QUESTIONS = tuple(
    (slot, re.compile(rf"\b(?:{words})\b", re.IGNORECASE))
    for slot, words in (
        ("vin", "identification number"),
        ("phone", "telephone|phone"),
        ("plate", "number plate"),
        ("order", "order number"),
        ("score", "credit score"),
        ("term", "months"),
        ("down_payment", "pay down|down payment"),
        ("discount", "percent off"),
        ("other_stock", "compare it with"),
        ("service", "which service"),
        ("place", "do you come"),
        ("licence", "licence|license"),
        ("reference", "reference"),
        ("stock", "stock"),
        ("condition", "condition"),
        ("mileage", "miles|mileage"),
        ("year", "year"),
        ("make", "make"),
        ("model", "model"),
        ("name", "name"),
        ("body", "kind|body|type"),
        ("fuel", "fuel"),
        ("max_price", "budget|price"),
        ("day", "day"),
        ("time", "time"),
    )
)
_CHECKED: dict[str, tuple[str, ...]] = {
    "find_vehicles": ("make", "max_price"),
    "vehicle_details": ("stock",),
    "book_test_drive": ("stock", "day", "time", "name", "licence"),
    "check_booking": ("reference",),
    "cancel_test_drive": ("reference",),
    "opening_hours": ("day",),
    "compare_vehicles": ("stock",),
    "check_availability": ("stock",),
    "reserve_vehicle": ("stock", "name"),
    "price_offer": ("stock",),
    "finance_quote": ("stock",),
    "move_test_drive": ("day", "time"),
    "book_service": ("day", "time"),
    "cancel_service": ("reference",),
    "order_status": (),
    "move_delivery": ("day",),
    "directions": (),
    "leave_contact": ("name",),
    "talk_to_person": (),
    "value_trade_in": ("make", "model", "year", "mileage", "condition"),
}
_STATED: dict[str, re.Pattern[str]] = {
    "stock": re.compile(r"\b[A-Z]\d{4}\b"),
    "reference": re.compile(r"\b[TW]\d{5}\b"),
    "licence": re.compile(r"\b[A-Z]\d{7}\b"),
    "year": re.compile(r"\b(?:19|20)\d\d\b"),
    "mileage": re.compile(r"\b\d[\d,]*k? miles\b", re.IGNORECASE),
    "condition": re.compile(rf"\b(?:{'|'.join(CONDITIONS)})\b", re.IGNORECASE),
    "day": re.compile(rf"\b(?:{'|'.join(DAYS)})\b", re.IGNORECASE),
    "time": re.compile(r"\b\d{1,2}:00\b|\b\d{1,2} ?[ap]m\b", re.IGNORECASE),
    "make": re.compile(rf"\b(?:{'|'.join(CATALOGUE)})\b", re.IGNORECASE),
    "name": re.compile(r"\b(?:book it for|for|name of) [A-Z]\S+ [A-Z]"),
}


def hear(intent: str, wishes: dict[str, Any], reply: str) -> Heard:
    """What `reply` is to a customer who wants `intent` with `wishes`."""
    if _UNHELPFUL.search(reply):
        return Heard("unhelpful")
    completed = intent in _DONE and (reply.endswith(CHANGED_REPLY) or _DONE[intent].search(reply))
    if completed and not _UNVERIFIED.search(reply):
        return Heard("done")  # the customer agreed to the facts before
    questions = [sentence for sentence in re.split(r"(?<=[.!?])\s+", reply.strip()) if sentence.endswith("?")]
    last = questions[-1] if questions else ""
    proposal = intent in _DONE and bool(_PROPOSAL.search(last))
    if last and not proposal:
        slot = next((slot for slot, pattern in _QUESTIONS if pattern.search(last)), None)
        return Heard("question", (slot,)) if slot else Heard("unhelpful")
    if _LIMITED.search(reply):
        return Heard("done")
    if _TERMS.search(reply):
        return Heard("refused")
    wrong = tuple(slot for slot in _CHECKED[intent] if slot in wishes and _differs(slot, wishes, reply))
    if wrong:
        return Heard("mismatch", wrong)
    if proposal:
        return Heard("proposal")
    if intent in ("reserve_vehicle", *SLOTTED) and _GONE.search(reply):
        return Heard("gone")
    if intent in SLOTTED and not _UNVERIFIED.search(reply):
        return Heard("refused" if _REFUSED.search(reply) else "unhelpful")
    if intent in _DONE and not _UNVERIFIED.search(reply) and not _GONE.search(reply):
        return Heard("unhelpful")
    return Heard("unhelpful" if _UNKNOWN.search(reply) else "done")


def _differs(slot: str, wishes: dict[str, Any], reply: str) -> bool:
    """Whether the reply states a value of this kind, and never the customer's own."""
    if slot == "max_price":
        return any(int(price) > wishes[slot] for price in re.findall(r"\$(\d+)", reply.replace(",", "")))
    if mentions(slot, wishes[slot], reply):
        return False
    if slot == "model":
        return bool(_STATED["make"].search(reply))
    return bool(_STATED[slot].search(reply))
