"""The dealership's world and tools: seeded, isolated, transactional, and honest about what is not possible."""

import time

import pytest

from agentmill.domains.automotive.seed import TRAIN_SEEDS, Booking, WorldData, slot_times, world_data
from agentmill.domains.automotive.tools import TOOLS
from agentmill.domains.automotive.world import AutomotiveWorld
from agentmill.domains.base import Json, ToolError

SEED = TRAIN_SEEDS[0]


def call(world: AutomotiveWorld, tool: str, **arguments: object) -> Json:
    result: Json = TOOLS[tool].function(world, **arguments)
    return result


def free_slot(data: WorldData) -> Json:
    """A slot that no seeded booking takes, with a customer whose licence is valid."""
    taken = {(row.stock, row.day, row.time) for row in data.bookings}
    row = next(row for row in data.hours if row.opens)
    times = slot_times(row)
    stock = next(car.stock for car in data.vehicles if (car.stock, row.day, times[0]) not in taken)
    customer = next(customer for customer in data.customers if customer.valid)
    return {"stock": stock, "day": row.day, "time": times[0], "name": customer.name, "licence": customer.licence}


def taken_slot(data: WorldData) -> Booking:
    return data.bookings[0]


def test_a_world_has_hundreds_of_vehicles_and_customers_and_is_the_same_for_the_same_seed() -> None:
    data = world_data(SEED)
    assert len(data.vehicles) >= 300
    assert len(data.customers) >= 300
    assert len({car.make for car in data.vehicles}) >= 15
    assert world_data.__wrapped__(SEED) == data
    assert world_data(SEED + 1) != data


def test_every_conversation_has_a_copy_of_its_own() -> None:
    one, other = AutomotiveWorld(SEED), AutomotiveWorld(SEED)
    slot = free_slot(world_data(SEED))
    call(one, "book_test_drive", **slot)
    one.commit()
    assert len(one.snapshot()["bookings"]) == 1
    assert other.snapshot()["bookings"] == []
    one.close()
    other.close()


def test_rollback_leaves_nothing_not_even_the_log() -> None:
    world = AutomotiveWorld(SEED)
    before = world.snapshot()
    world.record("book_test_drive", {})
    call(world, "book_test_drive", **free_slot(world_data(SEED)))
    world.rollback()
    assert world.snapshot() == before
    world.close()


def test_a_booking_and_a_cancellation_show_in_the_snapshot() -> None:
    world, data = AutomotiveWorld(SEED), world_data(SEED)
    slot = free_slot(data)
    reference = call(world, "book_test_drive", **slot)["reference"]
    call(world, "cancel_booking", reference=taken_slot(data).reference)
    world.record("cancel_booking", {"reference": taken_slot(data).reference})
    world.commit()
    snapshot = world.snapshot()
    assert snapshot["bookings"] == [{"reference": reference, **slot, "verified": True}]
    assert snapshot["cancelled"] == [taken_slot(data).reference]
    assert snapshot["activity"] == [{"tool": "cancel_booking", "arguments": {"reference": taken_slot(data).reference}}]
    assert call(world, "find_booking", reference=taken_slot(data).reference) == {"found": False}
    world.close()


def test_search_keeps_every_constraint_whatever_the_case_and_returns_at_most_three() -> None:
    world = AutomotiveWorld(SEED)
    found = TOOLS["search_inventory"].function(world, make="toyota", max_price=30_000)
    assert 1 <= len(found) <= 3
    assert all(car["make"] == "Toyota" and car["price"] <= 30_000 for car in found)
    assert [car["year"] for car in found] == sorted((car["year"] for car in found), reverse=True)
    assert TOOLS["search_inventory"].function(world, max_price=1) == []
    world.close()


def test_a_slot_is_taken_closed_or_unknown_and_near_times_are_offered() -> None:
    world, data = AutomotiveWorld(SEED), world_data(SEED)
    booked = taken_slot(data)
    taken = call(world, "check_slot", stock=booked.stock, day=booked.day, time=booked.time)
    assert taken["reason"] == "taken"
    assert taken["instead"]
    assert booked.time not in taken["instead"]
    closed = call(world, "check_slot", stock=booked.stock, day=booked.day, time="03:00")
    assert (closed["free"], closed["reason"]) == (False, "closed")
    assert call(world, "check_slot", stock="A0000", day=booked.day, time="12:00")["reason"] == "unknown"
    world.close()


def test_the_world_refuses_what_a_plan_should_have_checked() -> None:
    world, data = AutomotiveWorld(SEED), world_data(SEED)
    slot, booked = free_slot(data), taken_slot(data)
    with pytest.raises(ToolError, match="check_slot"):
        call(world, "book_test_drive", **{**slot, "stock": booked.stock, "day": booked.day, "time": booked.time})
    with pytest.raises(ToolError, match="verify_licence"):
        call(world, "book_test_drive", **{**slot, "name": "Somebody Else"})
    with pytest.raises(ToolError, match="find_booking"):
        call(world, "cancel_booking", reference="T00000")
    with pytest.raises(ToolError, match="day of the week"):
        call(world, "opening_hours", day="someday")
    world.close()


def test_trade_in_falls_with_age_mileage_and_condition() -> None:
    world = AutomotiveWorld(SEED)
    car = {"make": "Honda", "model": "Civic", "year": 2018, "mileage": 60_000, "condition": "good"}
    base = call(world, "estimate_trade_in", **car)
    assert base["low"] < base["high"]
    for change in ({"year": 2012}, {"mileage": 150_000}, {"condition": "poor"}):
        assert call(world, "estimate_trade_in", **{**car, **change})["high"] < base["high"]
    assert call(world, "estimate_trade_in", **{**car, "make": "Lada"})["low"] > 0
    world.close()


def test_opening_a_world_again_is_a_matter_of_a_few_milliseconds() -> None:
    AutomotiveWorld(SEED).close()
    began = time.perf_counter()
    for _ in range(50):
        AutomotiveWorld(SEED).close()
    assert (time.perf_counter() - began) / 50 < 0.02
