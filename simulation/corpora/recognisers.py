"""Where personal data stands in a text: telephone numbers, e-mail, cards, IBANs, VINs, plates, and announced names.

Telephone numbers are found by phonenumbers (libphonenumber), cards and IBANs are checked by python-stdnum. A general
framework with a language model behind it was tried and left: it loads spaCy and torch into the driver and asks the
network for a list when it meets its first e-mail address. So a name is found only where it is announced ("my name is",
"Dr.") or known (`PersonalSettings.entities`).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from simulation.corpora.settings import PersonalKind


@dataclass(frozen=True)
class Found:
    """A value in a text."""

    kind: PersonalKind
    start: int
    end: int
    value: str


_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{2,4}){3,8}\b")
_CARD = re.compile(r"(?<![\w-])\d(?:[ -]?\d){12,18}(?![\w-])")
_VIN = re.compile(r"\b(?=[A-Z0-9]*\d)(?=[A-Z0-9]*[A-Z])[A-HJ-NPR-Z0-9]{17}\b", re.IGNORECASE)
_PLATE = re.compile(
    r"(?i:\b(?:plates?|registration|tag)(?: number)?(?: is| are|:|=)?\s*[\"']?)"
    r"((?=[A-Z0-9 -]*\d)[A-Z0-9]{1,4}[ -]?[A-Z0-9]{1,4}(?:[ -]?[A-Z0-9]{1,4})?)(?![\w-])"
)
# Without the country's code, so that a number is the same with and without it.
_AMERICAN = re.compile(r"(?:(?<![\w-])|(?<=\+1-)|(?<=\b1-))(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}(?![\w-])")
_NAME = r"[A-Z][\w'’-]+(?: (?:(?:de|da|van|von|der|la|le) )*(?:[A-Z][\w'’-]+|[A-Z]\.))*"
_PERSON = re.compile(
    rf"(?:(?i:\bmy (?:full )?name is|\bname['’]s|\bunder the name(?: of)?|\bi am called)\s+|"
    rf"\b(?:Dr|Mr|Mrs|Ms|Prof)\.? )({_NAME})|\b[Tt]his is ({_NAME})(?= (?:speaking|calling|here)\b)"
)
_SEVEN_DIGITS = re.compile(r"(?:\d\D{0,3}){7}")


def recognise(text: str, region: str) -> list[Found]:
    """What is found in a text, in order, none over another; a number that reads as two kinds is the stricter one."""
    taken: list[Found] = []
    for found in _all(text, region):
        if all(found.end <= other.start or found.start >= other.end for other in taken):
            taken.append(found)
    return sorted(taken, key=lambda found: found.start)


def _all(text: str, region: str) -> Iterator[Found]:
    """Every find, the strictest kinds first."""
    from stdnum import iban, luhn

    if "@" in text:
        yield from (_whole("email", match) for match in _EMAIL.finditer(text))
    if _SEVEN_DIGITS.search(text):
        yield from (_whole("iban", m) for m in _IBAN.finditer(text) if iban.is_valid(m[0]))
        yield from (_whole("vin", m) for m in _VIN.finditer(text))
        yield from (_whole("card", m) for m in _CARD.finditer(text) if luhn.is_valid(re.sub(r"\D", "", m[0])))
        yield from _phones(text, region)
    yield from (Found("plate", m.start(1), m.end(1), m[1]) for m in _PLATE.finditer(text))
    for match in _PERSON.finditer(text):
        group = 1 if match[1] else 2
        value = match[group].rstrip(".")
        yield Found("person", match.start(group), match.start(group) + len(value), value)


def _phones(text: str, region: str) -> Iterator[Found]:
    from phonenumbers import PhoneNumberMatcher

    yield from (_whole("phone", match) for match in _AMERICAN.finditer(text))
    for match in PhoneNumberMatcher(text, region):
        yield Found("phone", match.start, match.end, match.raw_string)


def _whole(kind: PersonalKind, match: re.Match[str]) -> Found:
    return Found(kind, match.start(), match.end(), match[0])
