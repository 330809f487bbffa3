"""The entities and intents of the dealership: what a customer may want and what must be known for it.

The order of the entity table is the order of entities in every JSON object of the Understander.
"""

from agentmill.domains.automotive.catalogue import BODIES, CONDITIONS, DAYS, FUELS, PLACES, SERVICES
from agentmill.domains.base import Entity, Intent

TITLE = "Northgate Motors"
SAFE_REPLY = (
    "I am sorry, I did not get that right. Could you say it in other words? "
    "Or ask for a person, and a colleague takes over."
)
FREE_TEXT_INTENTS = ("small_talk", "out_of_scope", "private_data", "unsafe")
SEARCH_ENTITIES = ("make", "body", "fuel", "max_price")
OWN_CAR = ("make", "model", "year", "mileage", "condition")
TIMES = tuple(f"{hour:02d}:00" for hour in range(24))

ENTITIES: dict[str, Entity] = {
    entity.name: entity
    for entity in (
        Entity("make", str, "Which make is your car?", verbatim=True),
        Entity("model", str, "Which model is it?", verbatim=True),
        Entity("body", str, "What kind of car would you like?", choices=BODIES),
        Entity("fuel", str, "Which fuel would you like?", choices=FUELS),
        Entity("max_price", int, "What is your budget?"),
        Entity("stock", str, "What is the stock number of the car?", verbatim=True, shared=True, refers=True),
        Entity("other_stock", str, "Which car shall I compare it with?", verbatim=True, like="stock"),
        Entity("discount", int, "How many percent off would you like?"),
        Entity("score", int, "What is your credit score?", shared=True),
        Entity("term", int, "Over how many months would you like to pay?"),
        Entity("down_payment", int, "How much would you like to pay down?"),
        Entity("order", str, "What is your order number?", verbatim=True, shared=True),
        Entity("plate", str, "What is the number plate of your car?", verbatim=True, shared=True),
        Entity("service", str, "Which service does it need?", choices=SERVICES),
        Entity("place", str, "From where do you come?", choices=PLACES),
        Entity("day", str, "Which day would you like?", choices=DAYS, refers=True),
        Entity("time", str, "At what time?", choices=TIMES),
        Entity("name", str, "What is your full name?", verbatim=True, shared=True),
        Entity("licence", str, "What is your driving licence number?", verbatim=True, shared=True),
        Entity("phone", str, "What is your telephone number?", verbatim=True, shared=True),
        Entity("reference", str, "What is your booking reference?", verbatim=True, shared=True),
        Entity("year", int, "Which year was it built?"),
        Entity("mileage", int, "How many miles has it done?"),
        Entity("condition", str, "Is its condition excellent, good, fair or poor?", choices=CONDITIONS),
        Entity("vin", str, "What is its vehicle identification number?", verbatim=True),
    )
}

_CARS = (
    Intent(
        "find_vehicles",
        "the customer looks for cars to buy by make, body, fuel or price; ask for the body if none is known",
        tools=("search_inventory",),
        optional=SEARCH_ENTITIES,
        any_of=("body", "make", "fuel", "max_price"),
        supplies=("stock",),
    ),
    Intent(
        "vehicle_details",
        "the customer asks about one car by its stock number",
        tools=("get_vehicle",),
        required=("stock",),
    ),
    Intent(
        "compare_vehicles",
        "the customer wants two cars compared",
        tools=("compare_vehicles",),
        required=("stock", "other_stock"),
    ),
    Intent(
        "check_availability",
        "the customer asks whether a car is still for sale",
        tools=("check_availability",),
        required=("stock",),
    ),
    Intent(
        "reserve_vehicle",
        "the customer wants a car to be kept for them",
        tools=("check_availability", "reserve_vehicle"),
        required=("stock", "name", "phone"),
        needs_confirmation=True,
    ),
)
_MONEY = (
    Intent(
        "price_offer",
        "the customer asks for an offer, a discount in percent or current incentives on one car",
        tools=("list_incentives", "quote_price"),
        required=("stock",),
        optional=("discount",),
    ),
    Intent(
        "finance_quote",
        "the customer asks for the monthly rate of one car",
        tools=("finance_rate", "finance_quote", "finance_terms"),
        required=("stock", "score", "term", "down_payment"),
    ),
    Intent(
        "value_trade_in",
        "the customer wants to know what their own car is worth in a trade-in",
        tools=("estimate_trade_in", "decode_vin", "appraisal_terms"),
        required=OWN_CAR,
        optional=("vin",),
        supplies=("down_payment",),
        instead=(("vin", ("make", "model", "year")),),
    ),
)
_DRIVES = (
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
        supplies=("day",),
    ),
    Intent(
        "move_test_drive",
        "the customer wants a booked test drive on another day or at another time",
        tools=("find_booking", "check_slot", "move_booking"),
        required=("reference", "day", "time"),
        needs_confirmation=True,
    ),
    Intent(
        "cancel_test_drive",
        "the customer wants to cancel a test drive",
        tools=("find_booking", "cancel_booking"),
        required=("reference",),
        needs_confirmation=True,
    ),
)
_AFTER_SALES = (
    Intent(
        "book_service",
        "the customer wants to bring their car to the workshop",
        tools=("check_service_slot", "book_service"),
        required=("service", "plate", "day", "time", "name"),
        needs_confirmation=True,
    ),
    Intent(
        "cancel_service",
        "the customer wants to cancel a workshop appointment",
        tools=("find_service", "cancel_service"),
        required=("reference",),
        needs_confirmation=True,
    ),
    Intent(
        "order_status",
        "the customer asks how their order or its delivery stands",
        tools=("find_order",),
        required=("order", "name"),
        supplies=("day",),
    ),
    Intent(
        "move_delivery",
        "the customer wants their delivery on another day",
        tools=("find_order", "check_delivery_day", "move_delivery"),
        required=("order", "name", "day"),
        needs_confirmation=True,
    ),
)
_HOUSE = (
    Intent(
        "opening_hours",
        "the customer asks when the dealership is open on a day",
        tools=("opening_hours",),
        required=("day",),
    ),
    Intent(
        "directions",
        "the customer asks how to get to the dealership",
        tools=("directions",),
        required=("place",),
    ),
    Intent(
        "leave_contact",
        "the customer wants to be called back",
        tools=("find_lead", "capture_lead"),
        required=("name", "phone"),
        needs_confirmation=True,
    ),
    Intent(
        "talk_to_person",
        "the customer wants to talk to a person now",
        tools=("hand_off",),
    ),
    Intent("small_talk", "greetings, thanks, goodbyes, a change of mind"),
    Intent("out_of_scope", "anything that the dealership does not do"),
    Intent("private_data", "the customer asks for what belongs to another customer"),
    Intent("unsafe", "the customer asks for something dangerous or against the law"),
)

INTENTS: dict[str, Intent] = {
    intent.name: intent for group in (_CARS, _MONEY, _DRIVES, _AFTER_SALES, _HOUSE) for intent in group
}


def names_of(*requests: str) -> tuple[str, ...]:
    """The entities of the intents in `requests`, required then optional; none for an unknown intent."""
    known = [INTENTS[name] for name in requests if name in INTENTS]
    return tuple(dict.fromkeys(slot for intent in known for slot in intent.required + intent.optional))
