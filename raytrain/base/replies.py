"""What a made-up venue's tools return and how its Explainer says it.

Every venue has a manner of its own for each kind of reply, so that the base learns to look up any field at any place
of a sentence: with one wording for all, fine-tuning on another wording never learnt to look up its first field.
"""

from collections.abc import Callable
from random import Random
from typing import Any

from raytrain.base.speech import Entities, draw
from raytrain.base.venues import Venue
from raytrain.base.words import DAYS, amount, clock, code, hour, made_up, product

Told = tuple[dict[str, Any], str]

_ROWS = (
    "{year} {brand} {product} ({code}) for ${price}",
    "{code}, {brand} {product} of {year}, at ${price}",
    "the {brand} {product} {code} from {year} for ${price}",
    "${price} for {code}, a {brand} {product} built in {year}",
)
_LISTS = (
    ("I found {count} {noun}: ", ", ", " and ", "."),
    ("We have ", "; ", "; ", "."),
    ("You could take ", ", ", " or ", ". Which one do you like?"),
)
_NOTHING = (
    "I found no {items} that fit. Shall I look for something else?",
    "Sorry, we have no such {item} at the moment.",
    "There are no {items} like that here.",
)
_DETAILS = (
    "{code} is a {year} {brand} {product}, {first}, {second}, used {usage} hours, for ${price}.",
    "The {brand} {product} {code} is {first} and {second}, from {year}, ran {usage} hours and costs ${price}.",
    "{brand} {product}, {year}: {second}, {first}, {usage} hours. {code} costs ${price}.",
)
_UNKNOWN = ("I have no {item} with the {code_word} {code}.", "Sorry, {code} is not one of our {items}.")
_TAKEN = (
    "{code} is not free on {day} at {time}. Would another time suit you?",
    "Sorry, on {day} at {time} somebody else has {code}.",
    "At {time} on {day} {code} is taken already.",
)
_FREE = (
    "{code} is free on {day} at {time}. Shall I {verb} it for {person}?",
    "On {day} at {time} you can have {code}, {person}. Do you want me to {verb} it?",
    "{person}, {code} is free at {time} on {day}. Should I {verb} it?",
)
_UNVERIFIED = (
    "I could not verify the {card_word} {card} of {person}.",
    "{person}, your {card_word} {card} was not accepted.",
)
_DONE = (
    "Done, {person}: {code} on {day} at {time}. Your {ticket_word} is {ticket}.",
    "All right, {code} is yours on {day} at {time}, {person}, with the {ticket_word} {ticket}.",
    "{ticket} is your {ticket_word}, {person}. We expect you on {day} at {time} for {code}.",
    "I put you down for {day} at {time}: {code}, {person}, {ticket_word} {ticket}.",
)
_NO_TICKET = ("I cannot find {ticket}.", "There is nothing under {ticket}.")
_TICKET = (
    "{ticket} is for {code} on {day} at {time}. Shall I cancel it?",
    "Under {ticket} I see {code}, {day} at {time}. Do you want to drop it?",
    "You have {code} on {day} at {time}, {ticket_word} {ticket}. Should I cancel?",
)
_GONE = ("{ticket} is cancelled.", "All right, I dropped {ticket}.")
_OPEN = (
    "On {day} we are open from {opens} to {closes}.",
    "We open at {opens} on {day} and close at {closes}.",
    "{day}: {opens} until {closes}.",
)
_CLOSED = ("We are closed on {day}.", "Sorry, nobody is here on {day}.")
_WORTH = (
    "Your {year} {brand} {product} in {condition} condition, used {usage} hours, is worth between ${low} and ${high}.",
    "We can offer ${low} to ${high} for a {condition} {brand} {product} of {year} with {usage} hours.",
    "With {usage} hours and in {condition} condition the {brand} {product} from {year} brings ${low} to ${high}.",
)


def _said(v: Venue, wordings: tuple[str, ...], facts: dict[str, Any]) -> str:
    """The venue's own one of `wordings`, filled in."""
    own = Random(f"{v.title} {wordings[0]}").choice(wordings)
    words = {"item": v.item, "items": v.items, "code_word": v.code, "card_word": v.card, "ticket_word": v.reference}
    return own.format(**words, verb=v.book[0].split("_")[0], **facts)


def _facts(v: Venue, values: dict[str, Any]) -> dict[str, Any]:
    """Values by the venue's names -> by the names of the wordings."""
    names = {
        v.code: "code", v.brand: "brand", v.product: "product", v.first_choice: "first", v.second_choice: "second",
        v.person: "person", v.card: "card", v.reference: "ticket",
    }  # fmt: skip
    facts = {names.get(name, name): value for name, value in values.items()}
    return facts | ({"day": facts["day"].capitalize()} if "day" in facts else {})


def _thing(rng: Random, v: Venue) -> dict[str, Any]:
    return {v.code: code(rng), "year": rng.randint(1995, 2025), v.brand: made_up(rng), v.product: product(rng)}


def _find(rng: Random, v: Venue, e: Entities, confirmed: bool) -> Told:
    rows = [{**_thing(rng, v), "price": amount(rng)} for _ in range(rng.choice((0, 1, 1, 2, 2, 3, 3)))]
    if not rows:
        return {v.find[2]: rows}, _said(v, _NOTHING, {})
    said = [_said(v, _ROWS, _facts(v, row)) for row in rows]
    lead, comma, last, end = Random(v.title).choice(_LISTS)
    lead = lead.format(count=len(rows), noun=v.item if len(rows) == 1 else v.items)
    listing = said[0] if len(said) == 1 else comma.join(said[:-1]) + last + said[-1]
    return {v.find[2]: rows}, lead + listing + end


def _details(rng: Random, v: Venue, e: Entities, confirmed: bool) -> Told:
    if rng.random() < 0.1:
        return {v.details[2]: {"found": False, v.code: e[v.code]}}, _said(v, _UNKNOWN, _facts(v, e))
    row = {"found": True, **_thing(rng, v), v.code: e[v.code]}
    row |= {name: draw(rng, v, name) for name in (v.first_choice, v.second_choice)}
    row |= {"usage": amount(rng), "price": amount(rng)}
    return {v.details[2]: row}, _said(v, _DETAILS, _facts(v, row))


def _book(rng: Random, v: Venue, e: Entities, confirmed: bool) -> Told:
    free = rng.random() < 0.8
    shown = {v.code: e[v.code], "day": e["day"], "time": e["time"]} if rng.random() < 0.5 else {}
    results: dict[str, Any] = {v.check[1]: {**shown, "free": free}}
    if not free:
        return results, _said(v, _TAKEN, _facts(v, e))
    if not confirmed:
        return results, _said(v, _FREE, _facts(v, e))
    if rng.random() < 0.15:
        return {**results, v.verify[1]: {"verified": False}}, _said(v, _UNVERIFIED, _facts(v, e))
    ticket = code(rng, digits=5)
    results |= {v.verify[1]: {"verified": True}, v.book[2]: {v.reference: ticket}}
    return results, _said(v, _DONE, _facts(v, {**e, v.reference: ticket}))


def _cancel(rng: Random, v: Venue, e: Entities, confirmed: bool) -> Told:
    if rng.random() < 0.15:
        return {v.lookup[1]: {"found": False}}, _said(v, _NO_TICKET, _facts(v, e))
    row = {"found": True, v.code: code(rng), "day": rng.choice(DAYS), "time": clock(hour(rng))}
    if not confirmed:
        return {v.lookup[1]: row}, _said(v, _TICKET, _facts(v, {**e, **row}))
    return {v.lookup[1]: row, v.cancel[2]: {"cancelled": True}}, _said(v, _GONE, _facts(v, e))


def _hours(rng: Random, v: Venue, e: Entities, confirmed: bool) -> Told:
    if rng.random() < 0.15:
        return {"hours": {"day": e["day"], "open": False}}, _said(v, _CLOSED, _facts(v, e))
    row = {"opens": clock(rng.randint(7, 10)), "closes": clock(rng.randint(16, 21))}
    return {"hours": {"day": e["day"], **row}}, _said(v, _OPEN, _facts(v, {**e, **row}))


def _appraise(rng: Random, v: Venue, e: Entities, confirmed: bool) -> Told:
    low = amount(rng)
    worth = {"low": low, "high": low + amount(rng)}
    return {v.appraise[2]: worth}, _said(v, _WORTH, _facts(v, {**e, **worth}))


def tellers(v: Venue) -> dict[str, Callable[[Random, Venue, Entities, bool], Told]]:
    """For every intent that a plan serves: (entities, confirmed) -> what its tools return, and the reply."""
    return {
        v.find[0]: _find, v.details[0]: _details, v.book[0]: _book,
        v.cancel[0]: _cancel, v.hours[0]: _hours, v.appraise[0]: _appraise,
    }  # fmt: skip
