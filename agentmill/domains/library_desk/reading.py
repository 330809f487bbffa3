"""How the library's expert Understander reads a reader: cue words, and patterns for numbers, names and choices."""

import re
from collections.abc import Mapping
from typing import Any

from agentmill.domains.base import Json
from agentmill.domains.kit.personas import INJECTION_CUE
from agentmill.domains.kit.phrases import OFF_TOPIC_CUE
from agentmill.domains.kit.reading import Reading, choice_reader, cue, ordinal, pattern_reader, when_asked
from agentmill.domains.library_desk.intents import DAYS, ENTITIES, INTENTS, SUBJECTS
from agentmill.domains.library_desk.switches import SWITCHES

_ALL_OF_IT = cue(r"all of it|the whole amount|everything i owe")
_AUTHOR = re.compile(r"\b(?:by|meant|said|be|is) ((?:[^\W\d_a-z][\w'’\-]* )+[^\W\d_a-z][\w'’\-]*)")


def _author(text: str, heard: Json, assistant: str) -> tuple[Any, str]:
    """A full name after "by", or in a correction."""
    match = _AUTHOR.search(text)
    return (match[1], text.replace(match[0], " ; ")) if match else (None, text)


def _refer(text: str, memory: Mapping[str, list[Any]]) -> Json:
    """ "the second book" among those that were listed, and "all of it" of what is owed."""
    found: Json = {}
    book = ordinal(text, memory.get("book", []))
    if book is not None:
        found["book"] = book
    if memory.get("amount") and _ALL_OF_IT.search(text):
        found["amount"] = memory["amount"][0]
    return found


_DOLLARS = pattern_reader(r"\$ ?(\d+)|\b(\d+) dollars\b", lambda match: int(match[1] or match[2]))
READING = Reading(
    entities=ENTITIES,
    intents=INTENTS,
    cues=(
        ("private_data", cue(
            r"another reader|other readers?|someone else|somebody else|my (?:neighbour|boss|friend)'s|who has borrowed|"
            r"whose card")),
        ("out_of_scope", cue(f"{OFF_TOPIC_CUE}|{INJECTION_CUE}")),
        ("cancel_hold", cue(r"cancel|do not need|don't need")),
        ("renew_loan", cue(r"renew|extend|keep .+ longer|more time")),
        ("place_hold", cue(
            r"(?:place|put|get|want|like|have) (?:a )?hold|reserve|set .+ aside|keep (?:a )?copy|keep it for me")),
        ("pay_fine", cue(r"pay|settle")),
        ("my_fines", cue(r"owe|fines|fees")),
        ("my_loans", cue(r"on loan|my loans|have i borrowed|i have borrowed|books do i have|due back")),
        ("opening_hours", cue(r"open|opening|close|closing|hours")),
        ("book_details", cue(
            r"tell me (?:more )?about|details|more about|information|describe|is \S+ in|is the \w+ book in|copies of|"
            r"question about (?:a )?book")),
        ("find_books", cue(
            r"looking for|do you have|you have maybe|(?:have you|you have) got|find|search|"
            r"something to read|anything|show me|books? (?:by|on)|"
            r"interested in|like to read|something (?:by|on)")),
    ),
    readers={
        "author": _author,
        "subject": choice_reader(SUBJECTS),
        "book": pattern_reader(r"\bB\d{4}\b"),
        "hold": pattern_reader(r"\bH\d{5}\b"),
        "card": pattern_reader(r"\bC\d{6}\b"),
        "amount": when_asked("how much", pattern_reader(r"(?<!\w)\d{1,3}\b", lambda m: int(m[0])), _DOLLARS),
        "pin": pattern_reader(r"(?<![\w$])\d{4}\b"),
        "day": choice_reader(DAYS),
    },
    refer=_refer,
    together=frozenset(
        (
            ("find_books", "place_hold"),
            ("book_details", "place_hold"),
            ("my_loans", "renew_loan"),
            ("my_fines", "pay_fine"),
        )
    ),
    alone=("find_books", "book_details"),
    switches=SWITCHES,
)  # fmt: skip
