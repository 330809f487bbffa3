"""Whether every fact in a reply comes from what the Explainer was given.

Facts are what a customer could act on: anything with a digit (prices, stock numbers, times, years, references), days,
fuels, bodies, colours, and capitalised words such as names and makes. A fact is grounded when it occurs, up to how
numbers and times are written, in the results, the state or the customer's words.
"""

import json
import re

from agentmill.domains.automotive.catalogue import BODIES, CATALOGUE, COLOURS, DAYS, FUELS
from agentmill.domains.automotive.intents import TITLE
from agentmill.domains.base import Json

_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")
_CLOCK = re.compile(r"\b(\d{1,2})(?::(\d\d))?\s?([ap])\.?m\b\.?", re.IGNORECASE)
_SHORT_HOUR = re.compile(r"(?<![\d:])(\d):(\d\d)\b")
_WITH_DIGIT = re.compile(r"\w*\d(?:[\w:.\-]*\w)?")
_WORD = re.compile(r"[^\W\d_][\w'’.\-]*[^\W_]|[^\W\d_]")
_CLOSED = frozenset(DAYS + FUELS + BODIES + COLOURS)
_MAKES = frozenset(make.casefold() for make in CATALOGUE)
_ALWAYS = frozenset(f"{TITLE} i i'm i'll i'd i've ok suv".casefold().split())


def ungrounded(reply: str, context: Json) -> list[str]:
    """The facts of `reply` that occur nowhere in `context` ({"results", "state", "utterance"}), numbers first."""
    given = _plain(json.dumps(context, ensure_ascii=False))
    known = set(_WITH_DIGIT.findall(given)) | set(_WORD.findall(given))
    known |= {part for word in known for part in re.split(r"[-.:]", word)}
    found = [fact for fact in facts_of(reply) if fact not in known]
    return list(dict.fromkeys(found))


def facts_of(reply: str) -> list[str]:
    """The facts that a text states, written plainly: no thousands separators, times as 15:00, lower case."""
    text = _plain_numbers(reply)
    facts = _WITH_DIGIT.findall(text.casefold())
    for sentence in re.split(r"(?<=[.!?;])\s+", text):
        words = _WORD.findall(_WITH_DIGIT.sub(" ", sentence))
        for index, word in enumerate(words):
            plain = word.casefold()
            name = word[0].isupper() and (index > 0 or plain in _MAKES)
            if plain in _CLOSED or (name and plain not in _ALWAYS):
                facts.append(plain)
    return facts


def _plain(text: str) -> str:
    return _plain_numbers(text).casefold()


def _plain_numbers(text: str) -> str:
    text = _THOUSANDS.sub("", text).replace("$", " ")
    text = _CLOCK.sub(lambda m: f"{int(m[1]) % 12 + (12 if m[3].lower() == 'p' else 0):02d}:{m[2] or '00'}", text)
    return _SHORT_HOUR.sub(r"0\1:\2", text)
