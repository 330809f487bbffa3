"""What replies have in common: how a frame's day is said, and a car that is not known."""

from collections.abc import Mapping

Frame = Mapping[str, str]


def day_of(frame: Frame) -> str:
    """The day as it is said to a customer."""
    return frame["day"].capitalize()


def unknown_car(stock: str) -> str:
    """The reply about a stock number that no car has."""
    return f"I cannot find a car with the stock number {stock}."
