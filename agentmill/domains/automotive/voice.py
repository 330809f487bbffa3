"""How a simulated customer writes values: a time as 3pm, 15:00 or "3 in the afternoon", a price as $30k or 30,000.

`written(slot, value, rng)` draws one way; `mentions(slot, value, text)` tells whether a text holds any of them.
"""

import random
from typing import Any

from agentmill.domains.automotive import phrases
from agentmill.domains.automotive.catalogue import DAYS, PLACES, SERVICES, TERMS

# Slots whose value a confused customer mixes up, with the values that it might be; a number where there are none.
MIXED_UP: dict[str, tuple[Any, ...]] = {
    "day": DAYS, "time": tuple(f"{hour:02d}:00" for hour in range(9, 18)), "term": TERMS, "service": SERVICES,
    "place": PLACES, "stock": (), "reference": (), "order": (), "plate": (), "licence": (),
}  # fmt: skip
_IN_FULL = {"suv": ("SUV", "suv")}


def forms(slot: str, value: Any) -> list[str]:
    """Every way to write a slot's value, the plainest first."""
    match slot:
        case "time":
            return _times(int(value[:2]))
        case "day":
            return [value.capitalize(), value]
        case "max_price":
            plain = [f"${value}", f"${value:,}", f"{value} dollars", f"{value:,} dollars"]
            return plain + ([f"${value // 1000}k"] if value % 1000 == 0 else [])
        case "mileage":
            plain = [f"{value} miles", f"{value:,} miles", str(value), f"{value:,}"]
            return plain + ([f"{value // 1000}k miles", f"{value // 1000}k"] if value % 1000 == 0 else [])
        case "down_payment":
            return [f"${value}", f"${value:,}", f"{value} dollars"]
        case "discount":
            return [f"{value} percent", f"{value}%"]
        case "term":
            return [f"{value} months"] + ([f"{value // 12} years"] if value % 12 == 0 else [])
        case "body":
            return list(_IN_FULL.get(value, (value,)))
        case _:
            return [str(value)]


def _times(hour: int) -> list[str]:
    plain = f"{hour:02d}:00"
    if hour == 12:
        return [plain, "noon", "12pm"]
    if hour < 12:
        return [plain, f"{hour}am", f"{hour} am", f"{hour} in the morning", f"{hour}:00 am"]
    part = "afternoon" if hour < 18 else "evening"
    short = hour - 12
    return [plain, f"{short}pm", f"{short} pm", f"{short} in the {part}", f"{short}:00 pm"]


def written(slot: str, value: Any, rng: random.Random) -> str:
    """One way to write the value."""
    return rng.choice(forms(slot, value))


def mentions(slot: str, value: Any, text: str) -> bool:
    """Whether `text` holds the value in one of its forms, whatever the case."""
    lower = text.casefold()
    return any(form.casefold() in lower for form in forms(slot, value))


def car_phrase(slots: dict[str, Any], rng: random.Random) -> str:
    """What a customer searches for, as a noun phrase: "a hybrid Toyota SUV under $30,000"."""
    words = [str(slots[name]) for name in ("fuel", "make") if name in slots]
    words.append(written("body", slots["body"], rng) if "body" in slots else "car")
    article = "an" if words[0][0].lower() in "aeio" else "a"
    text = f"{article} {' '.join(words)}"
    if "max_price" in slots:
        text += " " + rng.choice(phrases.PRICE).format(p=written("max_price", slots["max_price"], rng))
    return text


def own_car(slots: dict[str, Any], told: set[str], rng: random.Random) -> str:
    """The customer's own car as far as it is told: "2016 Honda Civic", "Honda", "old car"."""
    words = [str(slots[name]) for name in ("year", "make", "model") if name in told]
    return " ".join(words) if words else rng.choice(("car", "old car", "current car"))


def slot_phrase(slots: dict[str, Any], names: list[str], rng: random.Random) -> str:
    """A day and a time, or one of them, with their prepositions: "on Friday at 3pm"."""
    parts = []
    if "day" in names:
        parts.append(f"on {written('day', slots['day'], rng)}")
    if "time" in names:
        parts.append(f"at {written('time', slots['time'], rng)}")
    return " ".join(parts)
