"""Texts of the dealership for continued pretraining: what a company would have on its pages and in its handbook."""

from agentmill.domains.automotive.catalogue import CATALOGUE, Model
from agentmill.domains.automotive.intents import INTENTS, TITLE
from agentmill.domains.automotive.rules import RULES
from agentmill.domains.automotive.seed import TRAIN_SEEDS, Hours, Vehicle, world_data
from agentmill.domains.automotive.tools import TOOLS
from agentmill.domains.base import Json
from agentmill.domains.kit.documents import document, handbook

_PACK = "automotive"
_CARS_PER_WORLD = 40


def documents() -> list[Json]:
    """Every document with its context; none says anything of a held-out world."""
    rows = [
        document(_PACK, _line(make, model), {"make": make, **model._asdict()}, "catalogue")
        for make, models in CATALOGUE.items()
        for model in models
    ]
    rows += handbook(_PACK, TITLE, INTENTS.values(), TOOLS.values(), RULES)
    for seed in TRAIN_SEEDS:
        data = world_data(seed)
        hours = {"hours": [list(row) for row in data.hours]}
        rows.append(document(_PACK, _opening(data.hours), hours, "opening hours"))
        rows += [document(_PACK, _car(car), car._asdict(), "inventory") for car in data.vehicles[:_CARS_PER_WORLD]]
    return rows


def _line(make: str, model: Model) -> str:
    fuels = " or ".join(model.fuels)
    return f"The {make} {model.name} is a {model.body} with a {fuels} drive. New, it costs about ${model.price}."


def _opening(hours: tuple[Hours, ...]) -> str:
    days = [f"{row.day} {row.opens} to {row.closes}" if row.opens else f"{row.day} closed" for row in hours]
    return f"{TITLE} is open as follows: {', '.join(days)}. The last test drive starts an hour before closing."


def _car(car: Vehicle) -> str:
    return (
        f"Stock number {car.stock}: a {car.colour} {car.make} {car.model} of {car.year}, a {car.fuel} {car.body} with "
        f"{car.mileage} miles, for ${car.price} at {TITLE}. A driver with a verified licence can test drive it."
    )
