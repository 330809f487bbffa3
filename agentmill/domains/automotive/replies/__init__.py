"""What the error-free Explainer says for a frame: one line, facts copied from the results in their own order.

One wording for each case on purpose: the reply is a plain function of the frame, so that a very small student can
learn it. Several requests are answered one after the other.
"""

import json
from collections.abc import Callable

from agentmill.domains.automotive.replies import appointments, cars, house
from agentmill.domains.automotive.replies.wording import Frame
from agentmill.domains.base import Json
from agentmill.domains.kit.talk import small_talk

OUT_OF_SCOPE = "I am sorry, I can only help with our cars, test drives, trade-ins and opening hours."
PRIVATE = "I am sorry, I cannot speak about other customers."
UNSAFE = "I am sorry, I cannot help with that, because it is dangerous or against the law."
_FIXED = {"out_of_scope": OUT_OF_SCOPE, "private_data": PRIVATE, "unsafe": UNSAFE}


def explain(frame: Frame) -> str:
    """The error-free reply to an Explainer's frame.

    Raises:
        ValueError: for an intent that it does not know.
    """
    intent = frame.get("intent", "none")
    if intent == "small_talk":
        return small_talk(frame.get("customer", ""))
    if intent in _FIXED:
        return _FIXED[intent]
    results = json.loads(frame.get("results", "{}"))
    requests = [intent, *filter(None, frame.get("also", "").split(", "))]
    values = {**supplied(results), **frame}
    said = []
    for request in requests:
        if request not in _BY_INTENT:
            raise ValueError(f"intent={request!r} is unknown: use one of {', '.join(_BY_INTENT)}")
        if _ran(request, results) or len(requests) == 1:
            said.append(_BY_INTENT[request](values, results))
    return " ".join(said)


def supplied(results: Json) -> dict[str, str]:
    """What one request's results give to another's reply: a found car, a trade-in's value, a booked day."""
    given: dict[str, str] = {}
    if results.get("cars"):
        given["stock"] = results["cars"][0]["stock"]
    if "value" in results:
        given["down_payment"] = str(results["value"]["low"])
    for name in ("booking", "order"):
        if "day" in results.get(name, {}):
            given["day"] = results[name]["day"]
    return given


def _ran(request: str, results: Json) -> bool:
    """Whether the plan had a part for this request: where it was stopped, only the first has."""
    return any(variable in results for variable in _VARIABLES[request])


_BY_INTENT: dict[str, Callable[[Frame, Json], str]] = {
    "find_vehicles": cars.find_vehicles,
    "vehicle_details": cars.vehicle_details,
    "compare_vehicles": cars.compare_vehicles,
    "check_availability": cars.check_availability,
    "reserve_vehicle": cars.reserve_vehicle,
    "price_offer": cars.price_offer,
    "finance_quote": cars.finance_quote,
    "value_trade_in": cars.value_trade_in,
    "book_test_drive": appointments.book_test_drive,
    "check_booking": appointments.check_booking,
    "move_test_drive": appointments.move_test_drive,
    "cancel_test_drive": appointments.cancel_test_drive,
    "book_service": appointments.book_service,
    "cancel_service": appointments.cancel_service,
    "order_status": house.order_status,
    "move_delivery": house.move_delivery,
    "opening_hours": house.opening_hours,
    "directions": house.directions,
    "leave_contact": house.leave_contact,
    "talk_to_person": house.talk_to_person,
}
_VARIABLES: dict[str, tuple[str, ...]] = {
    "find_vehicles": ("cars",),
    "vehicle_details": ("car",),
    "compare_vehicles": ("both",),
    "check_availability": ("status",),
    "reserve_vehicle": ("status",),
    "price_offer": ("offer",),
    "finance_quote": ("rate", "terms"),
    "value_trade_in": ("value", "limits", "car"),
    "book_test_drive": ("slot",),
    "check_booking": ("booking",),
    "move_test_drive": ("booking",),
    "cancel_test_drive": ("booking",),
    "book_service": ("visit",),
    "cancel_service": ("visit",),
    "order_status": ("order",),
    "move_delivery": ("order",),
    "opening_hours": ("hours",),
    "directions": ("way",),
    "leave_contact": ("lead",),
    "talk_to_person": ("desk",),
}
