"""How a customer of a made-up venue says things: requests, answers, agreement, small talk.

Returns an utterance with the entities that can be heard in it, in the order of the intent's slots.
"""

from dataclasses import dataclass
from random import Random
from typing import Any

from raytrain.base.venues import Venue
from raytrain.base.words import (
    DAYS,
    amount,
    clock,
    code,
    hour,
    made_up,
    person,
    product,
    spoken_amount,
    spoken_hour,
    word,
)

Entities = dict[str, Any]
_HELLO = ("Hi, ", "Hello, ", "Hey, ", "Good morning, ", "Good day. ", "Hi there, ", "Hello! ", "Good evening. ", "")
_FILLER = ("well, ", "um, ", "so, ", "ok, ", "right, ", "Alright. ", "Great. ", "Certainly. ", "Of course. ", "OK. ",
           "Thank you. ", "Perfect. ", "Sure. ", "Anyway, ", "By the way, ", "", "", "", "")  # fmt: skip
_AGAIN = ("As I said, ", "I said: ", "In other words: ", "Once more: ", "Again, ", "I mean, ", "Let me repeat: ")
_SEARCH = ("I'm looking for", "Do you have", "show me", "I want", "I need", "find me", "any", "have you got",
           "I would like", "can you find", "are there any", "looking for", "we need")  # fmt: skip
_TAIL = (" please", ", thanks", ", thank you", ", please", "", "", "", "", "", "")
YES = (
    "Yes",
    "Yes please",
    "yes, go ahead",
    "Sure",
    "Sounds good",
    "That works",
    "Please do",
    "Yes, book it",
    "Correct",
    "ok, do it",
    "Perfect, yes",
    "yep",
    "Go ahead",
    "Fine with me",
    "Yes, that is right",
    "I agree",
    "Absolutely",
)
NO = ("No", "no thanks", "Not now", "No, leave it", "I changed my mind", "Rather not", "No, never mind", "not really")
CHAT = ("Hello", "Hi there", "Good morning", "How are you?", "Thanks a lot", "Thank you, bye", "Nice to meet you",
        "You have been very helpful", "Hey", "That is all, thanks", "Great, thank you", "Good evening")  # fmt: skip
OTHER = ("Can you write me a poem?", "What is the weather in {w}?", "Who won the match between {w} and {v}?",
         "Book me a flight to {w}", "Tell me a joke about {w}", "How do I cook {w}?", "What is {n} times {m}?",
         "Can you fix my {w}?", "Order me a pizza", "Do you know a doctor in {w}?", "Translate this into {w}",
         "What do you think of {w}?", "Play some music by {p}", "Give me the phone number of {p}")  # fmt: skip


@dataclass(frozen=True)
class Slots:
    """The slots of each intent of a venue: required and optional, in frame order."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        return self.required + self.optional


def slots_of(venue: Venue) -> dict[str, Slots]:
    """Every intent of `venue` with its slots."""
    v = venue
    return {
        v.find[0]: Slots((), (v.first_choice, v.brand, v.second_choice, v.limit)),
        v.details[0]: Slots((v.code,)),
        v.book[0]: Slots((v.code, "day", "time", v.person, v.card)),
        v.cancel[0]: Slots((v.reference,)),
        v.hours[0]: Slots(("day",)),
        v.appraise[0]: Slots((v.brand, v.product, "year", "usage", "condition")),
        v.chat: Slots(()),
        v.other: Slots(()),
    }


def draw(rng: Random, venue: Venue, slot: str) -> Any:
    """A value for `slot`, as records hold it."""
    if slot in (venue.first_choice, venue.second_choice):
        return word(rng) if rng.random() < 0.5 else rng.choice(venue.choices[slot])
    if slot == venue.brand:
        return made_up(rng)
    makers = {
        venue.product: product,
        venue.code: code,
        venue.reference: code,
        venue.person: person,
        venue.card: lambda r: code(r, digits=r.choice((5, 6, 7, 8))),
        venue.limit: amount,
        "usage": amount,
        "year": lambda r: r.randint(1990, 2025),
        "day": lambda r: r.choice(DAYS),
        "time": lambda r: clock(hour(r)),
        "condition": lambda r: word(r) if r.random() < 0.25 else r.choice(venue.conditions),
    }
    return makers[slot](rng)


def bare(rng: Random, venue: Venue, slot: str, value: Any) -> str:
    """The value alone, as a customer writes it."""
    if slot == "day":
        return rng.choice((value, value.capitalize(), value.capitalize()))
    if slot == "time":
        return spoken_hour(rng, int(value[:2]))
    if slot in (venue.first_choice, venue.second_choice):
        cased = value.capitalize() if value in venue.choices[slot] else value.upper()  # a new capital word is a brand
        return rng.choice((value, value, value, cased))
    if slot in (venue.limit, "usage"):
        spoken = spoken_amount(rng, value)
        return f"${spoken}" if slot == venue.limit and rng.random() < 0.5 else spoken
    return str(value)


def clause(rng: Random, venue: Venue, slot: str, value: Any) -> str:
    """The value with the words that customers put around it."""
    said = bare(rng, venue, slot, value)
    forms = {
        "day": ("on {}", "{}", "this {}", "for {}", "next {}"),
        "time": ("at {}", "{}", "around {}", "from {}"),
        venue.person: (
            "my name is {}",
            "I'm {}",
            "I am {}",
            "it's for {}",
            "name is {}",
            "for {}",
            "this is {}",
            "the name is {}",
        ),
        venue.card: (
            f"my {venue.card} is {{}}",
            f"{venue.card} {{}}",
            f"{venue.card} number {{}}",
            f"the {venue.card} is {{}}",
        ),
        venue.code: (f"{venue.item} {{}}", f"the {venue.item} {{}}", "number {}", "{}", f"{venue.code} {{}}"),
        venue.reference: (f"{venue.reference} {{}}", "it is {}", f"my {venue.reference} is {{}}", "number {}"),
        venue.limit: (
            "under {}",
            "below {}",
            "up to {}",
            "for at most {}",
            "no more than {}",
            "my budget is {}",
            "max {}",
            "less than {}",
        ),
        venue.brand: ("from {}", "by {}", "made by {}", "a {}"),
        venue.product: ("the {}", f"{venue.product} {{}}", "a {}"),
        "year": ("from {}", "year {}", "it is a {}", "built in {}", "bought in {}"),
        "usage": ("used {} hours", "with {} hours", "about {} hours", "{} hours on it", "it ran {} hours"),
        "condition": ("in {} condition", "condition is {}", "{} condition", "it is {}"),
    }.get(
        slot, ("{}", "something {}", "I like {}", f"{venue.first_choice} {{}}" if slot == venue.first_choice else "{}")
    )
    return rng.choice(forms).format(said)


def _find(rng: Random, v: Venue, heard: Entities) -> str:
    known = heard.get(v.second_choice) in v.choices[v.second_choice]  # a new word needs its slot named
    before = (v.first_choice, v.second_choice, v.brand) if known else (v.first_choice, v.brand)
    noun = " ".join([bare(rng, v, s, heard[s]) for s in before if s in heard] + [rng.choice((v.item, v.items))])
    lead = rng.choice(_SEARCH)
    text = f"{lead} {rng.choice(('a ', '', 'some '))}{noun}"
    if v.second_choice in heard and not known:
        named = bare(rng, v, v.second_choice, heard[v.second_choice])
        text += rng.choice((f" with {v.second_choice} {named}", f", {v.second_choice} {named}"))
    if v.limit in heard:
        text += " " + clause(rng, v, v.limit, heard[v.limit])
    return text


def _own(rng: Random, v: Venue, heard: Entities) -> str:
    """The customer's own thing: "2016 Brelto K80"; its brand stands before its product."""
    text = f"{heard[v.brand]} {heard[v.product]}"
    if "year" in heard:
        return rng.choice((f"{heard['year']} {text}", f"{text} from {heard['year']}"))
    return text


def _request(rng: Random, v: Venue, intent: str, heard: Entities) -> str:
    if intent == v.find[0]:
        return _find(rng, v, heard)
    verb = v.book[0].split("_")[0]
    leads = {
        v.details[0]: (
            "tell me about",
            "what can you tell me about",
            "more about",
            "give me the details of",
            "what is",
            "info on",
        ),
        v.book[0]: (
            f"I'd like to {verb}",
            f"I want to {verb}",
            f"can I {verb}",
            f"please {verb}",
            f"{verb}",
            f"could we {verb}",
        ),
        v.cancel[0]: (
            "please cancel my booking",
            "I need to cancel",
            "cancel it",
            "I can't make it, cancel",
            "drop my booking",
        ),
        v.hours[0]: (
            "when are you open",
            "what are your hours",
            "are you open",
            "opening hours",
            "until when are you open",
        ),
        v.appraise[0]: (
            f"I want to sell my {v.item}",
            f"what is my {v.item} worth",
            f"how much for my {v.item}",
            f"value my {v.item}",
        ),
    }
    text = rng.choice(leads[intent])
    if intent in (v.details[0], v.book[0]) and v.code not in heard:
        text += rng.choice((f" a {v.item}", f" one of the {v.items}", f" the {v.item}", " one", " this one", " it"))
    own = (v.brand, v.product) if intent == v.appraise[0] and {v.brand, v.product} <= set(heard) else ()
    if own and rng.random() < 0.7:
        text = f"{text.removesuffix(f' my {v.item}')} my {_own(rng, v, heard)}"
        heard = {s: x for s, x in heard.items() if s not in (*own, "year")}
    parts = [clause(rng, v, s, x) for s, x in heard.items()]
    joined = rng.choice((", ", " ", ", ", " and ")).join(parts)
    return f"{text}{rng.choice((' ', ', ')) if intent != v.details[0] else ' '}{joined}" if parts else text


def dress(rng: Random, text: str) -> str:
    """Greeting, filler, ending and case around a sentence; leaves every value as it is."""
    text = rng.choice(_HELLO) + rng.choice(_FILLER) + text if rng.random() < 0.4 else text
    text += rng.choice(_TAIL)
    if rng.random() < 0.6:
        text = text[:1].upper() + text[1:] + rng.choice((".", ".", "?", "!", ""))
    return text


def request(rng: Random, venue: Venue, intent: str) -> tuple[str, Entities]:
    """A customer opens `intent`: the utterance and the entities in it (a random share of the slots)."""
    if intent == venue.chat:
        return rng.choice(CHAT) + rng.choice(("", ".", "!")), {}
    if intent == venue.other:
        filled = rng.choice(OTHER).format(
            w=made_up(rng), v=made_up(rng), p=person(rng), n=rng.randint(2, 99), m=rng.randint(2, 99)
        )
        return filled, {}
    share = rng.choice((0.0, 0.3, 0.6, 1.0))
    heard = {s: draw(rng, venue, s) for s in slots_of(venue)[intent].all if rng.random() < share}
    return dress(rng, _request(rng, venue, intent, heard)), heard


def repeat(rng: Random, venue: Venue, intent: str) -> tuple[str, Entities]:
    """A customer who was not understood says everything again."""
    slots = slots_of(venue)[intent]
    heard = {s: draw(rng, venue, s) for s in slots.all if s in slots.required or rng.random() < 0.6}
    return rng.choice(_AGAIN) + _request(rng, venue, intent, heard) + rng.choice((".", "", "!")), heard


def correct(rng: Random, venue: Venue, slot: str) -> tuple[str, Entities]:
    """A customer changes one thing after a reply, or adds one."""
    value = draw(rng, venue, slot)
    if slot in (venue.brand, venue.product) or value not in venue.choices.get(slot, (value,)):
        said = f"{slot} {value}"  # the word alone does not tell what it is
    else:
        said = bare(rng, venue, slot, value) if rng.random() < 0.4 else clause(rng, venue, slot, value)
    lead = rng.choice(
        ("No, ", "Not quite: ", "I meant ", "Sorry, ", "And ", "What about ", "Rather ", "I said ", "Only ")
    )
    return lead + said + rng.choice(("", ".", "?")), {slot: value}


def answer(rng: Random, venue: Venue, asked: str, missing: list[str]) -> tuple[str, Entities]:
    """A customer answers the question for `asked`, now and then with more of what is `missing`."""
    order = [asked] + [s for s in missing if s != asked and rng.random() < 0.25]
    heard = {s: draw(rng, venue, s) for s in order}
    if len(heard) == 1 and rng.random() < 0.5:
        text = bare(rng, venue, asked, heard[asked])
    else:
        spoken = list(heard.items())
        rng.shuffle(spoken)
        text = rng.choice((", ", " and ", " ", ", ")).join(clause(rng, venue, s, v) for s, v in spoken)
    return (dress(rng, text) if rng.random() < 0.6 else text), heard
