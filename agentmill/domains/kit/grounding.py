"""Whether every fact in a reply comes from what the Explainer was given.

Facts are what a customer could act on: anything with a digit (prices, numbers, times, years, references), the words
of closed lists that a pack gives (days, colours), and capitalised words such as names and titles. A fact is grounded
when it occurs, up to how numbers and times are written, in the results, the state or the customer's words.
"""

import json
import re
from collections.abc import Iterable

from agentmill.domains.base import Json

_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")
_CLOCK = re.compile(r"\b(\d{1,2})(?::(\d\d))?\s?([ap])\.?m\b\.?", re.IGNORECASE)
_SHORT_HOUR = re.compile(r"(?<![\d:])(\d):(\d\d)\b")
_WITH_DIGIT = re.compile(r"\w*\d(?:[\w:.\-]*\w)?")
_WORD = re.compile(r"[^\W\d_][\w'’.\-]*[^\W_]|[^\W\d_]")
_OWN = "i i'm i'll i'd i've ok"


class Grounding:
    """What counts as a fact in one pack.

    Words of `closed` always do; `names` do at the start of a sentence too, where any word is capitalised; the words of
    `known` (the pack's own title, abbreviations) never do.
    """

    def __init__(self, known: str, closed: Iterable[str] = (), names: Iterable[str] = ()) -> None:
        self._always = frozenset(f"{known} {_OWN}".casefold().split())
        self._closed = frozenset(word.casefold() for word in closed)
        self._names = frozenset(name.casefold() for name in names)

    def ungrounded(self, reply: str, context: Json) -> list[str]:
        """The facts of `reply` that occur nowhere in `context` ({"results", "state", "utterance"}), numbers first."""
        given = _plain_numbers(json.dumps(context, ensure_ascii=False)).casefold()
        known = set(_WITH_DIGIT.findall(given)) | set(_WORD.findall(given))
        known |= {part for word in known for part in re.split(r"[-.:]", word)}
        found = [fact for fact in self.facts_of(reply) if fact not in known]
        return list(dict.fromkeys(found))

    def facts_of(self, reply: str) -> list[str]:
        """The facts that a text states, written plainly: no thousands separators, times as 15:00, lower case."""
        text = _plain_numbers(reply)
        facts = _WITH_DIGIT.findall(text.casefold())
        for sentence in re.split(r"(?<=[.!?;])\s+", text):
            words = _WORD.findall(_WITH_DIGIT.sub(" ", sentence))
            for index, word in enumerate(words):
                plain = word.casefold()
                name = word[0].isupper() and (index > 0 or plain in self._names)
                if plain in self._closed or (name and plain not in self._always):
                    facts.append(plain)
        return facts


def _plain_numbers(text: str) -> str:
    text = _THOUSANDS.sub("", text).replace("$", " ")
    text = _CLOCK.sub(lambda m: f"{int(m[1]) % 12 + (12 if m[3].lower() == 'p' else 0):02d}:{m[2] or '00'}", text)
    return _SHORT_HOUR.sub(r"0\1:\2", text)
