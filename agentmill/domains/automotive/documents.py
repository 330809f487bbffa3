"""Texts of the dealership for continued pretraining: what a company would have on its pages and in its handbook.

Each document comes with the context that it was written from, so that a corpus can show both.
"""

from agentmill.domains.automotive.catalogue import CATALOGUE, Model
from agentmill.domains.automotive.intents import INTENTS, TITLE
from agentmill.domains.automotive.prompts import tool_line
from agentmill.domains.automotive.rules import RULES
from agentmill.domains.automotive.seed import TRAIN_SEEDS, Hours, Vehicle, world_data
from agentmill.domains.automotive.tools import TOOLS
from agentmill.domains.base import Intent, Json

_CARS_PER_WORLD = 40


def documents() -> list[Json]:
    """Every document as {"document", "context", "source"}; none says anything of a held-out world."""
    rows = [_document(_line(make, model), {"make": make, **model._asdict()}, "catalogue")
            for make, models in CATALOGUE.items() for model in models]  # fmt: skip
    rows += [_document(_service(intent), {"intent": intent.name}, "services") for intent in INTENTS.values()]
    rows += [_document(tool_line(tool), {"tool": tool.name}, "handbook") for tool in TOOLS.values()]
    rows += [_document(f"{rule.code}: {rule.description}", {"rule": rule.code}, "handbook") for rule in RULES]
    for seed in TRAIN_SEEDS:
        data = world_data(seed)
        rows.append(_document(_opening(data.hours), {"hours": [list(row) for row in data.hours]}, "opening hours"))
        rows += [_document(_car(car), car._asdict(), "inventory") for car in data.vehicles[:_CARS_PER_WORLD]]
    return rows


def _document(text: str, context: Json, source: str) -> Json:
    return {"document": text, "context": context, "source": f"automotive/{source}"}


def _line(make: str, model: Model) -> str:
    fuels = " or ".join(model.fuels)
    return f"The {make} {model.name} is a {model.body} with a {fuels} drive. New, it costs about ${model.price}."


def _service(intent: Intent) -> str:
    needs = f" For this we need: {', '.join(intent.required)}." if intent.required else ""
    confirm = " We ask for your confirmation before anything is changed." if intent.needs_confirmation else ""
    return f"At {TITLE}: {intent.description}.{needs}{confirm}"


def _opening(hours: tuple[Hours, ...]) -> str:
    days = [f"{row.day} {row.opens} to {row.closes}" if row.opens else f"{row.day} closed" for row in hours]
    return f"{TITLE} is open as follows: {', '.join(days)}. The last test drive starts an hour before closing."


def _car(car: Vehicle) -> str:
    return (
        f"Stock number {car.stock}: a {car.colour} {car.make} {car.model} of {car.year}, a {car.fuel} {car.body} with "
        f"{car.mileage} miles, for ${car.price} at {TITLE}. A driver with a verified licence can test drive it."
    )
