"""The entities and intents of the dealership: what a customer may want and what must be known for it.

The order of the entity table is the order of entities in every JSON object of the Understander.
"""

from agentmill.domains.automotive.catalogue import BODIES, CONDITIONS, DAYS, FUELS
from agentmill.domains.base import Entity, Intent

TITLE = "Northgate Motors"
SAFE_REPLY = "I am sorry, I did not get that right. Could you say it in other words?"
FREE_TEXT_INTENTS = ("small_talk", "out_of_scope")
SEARCH_ENTITIES = ("make", "body", "fuel", "max_price")
TIMES = tuple(f"{hour:02d}:00" for hour in range(24))

ENTITIES: dict[str, Entity] = {
    entity.name: entity
    for entity in (
        Entity("make", str, "Which make is your car?", verbatim=True),
        Entity("model", str, "Which model is it?", verbatim=True),
        Entity("body", str, "What kind of car would you like?", choices=BODIES),
        Entity("fuel", str, "Which fuel would you like?", choices=FUELS),
        Entity("max_price", int, "What is your budget?"),
        Entity("stock", str, "What is the stock number of the car?", verbatim=True, shared=True),
        Entity("day", str, "Which day would you like?", choices=DAYS),
        Entity("time", str, "At what time?", choices=TIMES),
        Entity("name", str, "What is your full name?", verbatim=True, shared=True),
        Entity("licence", str, "What is your driving licence number?", verbatim=True, shared=True),
        Entity("reference", str, "What is your booking reference?", verbatim=True, shared=True),
        Entity("year", int, "Which year was it built?"),
        Entity("mileage", int, "How many miles has it done?"),
        Entity("condition", str, "Is its condition excellent, good, fair or poor?", choices=CONDITIONS),
    )
}

INTENTS: dict[str, Intent] = {
    intent.name: intent
    for intent in (
        Intent(
            "find_vehicles",
            "the customer looks for cars to buy by make, body, fuel or price; ask for the body if none is known",
            tools=("search_inventory",),
            optional=SEARCH_ENTITIES,
            any_of=("body", "make", "fuel", "max_price"),
        ),
        Intent(
            "vehicle_details",
            "the customer asks about one car by its stock number",
            tools=("get_vehicle",),
            required=("stock",),
        ),
        Intent(
            "book_test_drive",
            "the customer wants to book a test drive",
            tools=("check_slot", "verify_licence", "book_test_drive"),
            required=("stock", "day", "time", "name", "licence"),
            needs_confirmation=True,
        ),
        Intent(
            "check_booking",
            "the customer asks what is booked under a reference",
            tools=("find_booking",),
            required=("reference",),
        ),
        Intent(
            "cancel_test_drive",
            "the customer wants to cancel a test drive",
            tools=("find_booking", "cancel_booking"),
            required=("reference",),
            needs_confirmation=True,
        ),
        Intent(
            "opening_hours",
            "the customer asks when the dealership is open on a day",
            tools=("opening_hours",),
            required=("day",),
        ),
        Intent(
            "value_trade_in",
            "the customer wants to know what their own car is worth in a trade-in",
            tools=("estimate_trade_in",),
            required=("make", "model", "year", "mileage", "condition"),
        ),
        Intent("small_talk", "greetings, thanks, goodbyes, a change of mind"),
        Intent("out_of_scope", "anything that the dealership does not do"),
    )
}


def names_of(intent: str) -> tuple[str, ...]:
    """The entities of an intent, required then optional; none for an unknown intent."""
    known = INTENTS.get(intent)
    return known.required + known.optional if known else ()
