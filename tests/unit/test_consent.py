"""The customer's word at the Executor's boundary: whoever let a plan through, it changes what was confirmed, once."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from agentmill.agents.contracts import ExecutorTask
from agentmill.agents.executor import Executor
from agentmill.agents.state import DialogueState
from agentmill.domains.automotive.seed import world_data
from agentmill.domains.base import Json, load_domain
from agentmill.plans.sandbox import Sandbox

DOMAIN = load_domain("automotive")
DATA = world_data(1)
TAKEN = next(row for row in DATA.bookings if row.time == "12:00")
DRIVER = next(person for person in DATA.customers if person.valid)
DRIVE = {
    "stock": TAKEN.stock, "day": TAKEN.day, "time": TAKEN.time, "name": DRIVER.name, "licence": DRIVER.licence,
}  # fmt: skip
MINE, OTHER = DATA.bookings[0].reference, DATA.bookings[1].reference


@pytest_asyncio.fixture
async def executor() -> AsyncIterator[Executor]:
    async with Sandbox(processes=1) as sandbox:
        yield Executor(DOMAIN, sandbox)


def confirmed(*requests: str, **entities: str) -> DialogueState:
    return DialogueState(intent=requests[0], also=requests[1:], entities=entities, confirmed=True)


async def ran(executor: Executor, plan: str, state: DialogueState) -> tuple[str, Json]:
    """What stopped a plan that nobody checked ("" if nothing did), and the world after it."""
    await executor.open("s", 1)
    result = await executor.run(ExecutorTask(session="s", plan=plan, state=state))
    world = await executor.snapshot("s")
    await executor.close("s")
    return result.error or "", world


async def test_what_was_confirmed_is_done(executor: Executor) -> None:
    error, world = await ran(
        executor, f'cancel_booking(reference="{MINE}")', confirmed("cancel_test_drive", reference=MINE)
    )
    assert (error, world["cancelled"]) == ("", [MINE])


async def test_another_value_than_the_confirmed_one_is_refused(executor: Executor) -> None:
    error, world = await ran(
        executor, f'cancel_booking(reference="{OTHER}")', confirmed("cancel_test_drive", reference=MINE)
    )
    assert error == f"CONFIRM_FIRST: cancel_booking got another reference than the '{MINE}' that was confirmed"
    assert (world["cancelled"], world["activity"]) == ([], [])


async def test_a_result_does_not_take_the_place_of_what_was_confirmed(executor: Executor) -> None:
    """The confirmed hour was lost meanwhile: a plan that takes the next free one books what nobody agreed to."""
    names = ", ".join(f'{name}="{DRIVE[name]}"' for name in ("stock", "day"))
    plan = f"""lost = check_slot({names}, time="12:00")
slot = check_slot({names}, time=lost["instead"][0])
check = verify_licence(name="{DRIVE["name"]}", licence="{DRIVE["licence"]}")
if slot["free"] and check["verified"]:
    book_test_drive({names}, time=lost["instead"][0], name="{DRIVE["name"]}", licence="{DRIVE["licence"]}")"""
    error, world = await ran(executor, plan, confirmed("book_test_drive", **DRIVE))
    assert "got another time than the '12:00' that was confirmed" in error
    assert world["bookings"] == []


async def test_a_change_is_made_once_however_often_a_plan_repeats_it(executor: Executor) -> None:
    state = confirmed("leave_contact", name=DRIVER.name, phone="555-0100")
    once = f'capture_lead(name="{DRIVER.name}", phone="555-0100")'
    error, world = await ran(executor, f"{once}\n{once}", state)
    assert error == "CONFIRM_FIRST: capture_lead was confirmed once and is called again"
    assert world["leads"] == []


@pytest.mark.parametrize("requests", [("cancel_test_drive",), ("check_booking", "cancel_test_drive")])
async def test_nothing_is_done_without_the_customers_word(executor: Executor, requests: tuple[str, ...]) -> None:
    state = confirmed(*requests, reference=MINE).model_copy(update={"confirmed": False})
    error, world = await ran(executor, f'cancel_booking(reference="{MINE}")', state)
    assert error.startswith("CONFIRM_FIRST: cancel_booking changes the world before")
    assert world["cancelled"] == []
