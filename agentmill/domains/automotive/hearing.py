"""What a simulated customer makes of a reply, from its words only: a question, a proposal, an answer, or no help.

The replies may come from any model, so this looks for few and plain signs. A customer notices when a reply talks of
another car, day, time or person than was asked for, and says so; that lets a conversation recover from a mistake.
"""

import re
from typing import Any, Literal, NamedTuple

from agentmill.domains.automotive.catalogue import CATALOGUE, CONDITIONS, DAYS
from agentmill.domains.automotive.voice import mentions

Kind = Literal["question", "proposal", "mismatch", "refused", "unhelpful", "done"]


class Heard(NamedTuple):
    """What a reply is for the goal at hand; `slots` are those asked for or those that it got wrong."""

    kind: Kind
    slots: tuple[str, ...] = ()


_UNHELPFUL = re.compile(r"other words|did not get that|how can i help|can only help|anything else i can", re.IGNORECASE)
_UNKNOWN = re.compile(r"(?:cannot|can't|could not|couldn't) find", re.IGNORECASE)
_PROPOSAL = re.compile(
    r"\b(?:shall|should|may|can) i (?:book|cancel)|would you like me to|do you want me to", re.IGNORECASE
)
_REFUSED = re.compile(r"\b(?:taken|closed|not free|not available|unavailable|not open|another day)\b", re.IGNORECASE)
_UNVERIFIED = re.compile(r"(?:could not|cannot|can't|not be|unable to|not)\s+(?:verif|valid)", re.IGNORECASE)
_BOOKED = re.compile(r"(?<!nothing is )(?<!not )\b(?:is|have|are|'ve) booked\b", re.IGNORECASE)
_CANCELLED = re.compile(r"(?<!not )\b(?:is|have|has been|'ve) cancell?ed\b", re.IGNORECASE)
_QUESTIONS = tuple(
    (slot, re.compile(rf"\b(?:{words})\b", re.IGNORECASE))
    for slot, words in (
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
    "value_trade_in": ("make", "model", "year", "mileage", "condition"),
}
_STATED: dict[str, re.Pattern[str]] = {
    "stock": re.compile(r"\b[A-Z]\d{4}\b"),
    "reference": re.compile(r"\bT\d{5}\b"),
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
    if _carried_out(intent, reply):
        return Heard("done")
    questions = [sentence for sentence in re.split(r"(?<=[.!?])\s+", reply.strip()) if sentence.endswith("?")]
    last = questions[-1] if questions else ""
    proposal = intent in ("book_test_drive", "cancel_test_drive") and bool(_PROPOSAL.search(last))
    if last and not proposal:
        slot = next((slot for slot, pattern in _QUESTIONS if pattern.search(last)), None)
        return Heard("question", (slot,)) if slot else Heard("unhelpful")
    wrong = tuple(slot for slot in _CHECKED[intent] if slot in wishes and _differs(slot, wishes, reply))
    if wrong:
        return Heard("mismatch", wrong)
    if proposal:
        return Heard("proposal")
    if intent == "book_test_drive":
        if _UNVERIFIED.search(reply):
            return Heard("done")
        return Heard("refused" if _REFUSED.search(reply) else "unhelpful")
    return Heard("unhelpful" if intent == "cancel_test_drive" or _UNKNOWN.search(reply) else "done")


def _carried_out(intent: str, reply: str) -> bool:
    """Whether the reply says that the change was made; the customer agreed to its facts before."""
    if intent == "book_test_drive":
        return bool(_BOOKED.search(reply)) and not _UNVERIFIED.search(reply)
    return intent == "cancel_test_drive" and bool(_CANCELLED.search(reply))


def _differs(slot: str, wishes: dict[str, Any], reply: str) -> bool:
    """Whether the reply states a value of this kind, and never the customer's own."""
    if slot == "max_price":
        return any(int(price) > wishes[slot] for price in re.findall(r"\$(\d+)", reply.replace(",", "")))
    if mentions(slot, wishes[slot], reply):
        return False
    if slot == "model":
        return bool(_STATED["make"].search(reply))
    return bool(_STATED[slot].search(reply))
