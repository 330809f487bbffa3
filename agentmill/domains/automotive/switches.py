"""How the dealership may change while a customer talks to it: its world, its tools and its rules. Tables only.

What a scenario makes of them is drawn in `switched`.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sqlalchemy import delete, update

from agentmill.agents.state import DialogueState
from agentmill.domains.automotive.rules import LOWERED, Guard
from agentmill.domains.automotive.schema import HOURS, INCENTIVES, VEHICLES
from agentmill.domains.automotive.tools import later
from agentmill.domains.automotive.world import AutomotiveWorld
from agentmill.domains.base import Intent, Json, Rule, Tool, ToolError
from agentmill.domains.kit.rules import grounded_arguments
from agentmill.domains.switching import Switch

if TYPE_CHECKING:
    from agentmill.plans.parse import Plan

NOON = "12:00"
RENAMES = {
    "search_inventory": "find_cars", "get_vehicle": "describe_car", "compare_vehicles": "put_side_by_side",
    "check_availability": "sales_status", "reserve_vehicle": "hold_car", "quote_price": "make_offer",
    "finance_quote": "monthly_payment", "estimate_trade_in": "appraise_car", "check_slot": "drive_slot",
    "book_test_drive": "reserve_test_drive", "find_booking": "look_up_booking", "move_booking": "shift_booking",
    "cancel_booking": "withdraw_booking", "check_service_slot": "workshop_slot", "book_service": "schedule_service",
    "cancel_service": "withdraw_service", "find_order": "track_order", "move_delivery": "shift_delivery",
    "opening_hours": "business_hours", "directions": "way_here", "capture_lead": "note_callback",
}  # fmt: skip


def _closed(world: AutomotiveWorld, day: str) -> None:
    _changed(world, update(HOURS).where(HOURS.c.day == day).values(opens=None, closes=None), f"there is no day {day}")


def _closing_early(world: AutomotiveWorld, day: str) -> None:
    query = update(HOURS).where(HOURS.c.day == day, HOURS.c.opens < NOON, HOURS.c.closes > NOON)
    _changed(world, query.values(closes=NOON), f"{day} has no hours after {NOON}")


def _sold(world: AutomotiveWorld, stock: str) -> None:
    _changed(world, update(VEHICLES).where(VEHICLES.c.stock == stock).values(status="sold"), f"there is no car {stock}")


def _ended(world: AutomotiveWorld, code: str) -> None:
    _changed(world, delete(INCENTIVES).where(INCENTIVES.c.code == code), f"there is no incentive {code}")


def _changed(world: AutomotiveWorld, statement: object, otherwise: str) -> None:
    """Run a statement that must change one row.

    Raises:
        ToolError: with the sentence `otherwise` when it did not.
    """
    if world.connection.execute(statement).rowcount != 1:  # type: ignore[call-overload]
        raise ToolError(otherwise)


def _all_said(tools: Mapping[str, Tool], intents: Mapping[str, Intent]) -> Sequence[Rule]:
    """What is needed in addition is said by the customer too, so it may and must be passed on."""
    return (grounded_arguments(tools, intents, lowered=LOWERED),)


def _available_drive(tools: Mapping[str, Tool], intents: Mapping[str, Intent]) -> Sequence[Rule]:
    described = "A test drive is booked only under an if on check_availability's available."
    check = Guard("book_test_drive", "check_availability", "available", ("stock",))
    return (Rule("AVAILABLE_DRIVE", described, check),)


def _licensed_move(tools: Mapping[str, Tool], intents: Mapping[str, Intent]) -> Sequence[Rule]:
    described = "A test drive is moved only under an if on verify_licence's verified, for its driver."
    return (*_all_said(tools, intents), Rule("LICENSED_MOVE", described, _licence_shown))


def _licence_shown(plan: "Plan", state: DialogueState, facts: Json) -> str | None:
    for call in plan.calls:
        if call.tool == "move_booking" and not any(
            earlier.tool == "verify_licence" and said == "verified" for earlier, said in call.proven
        ):
            return 'Call verify_licence for the driver first and move_booking only under an if on its "verified".'
    return None


_SWITCHES = (
    Switch("closed_day", "hours", "On {value} we are closed from now on.", _closed),
    Switch("early_closing", "hours", "On {value} we close at 12:00 from now on.", _closing_early),
    Switch("vehicle_sold", "stock", "The car {value} has been sold.", _sold),
    Switch("incentive_ended", "incentive", "The incentive {value} has ended.", _ended),
    Switch(
        "phone_for_drives",
        "argument",
        "book_test_drive needs one more argument: phone, the customer's telephone number.",
        tools={"book_test_drive": later.book_test_drive},
        asks={"book_test_drive": ("phone",)},
        rules=_all_said,
    ),
    Switch(
        "phone_for_deliveries",
        "argument",
        "move_delivery needs one more argument: phone, the customer's telephone number.",
        tools={"move_delivery": later.move_delivery},
        asks={"move_delivery": ("phone",)},
        rules=_all_said,
    ),
    Switch(
        "drives_of_available_cars",
        "rule",
        "New rule AVAILABLE_DRIVE: a test drive is booked only under an if on check_availability's available.",
        serves={"book_test_drive": ("check_availability",)},
        rules=_available_drive,
    ),
    Switch(
        "licence_for_moves",
        "rule",
        "New rule LICENSED_MOVE: a test drive is moved only under an if on verify_licence's verified, for the name "
        "and licence of its driver.",
        asks={"move_test_drive": ("name", "licence")},
        serves={"move_test_drive": ("verify_licence",)},
        rules=_licensed_move,
    ),
    *(
        Switch(f"{old}_renamed", "rename", f"The tool {old} is called {new} from now on.", renames={old: new})
        for old, new in RENAMES.items()
    ),
)
SWITCHES: dict[str, Switch] = {switch.name: switch for switch in _SWITCHES}
