"""Replies about appointments: test drives and the workshop."""

from agentmill.domains.automotive.replies.cars import check_availability
from agentmill.domains.automotive.replies.wording import Frame, day_of, unknown_car
from agentmill.domains.base import Json


def check_booking(frame: Frame, results: Json) -> str:
    """For check_booking."""
    booking = results.get("booking", {})
    if not booking.get("found"):
        return _unknown_booking(frame)
    return f"{_booked(frame, booking)}."


def _unknown_booking(frame: Frame) -> str:
    return f"I cannot find a booking with the reference {frame['reference']}."


def _booked(frame: Frame, booking: Json) -> str:
    when = f"on {booking['day'].capitalize()} at {booking['time']}"
    return f"Booking {frame['reference']} is for {booking['stock']} {when}"


def cancel_test_drive(frame: Frame, results: Json) -> str:
    """For cancel_test_drive."""
    booking = results.get("booking", {})
    if not booking.get("found"):
        return _unknown_booking(frame)
    if "done" in results:
        return f"Done, booking {frame['reference']} is cancelled."
    return f"{_booked(frame, booking)}. Shall I cancel it?"


def move_test_drive(frame: Frame, results: Json) -> str:
    """For move_test_drive."""
    booking, slot = results.get("booking", {}), results.get("slot", {})
    if not booking.get("found"):
        return _unknown_booking(frame)
    when = f"on {day_of(frame)} at {frame['time']}"
    if "moved" in results:
        return f"Done, booking {frame['reference']} is moved. We expect you {when}."
    if not slot.get("free"):
        return _not_free(booking["stock"], when, slot)
    if "check" in results and not results["check"]["verified"]:
        return f"I could not verify the licence {frame['licence']} for {frame['name']}, so nothing is moved."
    return f"{booking['stock']} is free {when}. Shall I move booking {frame['reference']}?"


def book_test_drive(frame: Frame, results: Json) -> str:
    """For book_test_drive."""
    slot = results.get("slot", {})
    when = f"on {day_of(frame)} at {frame['time']}"
    if not slot.get("free"):
        return _not_free(frame["stock"], when, slot)
    if "booking" in results and "reference" in results["booking"]:
        reference = results["booking"]["reference"]
        return f"Done, {frame['stock']} is booked {when} for {frame['name']}. Your reference is {reference}."
    if "check" in results and not results["check"]["verified"]:
        return f"I could not verify the licence {frame['licence']} for {frame['name']}, so nothing is booked."
    if "check" in results and not results.get("status", {"available": True})["available"]:
        return check_availability(frame, results)
    return f"{frame['stock']}, the {slot['vehicle']}, is free {when}. Shall I book it for {frame['name']}?"


def _not_free(stock: str, when: str, slot: Json) -> str:
    if slot.get("reason") == "unknown" or "reason" not in slot:
        return unknown_car(stock)
    if slot["reason"] == "sold":
        return f"I am sorry, {stock} is sold."
    why = f"{stock} is taken {when}." if slot["reason"] == "taken" else f"We are closed {when}."
    return f"{why} {_instead(slot)}"


def _instead(slot: Json) -> str:
    return f"Free times are {' and '.join(slot['instead'])}." if slot["instead"] else "Please choose another day."


def book_service(frame: Frame, results: Json) -> str:
    """For book_service."""
    visit = results.get("visit", {})
    when = f"on {day_of(frame)} at {frame['time']}"
    if "booked" in results:
        reference = results["booked"]["reference"]
        return f"Done, the workshop expects {frame['plate']} {when}. Your reference is {reference}."
    if not visit.get("free"):
        why = "taken" if visit.get("reason") == "taken" else "closed"
        return f"The workshop is {why} {when}. {_instead({'instead': [], **visit})}"
    what = f"{frame['service']} for ${visit['price']}"
    return f"The workshop is free {when}, {what}. Shall I book it for {frame['plate']}?"


def cancel_service(frame: Frame, results: Json) -> str:
    """For cancel_service."""
    visit = results.get("visit", {})
    if not visit.get("found"):
        return f"I cannot find an appointment with the reference {frame['reference']}."
    if "done" in results:
        return f"Done, appointment {frame['reference']} is cancelled."
    when = f"on {visit['day'].capitalize()} at {visit['time']}"
    return f"Appointment {frame['reference']} is {visit['service']} {when}. Shall I cancel it?"
