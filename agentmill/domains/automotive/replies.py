"""What the error-free Explainer says for a frame: one line, facts copied from the results in their own order.

One wording for each case on purpose: the reply is a plain function of the frame, so that a very small student can
learn it.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from agentmill.domains.automotive.reading import AGREES, DECLINES
from agentmill.domains.base import Json

_GREETING = re.compile(r"\b(?:hi|hello|hey|good (?:morning|afternoon|evening))\b", re.IGNORECASE)
_THANKS = re.compile(r"\b(?:thank|thanks|cheers|bye|goodbye|that's all|that was all)\b", re.IGNORECASE)
OUT_OF_SCOPE = "I am sorry, I can only help with our cars, test drives, trade-ins and opening hours."


def explain(frame: Mapping[str, str]) -> str:
    """The error-free reply to an Explainer's frame.

    Raises:
        ValueError: for an intent that it does not know.
    """
    intent = frame.get("intent", "none")
    if intent == "small_talk":
        return _small_talk(frame.get("customer", ""))
    if intent == "out_of_scope":
        return OUT_OF_SCOPE
    if intent not in _BY_INTENT:
        raise ValueError(f"intent={intent!r} is unknown: use one of {', '.join(_BY_INTENT)}")
    return _BY_INTENT[intent](frame, json.loads(frame.get("results", "{}")))


def _small_talk(customer: str) -> str:
    if _THANKS.search(customer):
        return "You are welcome. Have a nice day!"
    if _GREETING.search(customer):
        return "Hello! How can I help you today?"
    if DECLINES.search(customer) and not AGREES.search(customer):
        return "All right, I leave it. What else can I do for you?"
    return "It is nice to talk to you. How can I help you today?"


def _day(frame: Mapping[str, str]) -> str:
    return frame["day"].capitalize()


def _find_vehicles(frame: Mapping[str, str], results: Json) -> str:
    cars: list[dict[str, Any]] = results.get("cars", [])
    if not cars:
        return "I am sorry, I found nothing that fits."
    listed = [f"{car['stock']}, a {car['year']} {car['make']} {car['model']} for ${car['price']}" for car in cars]
    return f"I found {'; '.join(listed)}."


def _vehicle_details(frame: Mapping[str, str], results: Json) -> str:
    car = results.get("car", {})
    if "price" not in car:
        return f"I cannot find a car with the stock number {frame['stock']}."
    return (
        f"{frame['stock']} is a {car['year']} {car['make']} {car['model']}, {car['body']}, {car['fuel']}, "
        f"{car['colour']}, with {car['mileage']} miles, for ${car['price']}."
    )


def _opening_hours(frame: Mapping[str, str], results: Json) -> str:
    hours = results.get("hours", {})
    if not hours.get("open"):
        return f"On {_day(frame)} we are closed."
    return f"On {_day(frame)} we are open from {hours['from']} to {hours['to']}."


def _value_trade_in(frame: Mapping[str, str], results: Json) -> str:
    car = f"{frame['make']} {frame['model']} from {frame['year']}"
    state = f"{frame['mileage']} miles and {frame['condition']} condition"
    value = results["value"]
    return f"For your {car} with {state} we would pay ${value['low']} to ${value['high']}."


def _check_booking(frame: Mapping[str, str], results: Json) -> str:
    booking = results.get("booking", {})
    if not booking.get("found"):
        return f"I cannot find a booking with the reference {frame['reference']}."
    when = f"on {booking['day'].capitalize()} at {booking['time']}"
    return f"Booking {frame['reference']} is for {booking['stock']} {when} in the name of {booking['name']}."


def _cancel_test_drive(frame: Mapping[str, str], results: Json) -> str:
    booking = results.get("booking", {})
    if not booking.get("found"):
        return f"I cannot find a booking with the reference {frame['reference']}."
    if "done" in results:
        return f"Done, booking {frame['reference']} is cancelled."
    when = f"on {booking['day'].capitalize()} at {booking['time']}"
    return f"Booking {frame['reference']} is for {booking['stock']} {when}. Shall I cancel it?"


def _book_test_drive(frame: Mapping[str, str], results: Json) -> str:
    slot = results.get("slot", {})
    when = f"on {_day(frame)} at {frame['time']}"
    if not slot.get("free"):
        return _not_free(frame["stock"], when, slot)
    if "booking" in results:
        reference = results["booking"]["reference"]
        return f"Done, {frame['stock']} is booked {when} for {frame['name']}. Your reference is {reference}."
    if "check" in results and not results["check"]["verified"]:
        return f"I could not verify the licence {frame['licence']} for {frame['name']}, so nothing is booked."
    return f"{frame['stock']}, the {slot['vehicle']}, is free {when}. Shall I book it for {frame['name']}?"


def _not_free(stock: str, when: str, slot: Json) -> str:
    if slot.get("reason") == "unknown" or "reason" not in slot:
        return f"I cannot find a car with the stock number {stock}."
    why = f"{stock} is taken {when}." if slot["reason"] == "taken" else f"We are closed {when}."
    if not slot["instead"]:
        return f"{why} Please choose another day."
    return f"{why} Free times are {' and '.join(slot['instead'])}."


_BY_INTENT = {
    "find_vehicles": _find_vehicles,
    "vehicle_details": _vehicle_details,
    "opening_hours": _opening_hours,
    "value_trade_in": _value_trade_in,
    "check_booking": _check_booking,
    "cancel_test_drive": _cancel_test_drive,
    "book_test_drive": _book_test_drive,
}
