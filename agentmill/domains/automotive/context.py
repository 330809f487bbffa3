"""What a scenario of the mix `coverage` says beside its goals: the topic, the customer's profile, the limits.

The limits are what the dealership of this world can offer that bounds the conversation: how many cars of each kind are
for sale, when it is open, how far it goes with money.
"""

import random
from collections import Counter

from agentmill.domains.automotive.goals import fits
from agentmill.domains.automotive.seed import WorldData, plate_number
from agentmill.domains.base import Goal, Json
from agentmill.domains.kit.context import profile, topic

SITUATIONS = (
    "A parent of three whose van is too small", "A commuter who drives an hour a day",
    "A retired teacher who buys a car for the first time in years",
    "A nurse who works shifts and has little time by day", "A student who has saved for a first car",
    "A builder who needs a car for work", "A couple who have just moved to the town",
    "A driver whose old car has broken down", "An office worker who wants something cheaper to run",
    "A neighbour who has bought here before", "A musician who carries a lot of gear", "A farmer from outside the town",
)  # fmt: skip
WISHES: dict[str, str] = {
    "find_vehicles": "look for a car",
    "vehicle_details": "hear more about a car",
    "compare_vehicles": "have two cars compared",
    "check_availability": "know whether a car is still for sale",
    "reserve_vehicle": "have a car kept",
    "price_offer": "hear a better price",
    "finance_quote": "know what a car costs a month",
    "value_trade_in": "know what the old car is worth",
    "book_test_drive": "book a test drive",
    "check_booking": "look up a booked test drive",
    "move_test_drive": "move a test drive",
    "cancel_test_drive": "cancel a test drive",
    "book_service": "bring a car to the workshop",
    "cancel_service": "cancel a workshop appointment",
    "order_status": "know how an order stands",
    "move_delivery": "have a delivery on another day",
    "opening_hours": "know the opening hours",
    "directions": "know the way",
    "leave_contact": "be called back",
    "talk_to_person": "talk to a person",
    "small_talk": "chat a little",
    "out_of_scope": "try something that a dealership does not do",
    "private_data": "find out something about another customer",
    "unsafe": "get help with something that is not allowed",
}
_PERSONAL = {
    "name": "name", "phone": "phone", "licence": "licence", "plate": "plate", "vin": "vin", "score": "credit_score",
    "max_price": "budget", "down_payment": "savings", "order": "order",
}  # fmt: skip


def topic_of(rng: random.Random, goals: list[Goal]) -> tuple[str, str]:
    """The situation that the customer is in, and the topic's sentence."""
    situation = rng.choice(SITUATIONS)
    return situation, topic(situation, goals, WISHES)


def profile_of(rng: random.Random, goals: list[Goal], situation: str, customer: Json) -> Json:
    """A customer who has what the goals name, and what anyone has beside."""
    own = {
        **customer,
        "situation": situation,
        "plate": plate_number(rng),
        "credit_score": rng.randint(605, 830),
        "budget": rng.randint(12, 60) * 1000,
    }
    return profile(goals, _PERSONAL, own)


def limits_of(data: WorldData, goals: list[Goal]) -> Json:
    """What bounds the conversation: stock, hours, and what is offered at most."""
    cars = [car for car in data.vehicles if car.status == "available"]
    limits: Json = {"for_sale": dict(sorted(Counter(car.body for car in cars).items()))}
    search = next((goal.slots for goal in goals if goal.intent == "find_vehicles"), None)
    if search is not None:
        limits["as_wished"] = sum(fits(car, search) for car in cars)
    limits["hours"] = {row.day: f"{row.opens}-{row.closes}" if row.opens else "closed" for row in data.hours}
    money = ("max_discount", "min_down_payment")
    return limits | {name: data.business.limits[name] for name in money}
