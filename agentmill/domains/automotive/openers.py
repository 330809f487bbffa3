"""How a simulated customer opens a goal: a phrasing of the wish with some, all or none of what is known about it.

What an earlier goal has already named may be left out ("can I test drive it?"); what differs from it is always said.
"""

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from agentmill.domains.automotive import phrases, requests
from agentmill.domains.automotive.intents import ENTITIES, names_of
from agentmill.domains.automotive.voice import car_phrase, own_car, slot_phrase, written
from agentmill.domains.kit.personas import INJECTIONS

Slots = dict[str, Any]
_TOLD_CARS = ((), ("make",), *(("make", "model"),) * 2, *(("year", "make", "model"),) * 2)
_BRACES = re.compile(r"\{(\w+)\}")
_OFF_TOPIC = {**phrases.OFF_TOPIC, "injection": INJECTIONS}
_VAGUE: dict[str, tuple[str, ...]] = {
    "find_vehicles": phrases.FIND_VAGUE,
    "vehicle_details": phrases.DETAILS_VAGUE,
    "opening_hours": phrases.HOURS_VAGUE,
    "check_booking": phrases.CHECK_VAGUE,
    "cancel_test_drive": phrases.CANCEL_VAGUE,
    "book_test_drive": tuple(text.format(what="") for text in phrases.BOOK),
    "value_trade_in": tuple(text.format(own="car") for text in phrases.TRADE),
}
_OPEN_END = ("{own}.", "{own}?")


def opener(
    intent: str, slots: Slots, rng: random.Random, *, earlier: Sequence[dict[str, Any]] = (), in_full: bool = False
) -> str:
    """What the customer says to begin with; `in_full` says everything at once, as one does when not understood."""
    match intent:
        case "find_vehicles":
            return _find(slots, rng, in_full)
        case "book_test_drive":
            return _book(slots, rng, _named("stock", earlier), in_full)
        case "value_trade_in":
            return _trade_in(slots, rng, in_full)
        case "vehicle_details":
            return _one_slot("stock", slots, rng, phrases.DETAILS, phrases.DETAILS_VAGUE, in_full)
        case "opening_hours":
            return _one_slot("day", slots, rng, phrases.HOURS, phrases.HOURS_VAGUE, in_full)
        case "check_booking":
            return _one_slot("reference", slots, rng, phrases.CHECK, phrases.CHECK_VAGUE, in_full)
        case "cancel_test_drive":
            return _cancel(slots, rng, _named("reference", earlier), in_full)
        case _ if intent in requests.ASKED:
            return _asked(intent, slots, rng, earlier, in_full)
        case "out_of_scope":
            return rng.choice(_OFF_TOPIC.get(slots["topic"], phrases.OFF_TOPIC["flight"]))
        case _:
            talk = {"weather": phrases.WEATHER, "praise": phrases.PRAISE}
            return rng.choice(talk.get(slots.get("topic", ""), phrases.GREETINGS))


def vague_opener(intent: str, slots: Slots, rng: random.Random, earlier: Sequence[dict[str, Any]]) -> str | None:
    """A wish with nothing about it, None where something must be said: what an earlier goal has named otherwise."""
    if "discount" in slots or any(_kept_otherwise(name, value, earlier) for name, value in slots.items()):
        return None
    texts = [text for text in requests.ASKED.get(intent, ()) if "{" not in text]
    texts += (*_VAGUE.get(intent, ()), *requests.VAGUE.get(intent, ()))
    return rng.choice(texts) if texts else None


def _asked(intent: str, slots: Slots, rng: random.Random, earlier: Sequence[dict[str, Any]], in_full: bool) -> str:
    """A text of `requests` whose values are all known; the fullest of them when everything is to be said.

    What would else be taken for the car, order or booking of an earlier goal is always said.
    """
    fitting = [(text, _BRACES.findall(text)) for text in requests.ASKED[intent]]
    fitting = [(text, names) for text, names in fitting if set(names) <= set(slots)]
    needed = {name for name in slots if name == "discount" or _kept_otherwise(name, slots[name], earlier)}
    fitting = [(text, names) for text, names in fitting if needed <= set(names)] or fitting
    if in_full:
        most = max(len(names) for _, names in fitting)
        fitting = [(text, names) for text, names in fitting if len(names) == most]
    text, names = rng.choice(fitting)
    return text.format(**{name: written(name, slots[name], rng) for name in names})


def _kept_otherwise(name: str, value: Any, earlier: Sequence[dict[str, Any]]) -> bool:
    """Whether the conversation still holds another value than this one for a shared entity."""
    keys = (name, f"mind_{name}")
    kept = (goal["slots"][key] for goal in earlier for key in keys if key in goal["slots"])
    return name in ENTITIES and ENTITIES[name].shared and any(other != value for other in kept)


def together(goal: Mapping[str, Any], rng: random.Random) -> str:
    """Two requests in one utterance, everything said; the second takes what the first is to find."""
    first, second, slots = goal["intent"], goal["also"][0], goal["slots"]
    begun = opener(first, _of(first, slots), rng, in_full=True)
    if (first, second) in requests.AND_THEN:
        when = slot_phrase(slots, ["day", "time"], rng) if "time" in slots else ""
        values = {name: written(name, value, rng) for name, value in slots.items()}
        then = rng.choice(requests.AND_THEN[first, second]).format(**{**values, "when": when})
    else:
        then = opener(second, _of(second, slots), rng, in_full=True)
    word = then.split()[0]
    then = then if word.split("'")[0] == "I" or word[-1].isdigit() else then[0].lower() + then[1:]
    return f"{begun} {rng.choice(requests.JOINED)}{then}"


def _of(intent: str, slots: Slots) -> Slots:
    return {name: slots[name] for name in names_of(intent) if name in slots}


def _named(slot: str, earlier: Sequence[dict[str, Any]]) -> list[str]:
    return [goal["slots"][key] for goal in earlier for key in (slot, f"mind_{slot}") if key in goal["slots"]]


def _one_slot(
    slot: str, slots: Slots, rng: random.Random, full: tuple[str, ...], vague: tuple[str, ...], in_full: bool
) -> str:
    if not in_full and rng.random() < 0.25:
        return rng.choice(vague)
    return rng.choice(full).format(**{slot: written(slot, slots[slot], rng)})


def _find(slots: Slots, rng: random.Random, in_full: bool) -> str:
    if not in_full and rng.random() < 0.12:
        return rng.choice(phrases.FIND_VAGUE)
    told = slots
    if not in_full and len(slots) > 1 and rng.random() < 0.2:
        left_out = rng.choice([name for name in slots if name != "body"])
        told = {name: value for name, value in slots.items() if name != left_out}
    return rng.choice(phrases.FIND).format(car=car_phrase(told, rng))


def _book(slots: Slots, rng: random.Random, named: list[str], in_full: bool) -> str:
    names = ["day", "time"] if in_full else rng.choice(([], [], ["day"], ["time"], ["day", "time"], ["day", "time"]))
    when = slot_phrase(slots, names, rng)
    when = f" {when}" if when else ""
    known = bool(named) and all(stock == slots["stock"] for stock in named)
    if known and not in_full and rng.random() < 0.6:
        return rng.choice(phrases.BOOK_IT).format(when=when)
    say_stock = in_full or bool(named) or rng.random() < 0.5
    stock = rng.choice(phrases.OF_STOCK).format(stock=slots["stock"]) if say_stock else ""
    text = rng.choice(phrases.BOOK).format(what=stock + when)
    if in_full:
        return f"{text} I'm {slots['name']}, licence {slots['licence']}."
    return rng.choice(phrases.SELF).format(name=slots["name"]) + text if rng.random() < 0.08 else text


def _cancel(slots: Slots, rng: random.Random, named: list[str], in_full: bool) -> str:
    known = bool(named) and all(reference == slots["reference"] for reference in named)
    if known and not in_full and rng.random() < 0.6:
        return rng.choice(phrases.CANCEL_IT)
    return _one_slot("reference", slots, rng, phrases.CANCEL, phrases.CANCEL_VAGUE, in_full or bool(named))


def _trade_in(slots: Slots, rng: random.Random, in_full: bool) -> str:
    if "vin" in slots:
        texts = [text for text in requests.VALUED if not in_full or "{condition}" in text]
        return rng.choice(texts).format(**{name: written(name, value, rng) for name, value in slots.items()})
    told = {"year", "make", "model"} if in_full else set(rng.choice(_TOLD_CARS))
    text = rng.choice(phrases.TRADE)
    if not text.endswith(_OPEN_END):
        if not in_full:
            return text.format(own=own_car(slots, told, rng))
        text = next(template for template in phrases.TRADE if template.endswith(_OPEN_END))
    extra = ""
    if in_full or (told and rng.random() < 0.3):
        miles = f"{slots['mileage']:,} miles" if rng.random() < 0.5 else f"{slots['mileage']} miles"
        extra += rng.choice(phrases.HAS_MILES).format(mileage=miles)
    if in_full or (told and rng.random() < 0.3):
        extra += rng.choice(phrases.IN_CONDITION).format(condition=slots["condition"])
    return text[:-1].format(own=own_car(slots, told, rng)) + extra + text[-1]
