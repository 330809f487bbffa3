"""Made-up businesses for the base's practice: twelve of them, drawn once from a fixed seed.

A venue names its intents, tools, slots and phrases in its own words, so that the base learns the work (hear, plan,
check, explain) and not one vocabulary. None sells cars: the automotive domain is left to the pipeline's own stages.
"""

from dataclasses import dataclass
from functools import cache
from random import Random

from raytrain.base.words import made_up

_ITEMS = (
    ("boat", "boats"), ("bicycle", "bicycles"), ("room", "rooms"), ("tent", "tents"), ("piano", "pianos"),
    ("kayak", "kayaks"), ("camera", "cameras"), ("table", "tables"), ("plot", "plots"), ("costume", "costumes"),
    ("drone", "drones"), ("projector", "projectors"), ("cottage", "cottages"), ("studio", "studios"),
    ("telescope", "telescopes"), ("violin", "violins"), ("locker", "lockers"), ("oven", "ovens"), ("sofa", "sofas"),
    ("printer", "printers"), ("laptop", "laptops"), ("saddle", "saddles"), ("clock", "clocks"), ("lamp", "lamps"),
    ("ring", "rings"), ("rug", "rugs"), ("mower", "mowers"), ("desk", "desks"), ("phone", "phones"), ("ski", "skis"),
)  # fmt: skip
_TRADES = (
    "Rentals",
    "House",
    "Gallery",
    "Corner",
    "Centre",
    "Market",
    "Works",
    "Club",
    "Store",
    "Point",
    "Yard",
    "Hall",
)
_CHOICES = {
    "kind": ("small", "large", "classic", "folding", "compact", "family", "sport", "deluxe"),
    "colour": ("red", "blue", "green", "black", "white", "silver"),
    "material": ("wood", "steel", "canvas", "leather", "glass", "carbon"),
    "power": ("electric", "manual", "gas", "solar", "hybrid"),
    "style": ("modern", "rustic", "plain", "antique", "formal"),
}
_CONDITIONS = ("new", "good", "worn", "fair", "excellent", "poor")


@dataclass(frozen=True)
class Venue:
    """One business: its words for the things every business has. Verbs name intents and tools."""

    title: str
    item: str
    items: str
    first_choice: str
    second_choice: str
    choices: dict[str, tuple[str, ...]]
    brand: str
    product: str
    limit: str
    code: str
    person: str
    card: str
    reference: str
    find: tuple[str, str, str]  # intent, tool, variable
    details: tuple[str, str, str]
    book: tuple[str, str, str]
    check: tuple[str, str]  # tool, variable
    verify: tuple[str, str]
    cancel: tuple[str, str, str]
    lookup: tuple[str, str]
    hours: tuple[str, str, str]
    appraise: tuple[str, str, str]
    conditions: tuple[str, ...]
    chat: str
    other: str
    asks: dict[str, str]


def _asks(rng: Random, venue_item: str, slots: dict[str, str]) -> dict[str, str]:
    """The question for every slot, in this venue's words."""
    polite = rng.choice(("Could you tell me", "May I have", "Please give me"))
    which = rng.choice(
        (
            f"Which {venue_item} is it about?",
            f"Which {venue_item} do you mean?",
            f"What is the {slots['code']} of the {venue_item}?",
        )
    )
    return {
        slots["first"]: rng.choice(
            (f"What {slots['first']} are you looking for?", f"Which {slots['first']} would you like?")
        ),
        slots["brand"]: rng.choice((f"Which {slots['brand']} is your {venue_item}?", f"What {slots['brand']} is it?")),
        slots["product"]: rng.choice((f"Which {slots['product']} is it?", f"What is the {slots['product']}?")),
        slots["code"]: which,
        "day": rng.choice(("Which day suits you?", "What day would you like?", "On which day?")),
        "time": rng.choice(("What time would you like?", "At what time?", "Which hour suits you?")),
        slots["person"]: rng.choice((f"{polite} your name?", "Under which name?", "What is your name?")),
        slots["card"]: rng.choice((f"{polite} your {slots['card']} number?", f"What is your {slots['card']} number?")),
        slots["reference"]: rng.choice((f"What is your {slots['reference']}?", f"{polite} the {slots['reference']}?")),
        "year": rng.choice(("From which year is it?", "What year is it?")),
        "usage": rng.choice(("How much has it been used?", "How many hours has it run?")),
        "condition": rng.choice(("What condition is it in?", "How is its condition?")),
    }


def _venue(rng: Random, item: str, items: str) -> Venue:
    first, second = rng.sample(sorted(_CHOICES), 2)
    words = {
        "first": first,
        "brand": rng.choice(("brand", "maker", "label", "make")),
        "product": rng.choice(("model", "type", "line", "series")),
        "code": rng.choice(("code", "item", "tag", "lot", "number", "stock")),
        "person": rng.choice(("name", "name", "guest", "holder")),
        "card": rng.choice(("card", "permit", "badge", "licence", "member")),
        "reference": rng.choice(("reference", "booking", "ticket", "reference")),
    }
    find, book = rng.choice(("find", "search", "browse", "list")), rng.choice(("book", "reserve", "hold", "rent"))
    lookup_variable = rng.choice(("booking", "entry", "found"))
    title = f"{made_up(rng)} {rng.choice(_TRADES)}"
    card = words["card"]
    find_tool = (f"search_{items}", f"list_{items}", "search_stock", "query_catalog")
    return Venue(
        title=title,
        item=item,
        items=items,
        first_choice=first,
        second_choice=second,
        choices=_CHOICES,
        brand=words["brand"],
        product=words["product"],
        code=words["code"],
        person=words["person"],
        card=card,
        reference=words["reference"],
        limit=rng.choice(("max_price", "budget", "limit", "price_cap")),
        find=(f"{find}_{items}", rng.choice(find_tool), items),
        details=(
            f"{item}_{rng.choice(('details', 'info', 'facts'))}",
            rng.choice((f"get_{item}", f"show_{item}", "read_item")),
            item,
        ),
        book=(
            f"{book}_{item}",
            rng.choice((f"{book}_{item}", "make_booking", "add_reservation")),
            rng.choice(("booking", "done", "order")),
        ),
        check=(rng.choice(("check_slot", "is_free", "check_day")), rng.choice(("slot", "free", "spot"))),
        verify=(rng.choice((f"verify_{card}", f"check_{card}")), rng.choice(("check", "valid", "proof"))),
        cancel=(
            f"cancel_{rng.choice(('booking', item))}",
            rng.choice(("cancel_booking", "drop_booking")),
            rng.choice(("done", "gone")),
        ),
        lookup=(rng.choice(("find_booking", "get_booking")), lookup_variable),
        hours=(
            rng.choice(("opening_hours", "visiting_hours", "ask_hours")),
            rng.choice(("opening_hours", "get_hours", "desk_hours")),
            "hours",
        ),
        appraise=(
            rng.choice((f"value_{item}", f"sell_{item}", "appraise")),
            rng.choice((f"estimate_{item}", "estimate_value", "quote")),
            rng.choice(("value", "offer")),
        ),
        conditions=_CONDITIONS,
        chat=rng.choice(("small_talk", "chat", "greeting")),
        other=rng.choice(("out_of_scope", "other", "unsupported")),
        asks=_asks(rng, item, words),
    )


@cache
def venues(seed: int = 11) -> tuple[Venue, ...]:
    """The twelve businesses, the same for every seed given.

    Few, because what a business calls its tools must be learnt by heart: with forty, half of what the base had wrong
    after 2,800 steps were the names of tools and the wording of questions.
    """
    rng = Random(seed)
    return tuple(_venue(rng, *_ITEMS[i % len(_ITEMS)]) for i in range(12))


_REPLY = {
    "understander": "with JSON",
    "planner": "with a plan",
    "evaluator": "with JSON",
    "explainer": "to the customer",
}


def system_text(agent: str, venue: Venue) -> str:
    """The system text of an agent of the business."""
    return f"{agent.capitalize()} of {venue.title}. Reply {_REPLY[agent]}."
