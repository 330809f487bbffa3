"""The fields of errands: thirty named slots with a value to draw, a way to say it and a question.

A field means the same in every errand, as an entity does in a domain. Values are open wherever they can be, so that
they have to be copied or converted (years to months, half past noon to 24 hours, "$4,500" to 4500) and never recalled.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from raytrain.base.words import DAYS, amount, clock, code, hour, made_up, person, spoken_amount, spoken_hour, word

Draw = Callable[[Random], Any]


@dataclass(frozen=True)
class Field:
    """One slot: `kind` decides its values and how a customer says them; `choices` bound those of the kind choice."""

    name: str
    kind: str
    question: str
    choices: tuple[str, ...] = ()


def _phone(rng: Random) -> str:
    return f"{rng.randint(200, 999)}-{rng.randint(0, 9999):04d}"


def _plate(rng: Random) -> str:
    return code(rng, "".join(rng.choices("ABCDEFGHJKLMNPRSTUVWXYZ", k=3)), 4)


def _serial(rng: Random) -> str:
    return "".join(rng.choices("ABCDEFGHJKLMNPRSTUVWXYZ0123456789", k=rng.choice((10, 12, 17))))


_DRAWS: dict[str, Draw] = {
    "tag": lambda r: code(r, digits=r.choice((3, 4, 4, 5))), "ticket": lambda r: code(r, digits=r.choice((4, 5, 5, 6))),
    "person": person, "phone": _phone, "plate": _plate, "serial": _serial,
    "licence": lambda r: code(r, digits=r.choice((6, 7, 8))), "brand": made_up, "place": word,
    "day": lambda r: r.choice(DAYS), "time": lambda r: clock(hour(r)), "money": amount,
    "count": lambda r: r.randint(1, 900), "months": lambda r: 12 * r.randint(1, 9),
    "percent": lambda r: r.randint(1, 30), "year": lambda r: r.randint(1990, 2027), "word": word,
}  # fmt: skip
_CLAUSES: dict[str, tuple[str, ...]] = {
    "tag": ("{}", "number {}", "{name} {}", "the {name} {}", "{name} number {}"),
    "ticket": ("{}", "{name} {}", "my {name} is {}", "it's {}", "under {}", "the {name} {}"),
    "person": ("my name is {}", "I'm {}", "I am {}", "this is {}", "name is {}", "the name is {}", "{}", "for {}"),
    "phone": ("my number is {}", "call me on {}", "phone {}", "you reach me at {}", "{name} {}", "{}"),
    "plate": ("{}", "{name} {}", "the {name} is {}", "it's {}"),
    "serial": ("{}", "{name} {}", "the {name} is {}", "{name} number {}"),
    "licence": ("{}", "{name} {}", "{name} number {}", "my {name} is {}", "the {name} is {}"),
    "brand": ("a {}", "{}", "from {}", "by {}"),
    "place": ("from the {}", "from {}", "I come from the {}", "coming from the {}"),
    "day": ("on {}", "{}", "this {}", "next {}", "for {}"),
    "time": ("at {}", "{}", "around {}", "from {}"),
    "money": ("{name} {}", "{} {name}", "with {} {name}", "the {name} is {}"),
    "count": ("{} {name}", "{name} {}", "the {name} is {}", "my {name} is {}"),
    "months": ("over {}", "for {}", "{}", "during {}"),
    "percent": ("{}", "{} off", "{name} {}", "{} {name}"),
    "year": ("from {}", "built in {}", "it is from {}", "year {}"),
    "choice": ("{}", "{name} {}", "the {} one", "for {}"),
}


def draw_kind(rng: Random, kind: str) -> Any:
    """A value of a kind, as records hold it."""
    return _DRAWS[kind](rng)


def draw(rng: Random, field: Field) -> Any:
    """A value of `field`, as records hold it."""
    return rng.choice(field.choices) if field.kind == "choice" else draw_kind(rng, field.kind)


def bare(rng: Random, field: Field, value: Any) -> str:
    """The value alone, as a customer writes it."""
    match field.kind:
        case "day":
            return rng.choice((value, value.capitalize(), value.capitalize()))
        case "time":
            return spoken_hour(rng, int(value[:2]))
        case "money":
            return rng.choice(("${}", "{}", "{} dollars")).format(spoken_amount(rng, value))
        case "months":
            return rng.choice((f"{value} months", f"{value} months", f"{value // 12} years"))
        case "percent":
            return rng.choice((f"{value}%", f"{value} percent", f"{value} %"))
        case "choice":
            return rng.choice((value, value, value.capitalize()))
    return str(value)


def clause(rng: Random, field: Field, value: Any) -> str:
    """The value with the words that customers put around it."""
    return rng.choice(_CLAUSES[field.kind]).format(bare(rng, field, value), name=field.name)


def told(kind: str, value: Any) -> str:
    """The value as a reply says it."""
    return value.capitalize() if kind == "day" else f"${value}" if kind == "money" else str(value)


def _named(kind: str, names: str, question: str) -> list[Field]:
    return [Field(name, kind, question.format(name=name)) for name in names.split()]


def _chosen(name: str, question: str, choices: str) -> Field:
    return Field(name, "choice", question, tuple(choices.split(", ")))


FIELDS: dict[str, Field] = {
    field.name: field
    for field in (
        *_named("tag", "item lot", "Which {name} do you mean?"),
        *_named("tag", "other_item", "Which other item is it?"),
        *_named("ticket", "receipt claim ticket parcel", "What is your {name} number?"),
        *_named("person", "name", "What is your full name?"),
        *_named("person", "owner", "Who is the owner?"),
        *_named("phone", "phone mobile", "On which {name} number do we reach you?"),
        *_named("plate", "mark", "What is the mark on it?"),
        *_named("serial", "serial", "What is the serial number?"),
        *_named("licence", "permit member", "What is your {name} number?"),
        *_named("brand", "maker", "Which maker is it?"),
        *_named("place", "town", "Where do you come from?"),
        *_named("day", "day", "On which day would you like it?"),
        *_named("time", "time", "At what time?"),
        *_named("money", "deposit", "How much deposit can you pay?"),
        *_named("money", "budget", "What is your budget?"),
        *_named("count", "guests points", "How many {name} are there?"),
        *_named("months", "duration", "For how many months?"),
        *_named("percent", "rebate", "How many percent would you like off?"),
        *_named("year", "year", "From which year is it?"),
        _chosen("work", "What work shall we do?", "deep cleaning, polish, tuning, sharpening, paint job, check up"),
        _chosen("size", "Which size do you need?", "small, medium, large, extra large, tiny, huge"),
        _chosen("tier", "Which tier would you like?", "basic, silver, gold, family, student, all year"),
        _chosen("state", "Is it new, good, fair or poor?", "new, good, fair, poor"),
        _chosen("topic", "Which topic is it?", "sailing, pottery, chess, first aid, photography, guitar, yoga"),
    )
}  # fmt: skip
REFERS = ("item", "day")  # what a conversation remembers, so that a customer can refer to it
SHARED = ("item", "name", "phone", "permit", "member")  # what stays known when the customer turns to something else
