"""Replies about orders and about the house: hours, the way there, people."""

from agentmill.domains.automotive.replies.wording import Frame, day_of
from agentmill.domains.base import Json


def _unknown_order(frame: Frame) -> str:
    return f"I cannot find an order {frame['order']} in the name of {frame['name']}."


def order_status(frame: Frame, results: Json) -> str:
    """For order_status."""
    order = results.get("order", {})
    if not order.get("found"):
        return _unknown_order(frame)
    if order["status"] == "delivered":
        return f"Your {order['vehicle']} with the order number {frame['order']} was delivered."
    return f"Your {order['vehicle']} is {order['status']}. The delivery is on {order['day'].capitalize()}."


def move_delivery(frame: Frame, results: Json) -> str:
    """For move_delivery."""
    order, delivery = results.get("order", {}), results.get("delivery", {})
    if not order.get("found"):
        return _unknown_order(frame)
    if "moved" in results:
        return f"Done, order {frame['order']} is delivered on {day_of(frame)}."
    if not delivery.get("possible"):
        if delivery.get("reason") == "delivered":
            return f"Order {frame['order']} was delivered already."
        return f"We are closed on {day_of(frame)}. Please choose another day."
    return f"The delivery of your {order['vehicle']} on {day_of(frame)} is possible. Shall I move it?"


def opening_hours(frame: Frame, results: Json) -> str:
    """For opening_hours."""
    hours = results.get("hours", {})
    if not hours.get("open"):
        return f"On {day_of(frame)} we are closed."
    return f"On {day_of(frame)} we are open from {hours['from']} to {hours['to']}."


def directions(frame: Frame, results: Json) -> str:
    """For directions."""
    way = results["way"]
    return f"From the {frame['place']} it takes {way['minutes']} minutes by car. You can also take bus {way['bus']}."


def leave_contact(frame: Frame, results: Json) -> str:
    """For leave_contact."""
    if "noted" in results:
        return f"Done, a colleague will call {frame['name']} on {frame['phone']}."
    if not results.get("lead", {}).get("new"):
        return f"{frame['phone']} is on our list already, a colleague will call."
    return f"Shall I note {frame['phone']} for {frame['name']}, so that a colleague calls back?"


def talk_to_person(frame: Frame, results: Json) -> str:
    """For talk_to_person."""
    return f"A colleague takes over now. You can also call the desk on {results['desk']['phone']}."
