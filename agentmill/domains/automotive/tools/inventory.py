"""The cars for sale: search, details, comparison, availability, reservation."""

from typing import Any

from sqlalchemy import func, insert, select, update

from agentmill.domains.automotive.schema import RESERVATIONS, VEHICLES
from agentmill.domains.automotive.world import AutomotiveWorld
from agentmill.domains.base import Json, ToolError, tool

MAX_FOUND = 3


@tool()
def search_inventory(
    world: AutomotiveWorld,
    *,
    make: str | None = None,
    body: str | None = None,
    fuel: str | None = None,
    max_price: int | None = None,
) -> list[Json]:
    """Find cars by any of make, body, fuel and highest price in dollars; at most three, the newest first."""
    columns = VEHICLES.c
    query = select(columns.stock, columns.year, columns.make, columns.model, columns.price)
    query = query.where(columns.status != "sold")
    for column, value in ((columns.make, make), (columns.body, body), (columns.fuel, fuel)):
        if value is not None:
            query = query.where(func.lower(column) == value.lower())
    if max_price is not None:
        query = query.where(columns.price <= max_price)
    return world.rows(query.order_by(columns.year.desc(), columns.price, columns.stock).limit(MAX_FOUND))


@tool()
def get_vehicle(world: AutomotiveWorld, *, stock: str) -> Json:
    """Everything about one car by its stock number; {"found": false} where there is none."""
    row = vehicle_of(world, stock)
    if row is None:
        return {"found": False}
    return {
        "year": row.year, "make": row.make, "model": row.model, "body": row.body, "fuel": row.fuel,
        "colour": row.colour, "mileage": row.mileage, "price": row.price,
    }  # fmt: skip


@tool()
def compare_vehicles(world: AutomotiveWorld, *, stock: str, other_stock: str) -> Json:
    """Two cars side by side, and by how many dollars and miles they differ; {"found": false} names the missing one."""
    first, second = vehicle_of(world, stock), vehicle_of(world, other_stock)
    for number, row in ((stock, first), (other_stock, second)):
        if row is None:
            return {"found": False, "missing": number}
    assert first is not None and second is not None
    cars = [
        {"stock": r.stock, "year": r.year, "make": r.make, "model": r.model, "mileage": r.mileage, "price": r.price}
        for r in (first, second)
    ]
    cheaper = min((first, second), key=lambda row: row.price)
    return {"found": True, "cars": cars, "cheaper": cheaper.stock, "saves": abs(first.price - second.price)}


@tool()
def check_availability(world: AutomotiveWorld, *, stock: str) -> Json:
    """Whether a car is available, reserved or sold; {"status": "unknown"} where there is none."""
    row = vehicle_of(world, stock)
    if row is None:
        return {"available": False, "status": "unknown"}
    return {"available": row.status == "available", "status": row.status, "vehicle": named(row)}


@tool(changes=True)
def reserve_vehicle(world: AutomotiveWorld, *, stock: str, name: str, phone: str) -> Json:
    """Keep an available car for a customer for three days; returns the reference."""
    taken = update(VEHICLES).where(VEHICLES.c.stock == stock, VEHICLES.c.status == "available")
    if world.connection.execute(taken.values(status="reserved")).rowcount != 1:
        raise ToolError(f"{stock} is not available; call check_availability first")
    reference = world.unused("R", RESERVATIONS.c.reference, stock, name)
    row = {"reference": reference, "stock": stock, "name": name, "phone": phone}
    world.connection.execute(insert(RESERVATIONS).values(**row))
    return {"reference": reference}


def vehicle_of(world: AutomotiveWorld, stock: str) -> Any:
    """The row of a car, None where there is none."""
    return world.connection.execute(select(VEHICLES).where(VEHICLES.c.stock == stock)).first()


def named(row: Any) -> str:
    """A car as it is named to a customer: "2019 Honda Civic"."""
    return f"{row.year} {row.make} {row.model}"


TOOLS = (search_inventory, get_vehicle, compare_vehicles, check_availability, reserve_vehicle)
