"""What the packs' switches do to their worlds, and what is drawn: in time, of every kind, with an end that is known."""

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import select

from agentmill.domains.automotive import switched as automotive
from agentmill.domains.automotive.goals import called
from agentmill.domains.automotive.schema import BOOKINGS
from agentmill.domains.automotive.seed import world_data
from agentmill.domains.automotive.world import AutomotiveWorld
from agentmill.domains.base import Domain, Goal, Json, ToolError, load_domain
from agentmill.domains.library_desk import switched as library_desk
from agentmill.domains.switching import KINDS, found

PACKS = {"automotive": automotive, "library_desk": library_desk}
DATA = world_data(1)
CAR = next(car for car in DATA.vehicles if car.status == "available")
PERSON = next(person for person in DATA.customers if person.valid)
BOOKING = {"stock": CAR.stock, "day": "friday", "time": "15:00", "name": PERSON.name, "licence": PERSON.licence}
DRIVE = Goal(intent="book_test_drive", slots=BOOKING, expect={"booking": BOOKING})
HOURS = Goal(intent="opening_hours", slots={"day": "friday"}, expect=called(("opening_hours", {"day": "friday"})))


@pytest.fixture(scope="module")
def domain() -> Domain:
    return load_domain("automotive")


@contextmanager
def switched_world(domain: Domain, name: str) -> Iterator[tuple[AutomotiveWorld, Any]]:
    """A world before and after a switch, and a function that calls a tool in it."""
    world = AutomotiveWorld(1)
    switch, value = found(domain.switches, name)
    tools = domain.under([name]).tools
    assert switch.apply is not None
    switch.apply(world, value)
    world.commit()
    try:
        yield world, lambda tool, **arguments: tools[tool].function(world, **arguments)
    finally:
        world.close()


def test_a_day_that_is_closed_takes_no_drives_and_facts_say_so(domain: Domain) -> None:
    with switched_world(domain, "closed_day:friday") as (world, call):
        assert world.facts()["hours"]["friday"] is None
        assert call("check_slot", stock=CAR.stock, day="friday", time="15:00")["reason"] == "closed"


def test_a_day_that_ends_at_noon_offers_the_morning(domain: Domain) -> None:
    with switched_world(domain, "early_closing:friday") as (world, call):
        assert world.facts()["hours"]["friday"][1] == "12:00"
        late = call("check_slot", stock=CAR.stock, day="friday", time="15:00")
        assert late["reason"] == "closed"
        assert max(late["instead"]) < "12:00"


def test_a_sold_car_cannot_be_driven_kept_or_found(domain: Domain) -> None:
    with switched_world(domain, f"vehicle_sold:{CAR.stock}") as (_, call):
        assert call("check_slot", stock=CAR.stock, day="friday", time="15:00")["reason"] == "sold"
        assert call("check_availability", stock=CAR.stock)["status"] == "sold"
        with pytest.raises(ToolError, match="is not available"):
            call("reserve_vehicle", stock=CAR.stock, name="A B", phone="555-0100")


def test_an_incentive_that_has_ended_is_not_offered(domain: Domain) -> None:
    world = AutomotiveWorld(1)
    code = domain.tools["list_incentives"].function(world, stock=CAR.stock)["best"]
    world.close()
    with switched_world(domain, f"incentive_ended:{code}") as (_, call):
        assert call("list_incentives", stock=CAR.stock)["best"] != code
        with pytest.raises(ToolError, match="no incentive"):
            call("quote_price", stock=CAR.stock, incentive=code)


@pytest.mark.parametrize("name", ["closed_day:someday", "vehicle_sold:N0000", "incentive_ended:NONE"])
def test_a_switch_about_nothing_is_refused(domain: Domain, name: str) -> None:
    with pytest.raises(ToolError), switched_world(domain, name):
        pass


def test_the_number_to_call_is_kept_with_the_booking(domain: Domain) -> None:
    world = AutomotiveWorld(1)
    tools = domain.under(["phone_for_drives"]).tools
    day, time = next(slot for slot in _free(world, tools))
    made = tools["book_test_drive"].function(world, **{**BOOKING, "day": day, "time": time}, phone="555-0100")
    query = select(BOOKINGS.c.phone).where(BOOKINGS.c.reference == made["reference"])
    assert list(world.connection.scalars(query)) == ["555-0100"]
    world.close()


def _free(world: AutomotiveWorld, tools: Any) -> Iterator[tuple[str, str]]:
    for row in DATA.hours:
        for hour in range(9, 18):
            slot = (row.day, f"{hour:02d}:00")
            if tools["check_slot"].function(world, stock=CAR.stock, day=slot[0], time=slot[1])["free"]:
                yield slot


@pytest.mark.parametrize("pack", PACKS)
@pytest.mark.parametrize("split", ["train", "heldout"])
def test_a_mix_has_every_kind_equally_and_each_switch_in_time(pack: str, split: str) -> None:
    domain = load_domain(pack)
    scenarios = domain.source("switches")(60, 1, split)
    assert list(domain.source("switches")(10, 1, split)) == list(scenarios)[:10]
    assert len({scenario.sid for scenario in scenarios}) == 60
    firsts = Counter(found(domain.switches, s.switches[0].name)[0].kind for s in scenarios)
    offered = {switch.kind for switch in domain.switches.values()}
    assert set(firsts) == offered
    assert max(firsts.values()) - min(firsts.values()) <= 1
    for scenario in scenarios:
        assert all(1 <= planned.turn <= len(scenario.goals) for planned in scenario.switches)
    assert any(len(scenario.switches) == 2 for scenario in scenarios)


def draw(goals: list[Goal], kind: Any, seed: int = 0) -> tuple[list[Goal], list[str], list[int]]:
    drawn, switches = automotive.draw_switches(random.Random(seed), 1, goals, kind)
    return drawn, [planned.name for planned in switches], [planned.turn for planned in switches]


def test_a_car_that_sells_has_a_second_choice_which_is_the_end() -> None:
    (goal,), names, turns = draw([DRIVE], "stock")
    assert (names, turns) == ([f"vehicle_sold:{CAR.stock}"], [1])
    other = goal.slots["else_stock"]
    assert goal.expect == {"booking": {**BOOKING, "stock": other}}
    assert other != CAR.stock


@pytest.mark.parametrize("seed", range(6))
def test_changed_hours_take_the_first_wish_away_and_leave_the_second(seed: int) -> None:
    (goal,), (name,), _ = draw([DRIVE], "hours", seed)
    after = {"day": goal.slots["day"], "time": goal.slots["time"], **_second(goal)}
    assert {key: goal.expect["booking"][key] for key in ("day", "time")} == after
    if name == "closed_day:friday":
        assert after["day"] != "friday"
    else:
        assert (name, after["day"]) == ("early_closing:friday", "friday")
        assert after["time"] < "12:00" <= goal.slots["time"]


def _second(goal: Goal) -> Json:
    return {name[5:]: value for name, value in goal.slots.items() if name.startswith("else_")}


def test_a_new_argument_is_something_that_the_customer_can_tell() -> None:
    (goal,), names, _ = draw([DRIVE], "argument")
    assert names == ["phone_for_drives"]
    arguments = {**BOOKING, "phone": goal.slots["phone"]}
    assert goal.expect["activities"] == [{"tool": "book_test_drive", "arguments": arguments}]


def test_what_nothing_fits_stays_as_it_was() -> None:
    assert draw([HOURS], None) == ([HOURS], [], [])  # it may be answered before anything can have changed
    other = DRIVE.model_copy(update={"slots": {**BOOKING, "mind_time": "16:00"}})
    assert draw([other], "stock") == ([other], [], [])
    keeping = Goal(intent="reserve_vehicle", slots={"stock": CAR.stock, "name": "A B", "phone": "555-0100"}, expect={})
    assert draw([DRIVE, keeping], "stock") == ([DRIVE, keeping], [], [])
    elsewhere = Goal(intent="move_delivery", slots={"order": "P1", "name": "A B", "day": "friday"}, expect={})
    assert draw([DRIVE, elsewhere], "hours") == ([DRIVE, elsewhere], [], [])


def test_any_kind_may_be_asked_for() -> None:
    names = {draw([HOURS, DRIVE], None, seed)[1][0].partition(":")[0] for seed in range(60)}
    assert {"vehicle_sold", "phone_for_drives", "drives_of_available_cars"} <= names
    assert {"closed_day", "early_closing"} & names
    assert len(KINDS) == 6
