"""How the expert Understander reads a customer: patterns over the words alone, never the hidden goals.

`understand(frame)` takes the Understander's frame and gives its answer as a JSON object. The intent comes from cue
words, tried in a fixed order, or stays what it was; the entities are read only as far as the intent has use for them,
so that a number is a price for one intent and a mileage for another.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from agentmill.domains.automotive import phrases
from agentmill.domains.automotive.catalogue import BODIES, CATALOGUE, CONDITIONS, DAYS, FUELS
from agentmill.domains.automotive.intents import ENTITIES, INTENTS, names_of
from agentmill.domains.base import Json

Values = dict[str, Any]


def _cue(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE)


_CUES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("out_of_scope", _cue(
        r"pizza|eat|restaurants?|flights?|plane|hotels?|essay|homework|\d+ times \d+|football|match|striker|bake|"
        r"recipes?|boil|headache|dentist|cough|invest|shares|bitcoin|rent|repair")),
    ("cancel_test_drive", _cue(r"cancel|call off|can't make it")),
    ("value_trade_in", _cue(
        r"trade|trading|trade-in|worth|selling|(?:pay|get|estimate|price) for my|(?:buy|value) my")),
    ("check_booking", _cue(r"my (?:booking|test drive|appointment)|booked under|did i book")),
    ("book_test_drive", _cue(r"test[- ]drive")),
    ("opening_hours", _cue(r"open|opening|close|closing|hours")),
    ("vehicle_details", _cue(
        r"tell me about|tell me more|details|know (?:more|everything)|question about|describe|info|information|specs|"
        r"what is stock|how much is|does [A-Z]\d{4} cost|what colour")),
    ("find_vehicles", _cue(
        r"looking for|do you have|show me|buy|buying|have you got|find|i need|we need|needs|search|searching|"
        r"interested in|is there|in the market|can i see|see some cars|don't mind|no preference|any kind|"
        r"doesn't matter")),
)  # fmt: skip
_TALK = _cue(
    r"hi|hello|hey|good (?:morning|afternoon|evening)|thanks|thank you|cheers|bye|goodbye|that's all|that was all|"
    r"weather|rainy|so cold|sunny|website|showroom|friend|friendly|enjoyed"
)
AGREES = re.compile(
    r"^\W*(?:yes|yeah|yep|sure|please do|go ahead|ok|okay|perfect|that works|sounds good|great|correct|right|confirm|"
    r"do it|book it|absolutely|definitely|of course|fine|exactly|that's right)\b",
    re.IGNORECASE,
)
DECLINES = re.compile(r"\b(?:no|not|wrong|never mind|leave it|forget it|don't)\b", re.IGNORECASE)
_NO_ANSWER = re.compile(f"{_TALK.pattern}|{AGREES.pattern}|{DECLINES.pattern}", re.IGNORECASE)
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


def understand(frame: Mapping[str, str]) -> Json:
    """The error-free answer to an Understander's frame: intent, entities heard, confirmation, question back."""
    text = frame.get("customer", "")
    before = frame.get("intent", "none")
    proposed = frame.get("proposed") == "yes"
    cue = next((name for name, pattern in _CUES if pattern.search(text)), None)
    intent = cue or (before if before in INTENTS else "")
    heard = read_entities(intent, text, frame.get("assistant", "")) if intent else {}
    agrees = proposed and intent == before and bool(AGREES.search(text))
    if cue is None and not heard and not agrees:
        intent = _implied(text) or _without_cue(text, intent, proposed)
        heard = read_entities(intent, text, "")
    known = {name: frame[name] for name in names_of(before) if name in frame}
    if intent != before:
        known = {name: value for name, value in known.items() if ENTITIES[name].shared}
    changed = any(str(value) != known.get(name) for name, value in heard.items())
    missing = INTENTS[intent].missing({**known, **heard})
    return {
        "intent": intent,
        "entities": heard,
        "confirmed": agrees and not changed,
        "question": ENTITIES[missing].question if missing else None,
    }


def _implied(text: str) -> str:
    """The intent that a value alone stands for: a kind of car, a stock number, a booking reference."""
    alone = ("find_vehicles", "vehicle_details", "check_booking")
    return next((intent for intent in alone if read_entities(intent, text, "")), "")


def _without_cue(text: str, intent: str, proposed: bool) -> str:
    """The intent of words that name no wish and no value: small talk, the intent again, or nothing of ours."""
    if _TALK.search(text) or (proposed and DECLINES.search(text)):
        return "small_talk"
    return intent if intent and INTENTS[intent].tools else "out_of_scope"


def read_entities(intent: str, text: str, assistant: str) -> Values:
    """The entities of `intent` in `text`, in the order of the entity table. `assistant` tells what was asked."""
    wanted = set(names_of(intent))
    rest = _GREETING.sub(" ", text)
    heard: Values = {}
    for name in ENTITIES:
        if name not in wanted:
            continue
        value, rest = _READERS[name](rest, heard, assistant)
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
    (re.compile(r"\b(\d{1,2})(?::\d\d)?\s?(?:a\.?m\b\.?|in the morning\b)", re.IGNORECASE), False),
    (re.compile(r"\b(\d{1,2})(?::\d\d)?\s?(?:p\.?m\b\.?|in the (?:afternoon|evening)\b)", re.IGNORECASE), True),
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
    for value in vars(phrases).values():
        for group in value.values() if isinstance(value, dict) else (value,):
            if isinstance(group, tuple):
                texts += group
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


_READERS: dict[str, Reader] = {
    "make": _make,
    "model": _model,
    "body": _choice(BODIES, "s?"),
    "fuel": _choice(FUELS),
    "max_price": _first_number(_PRICES),
    "stock": _code(r"\b[A-Z]\d{4}\b"),
    "day": _choice(DAYS),
    "time": _time,
    "name": _name,
    "licence": _code(r"\b[A-Z]\d{7}\b"),
    "reference": _code(r"\bT\d{5}\b"),
    "year": _year,
    "mileage": _first_number(_MILES),
    "condition": _choice(CONDITIONS),
}
