"""Replies about cars and money: found, described, compared, reserved, priced, financed, traded in."""

from typing import Any

from agentmill.domains.automotive.replies.wording import Frame, unknown_car
from agentmill.domains.base import Json


def find_vehicles(frame: Frame, results: Json) -> str:
    """For find_vehicles."""
    cars: list[dict[str, Any]] = results.get("cars", [])
    if not cars:
        return "I am sorry, I found nothing that fits."
    listed = [f"{car['stock']}, a {car['year']} {car['make']} {car['model']} for ${car['price']}" for car in cars]
    return f"I found {'; '.join(listed)}."


def vehicle_details(frame: Frame, results: Json) -> str:
    """For vehicle_details."""
    car = results.get("car", {})
    if "price" not in car:
        return unknown_car(frame["stock"])
    return (
        f"{frame['stock']} is a {car['year']} {car['make']} {car['model']}, {car['body']}, {car['fuel']}, "
        f"{car['colour']}, with {car['mileage']} miles, for ${car['price']}."
    )


def compare_vehicles(frame: Frame, results: Json) -> str:
    """For compare_vehicles."""
    both = results.get("both", {})
    if not both.get("found"):
        return unknown_car(both.get("missing", frame["stock"]))
    cars = [
        f"{car['stock']} is a {car['year']} {car['make']} {car['model']} with {car['mileage']} miles "
        f"for ${car['price']}"
        for car in both["cars"]
    ]
    return f"{' and '.join(cars)}. With {both['cheaper']} you save ${both['saves']}."


def check_availability(frame: Frame, results: Json) -> str:
    """For check_availability."""
    status = results.get("status", {})
    if "vehicle" not in status:
        return unknown_car(frame["stock"])
    return f"{frame['stock']}, the {status['vehicle']}, is {status['status']}."


def reserve_vehicle(frame: Frame, results: Json) -> str:
    """For reserve_vehicle."""
    status = results.get("status", {})
    if "kept" in results:
        return (
            f"Done, {frame['stock']} is reserved for {frame['name']}. Your reference is {results['kept']['reference']}."
        )
    if not status.get("available"):
        return check_availability(frame, results)
    return f"{frame['stock']}, the {status['vehicle']}, is available. Shall I reserve it for {frame['name']}?"


def price_offer(frame: Frame, results: Json) -> str:
    """For price_offer."""
    offer = results.get("offer", {})
    if not offer.get("found"):
        return unknown_car(frame["stock"])
    price = f"{frame['stock']} costs ${offer['price']} instead of ${offer['list']}"
    if "deal" in results:
        best = results["deal"]["best"]
        if best is None:
            return f"There is no incentive on {frame['stock']} now. It costs ${offer['price']}."
        return f"With the incentive {best} of ${results['deal']['amount']}, {price}."
    most = "" if str(offer["discount"]) == frame.get("discount") else " That is the most that I can give."
    return f"With {offer['discount']} percent off, {price}.{most}"


def finance_quote(frame: Frame, results: Json) -> str:
    """For finance_quote."""
    if "terms" in results:
        months = ", ".join(map(str, results["terms"]["months"]))
        least = results["terms"]["min_down_payment"]
        return f"We finance over {months} months, with at least ${least} paid down."
    rate, quote = results.get("rate", {}), results.get("quote", {})
    if not rate.get("approved"):
        return f"I am sorry, with a credit score of {frame['score']} we cannot offer you a rate."
    if not quote.get("found"):
        return unknown_car(frame["stock"])
    return (
        f"With ${frame['down_payment']} down, {frame['stock']} costs ${quote['monthly']} a month over "
        f"{frame['term']} months at {rate['apr']} percent."
    )


def value_trade_in(frame: Frame, results: Json) -> str:
    """For value_trade_in."""
    if "limits" in results:
        limits = results["limits"]
        return (
            f"I can only value cars of up to {limits['max_age']} years and {limits['max_mileage']} miles. "
            "Please bring yours, and we take a look at it."
        )
    if "car" in results and not results["car"]["found"]:
        return f"I cannot find a car with the number {frame['vin']}."
    own = {**frame, **results.get("car", {})}
    state = f"{frame['mileage']} miles and {frame['condition']} condition"
    value = results["value"]
    car = f"{own['make']} {own['model']} from {own['year']}"
    return f"For your {car} with {state} we would pay ${value['low']} to ${value['high']}."
