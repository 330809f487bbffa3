"""How the expert Understander reads values: names, numbers and choices, from the customer's words alone.

`read_entities` takes the entities that the requests have use for, in the order of the entity table, so that a number
is a price for one intent and a mileage for another. What one reader has read, the next does not see.
"""

import re
from collections.abc import Callable, Collection
from functools import lru_cache
from typing import Any

from agentmill.domains.automotive import phrases, requests
from agentmill.domains.automotive.catalogue import BODIES, CATALOGUE, CONDITIONS, DAYS, FUELS, PLACES, SERVICES
from agentmill.domains.automotive.intents import ENTITIES
from agentmill.domains.kit.personas import words_of
from agentmill.domains.kit.reading import AGREES, DECLINES, cue

Values = dict[str, Any]


TALK = cue(
    r"hi|hello|hey|good (?:morning|afternoon|evening)|thanks|thank you|cheers|bye|goodbye|that's all|that was all|"
    r"weather|rainy|so cold|sunny|website|showroom|friend|friendly|enjoyed"
)
_NO_ANSWER = re.compile(f"{TALK.pattern}|{AGREES.pattern}|{DECLINES.pattern}", re.IGNORECASE)
_GREETING = re.compile(r"\bgood (?:morning|afternoon|evening|day)\b", re.IGNORECASE)
_NUMBER = r"(\d[\d,]*\d|\d)\s?(k\b|grand\b|thousand\b)?"
_PRICES = (
    re.compile(rf"\$\s?{_NUMBER}", re.IGNORECASE),
    re.compile(rf"{_NUMBER} (?:dollars|bucks|usd)\b", re.IGNORECASE),
    re.compile(rf"(?:under|below|up to|at most|more than|less than|budget (?:of|is)|max(?:imum of)?)\s{_NUMBER}", re.I),
)
_MILES = (
    re.compile(rf"{_NUMBER}\s?(?:miles|mi)\b", re.IGNORECASE),
    re.compile(r"(\d[\d,]*)\s?(k\b)", re.IGNORECASE),
    re.compile(r"\b(\d{1,3},\d{3}|\d{4,6})()\b"),
)
_YEAR = re.compile(r"\b(19[5-9]\d|20[0-4]\d)\b(?!\s?(?:k\b|miles|mi\b|,\d{3}))", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_][\w'’\-]*")
_PARTICLES = frozenset(("de", "da", "del", "der", "den", "di", "el", "la", "le", "ten", "ter", "van", "von"))


def read_entities(wanted: Collection[str], text: str, assistant: str) -> Values:
    """Those of the `wanted` entities that stand in `text`. `assistant` tells what was asked."""
    rest = _GREETING.sub(" ", text)
    heard: Values = {}
    for name in ENTITIES:
        if name not in wanted:
            continue
        value, rest = READERS[name](rest, heard, assistant)
        if value is not None:
            heard[name] = value
    return heard


Reader = Callable[[str, Values, str], tuple[Any, str]]


def _code(pattern: str) -> Reader:
    compiled = re.compile(pattern)

    def read(text: str, heard: Values, assistant: str) -> tuple[Any, str]:
        match = compiled.search(text)
        return (match[0], _without(text, match)) if match else (None, text)

    return read


def _choice(choices: tuple[str, ...], plural: str = "") -> Reader:
    compiled = re.compile(rf"\b({'|'.join(choices)}){plural}\b", re.IGNORECASE)

    def read(text: str, heard: Values, assistant: str) -> tuple[Any, str]:
        match = compiled.search(text)
        return (match[1].lower(), _without(text, match)) if match else (None, text)

    return read


def _without(text: str, match: re.Match[str]) -> str:
    return f"{text[: match.start()]} ; {text[match.end() :]}"


@lru_cache(maxsize=64)
def _any_of(names: tuple[str, ...], any_case: bool) -> re.Pattern[str]:
    ordered = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    pattern = rf"(?<![\w-])(?:{ordered})(?![\w-]|,\d|\s?(?:k|mi|miles)\b)"
    return re.compile(pattern, re.IGNORECASE if any_case else 0)


def _listed(names: tuple[str, ...], text: str, *, any_case: bool = True) -> tuple[Any, str]:
    """The longest of `names` in the text, in the customer's own letters; exact letters before any case."""
    for ignore in (False, True) if any_case else (False,):
        match = _any_of(names, ignore).search(text)
        if match:
            return match[0], _without(text, match)
    return None, text


def _make(text: str, heard: Values, assistant: str) -> tuple[Any, str]:
    return _listed(tuple(CATALOGUE), text)


def _model(text: str, heard: Values, assistant: str) -> tuple[Any, str]:
    make = next((m for m in CATALOGUE if m.lower() == str(heard.get("make", "")).lower()), None)
    lines = CATALOGUE[make] if make else [line for models in CATALOGUE.values() for line in models]
    sure = make is not None or "model" in assistant.lower()
    return _listed(tuple(line.name for line in lines), text, any_case=sure)


def _amount(match: re.Match[str]) -> int:
    return int(match[1].replace(",", "")) * (1000 if match[2] else 1)


def _first_number(patterns: tuple[re.Pattern[str], ...]) -> Reader:
    def read(text: str, heard: Values, assistant: str) -> tuple[Any, str]:
        for pattern in patterns:
            match = pattern.search(text)
            if match:
                return _amount(match), _without(text, match)
        return None, text

    return read


def _year(text: str, heard: Values, assistant: str) -> tuple[Any, str]:
    match = _YEAR.search(text)
    return (int(match[1]), _without(text, match)) if match else (None, text)


_CLOCKS = (
    (re.compile(r"\b([01]?\d|2[0-3]):\d\d\b(?!\s?[ap]\.?m)"), None),
    (re.compile(r"\b(\d{1,2})(?::\d\d)?\s?(?:a\.?m\b\.?|in (?:the )?morning\b)", re.IGNORECASE), False),
    (re.compile(r"\b(\d{1,2})(?::\d\d)?\s?(?:p\.?m\b\.?|in (?:the )?(?:afternoon|evening)\b)", re.IGNORECASE), True),
    (re.compile(r"\b(\d{1,2}) o'clock\b", re.IGNORECASE), None),
)  # fmt: skip
_NOON = re.compile(r"\b(?:noon|midday)\b", re.IGNORECASE)


def _time(text: str, heard: Values, assistant: str) -> tuple[Any, str]:
    """A full hour as "HH:00"; morning and afternoon as the words say."""
    noon = _NOON.search(text)
    if noon:
        return "12:00", _without(text, noon)
    for pattern, afternoon in _CLOCKS:
        match = pattern.search(text)
        if match and int(match[1]) < 24:
            hour = int(match[1])
            if afternoon is not None and hour <= 12:
                hour = hour % 12 + (12 if afternoon else 0)
            return f"{hour:02d}:00", _without(text, match)
    return None, text


def _capitalised() -> frozenset[str]:
    texts: list[str] = []
    for value in (*vars(phrases).values(), *vars(requests).values()):
        for group in value.values() if isinstance(value, dict) else (value,):
            if isinstance(group, tuple):
                texts += group
    texts += words_of()
    words = {word for text in texts for word in _WORD.findall(text) if word[0].isupper()}
    return frozenset(words | {"Mr", "Mrs", "Ms", "And", "Your", "Their", *(day.capitalize() for day in DAYS)})


OWN_WORDS = _capitalised()


def _name(text: str, heard: Values, assistant: str) -> tuple[Any, str]:
    """A full name: a run of capitalised words that are no words of ours; one word or small letters only if asked."""
    asked = "name" in assistant.lower()
    runs = sorted(_name_runs(text), key=lambda run: -len(run.split()))
    if runs and (len(runs[0].split()) > 1 or asked):
        return runs[0], text.replace(runs[0], " ; ", 1)
    words = text.strip(" .!").split()
    if asked and len(words) in (2, 3) and all(_WORD.fullmatch(word) and word.islower() for word in words):
        return (None, text) if _NO_ANSWER.search(text) else (" ".join(words), "")
    return None, text


def _name_runs(text: str) -> list[str]:
    runs: list[str] = []
    for piece in re.split(r"(?!['’\-])[^\w\s]|\d", text):
        run: list[str] = []
        for word in [*piece.split(), "."]:
            is_name = word[0].isupper() and bool(_WORD.fullmatch(word)) and word not in OWN_WORDS
            if is_name or (run and word in _PARTICLES):
                run.append(word)
                continue
            while run and run[-1] in _PARTICLES:
                run.pop()
            if run:
                runs.append(" ".join(run))
            run = []
    return runs


def _stock(text: str, heard: Values, assistant: str) -> tuple[Any, str]:
    """A stock number, unless the only one answers which car to compare with."""
    found = list(STOCK.finditer(text))
    if not found or (len(found) == 1 and "compare it with" in assistant):
        return None, text
    return found[0][0], _without(text, found[0])


def _asked_number(pattern: str, asked: str, bare: str) -> Reader:
    """A number that words around it tell the meaning of; a bare one only as the answer to a question about it."""
    named, alone = re.compile(pattern, re.IGNORECASE), re.compile(bare)

    def read(text: str, heard: Values, assistant: str) -> tuple[Any, str]:
        match = named.search(text) or (alone.search(text) if asked in assistant.lower() else None)
        if match is None:
            return None, text
        number = next(group for group in match.groups() if group is not None)
        return int(number.replace(",", "")), _without(text, match)

    return read


def _term(text: str, heard: Values, assistant: str) -> tuple[Any, str]:
    """A number of months, or of years."""
    match = _YEARS.search(text)
    if match:
        return int(match[1]) * 12, _without(text, match)
    value: tuple[Any, str] = _MONTHS(text, heard, assistant)
    return value


STOCK = re.compile(r"\b[A-Z]\d{4}\b")
_YEARS = re.compile(r"\b(\d)[ -]years?\b", re.IGNORECASE)
_MONTHS = _asked_number(r"\b(\d{1,3})[ -]months?\b", "how many months", r"\b(\d{2,3})\b")
_MONEY = r"\$?\s?(\d[\d,]*\d)"
READERS: dict[str, Reader] = {
    "make": _make,
    "model": _model,
    "body": _choice(BODIES, "s?"),
    "fuel": _choice(FUELS),
    "max_price": _first_number(_PRICES),
    "stock": _stock,
    "other_stock": _code(r"\b[A-Z]\d{4}\b"),
    "discount": _asked_number(r"\b(\d{1,2})\s?(?:%|percent|per cent)", "percent off", r"\b(\d{1,2})\b"),
    "score": _asked_number(r"score(?: is| of)? (\d{3})\b", "credit score", r"\b(\d{3})\b"),
    "term": _term,
    "down_payment": _asked_number(
        rf"{_MONEY}(?: dollars)? (?:paid )?down|down payment (?:is |of )?{_MONEY}|can pay {_MONEY}", "pay down", _MONEY
    ),
    "order": _code(r"\bP\d{5}\b"),
    "plate": _code(r"\b[A-Z]{3}\d{4}\b"),
    "service": _choice(SERVICES),
    "place": _choice(PLACES),
    "day": _choice(DAYS),
    "time": _time,
    "name": _name,
    "licence": _code(r"\b[A-Z]\d{7}\b"),
    "reference": _code(r"\b[TW]\d{5}\b"),
    "phone": _code(r"\b\d{3}-\d{4}\b"),
    "year": _year,
    "mileage": _first_number(_MILES),
    "condition": _choice(CONDITIONS),
    "vin": _code(r"\b[A-HJ-NPR-Z0-9]{17}\b"),
}
