"""How the library may change while a reader talks to it: its world, its tools and its rules. Tables only.

What a scenario makes of them is drawn in `switched`.
"""

from collections.abc import Mapping, Sequence

from sqlalchemy import select, update

from agentmill.domains.base import Intent, Json, Rule, Tool, ToolError, tool
from agentmill.domains.kit.rules import grounded_arguments
from agentmill.domains.library_desk import tools as desk
from agentmill.domains.library_desk.rules import only_under
from agentmill.domains.library_desk.schema import BOOKS, HOLDS, HOURS
from agentmill.domains.library_desk.world import LibraryWorld
from agentmill.domains.switching import Switch

RENAMES = {
    "search_catalogue": "find_titles", "get_book": "describe_book", "check_reader": "confirm_reader",
    "check_account": "account_status", "check_copy": "copy_status", "place_hold": "set_aside",
    "find_hold": "look_up_hold", "cancel_hold": "release_hold", "list_loans": "loans_of_reader",
    "check_renewal": "renewal_status", "renew_loan": "extend_loan", "fines_owed": "open_fines",
    "check_payment": "payment_status", "pay_fine": "take_payment", "opening_hours": "desk_hours",
}  # fmt: skip
BOOK_NAMED, CLEAR_FIRST, LIMIT_FIRST = "book_for_cancellations", "clear_for_cancellations", "limit_for_renewals"


@tool(changes=True)
def cancel_hold(world: LibraryWorld, *, hold: str, card: str, book: str) -> Json:
    """Cancel a reader's live hold by its number and that of its book."""
    if world.connection.scalar(select(HOLDS.c.book).where(HOLDS.c.hold == hold)) != book:
        raise ToolError(f"the hold {hold} is not for {book}; ask for the book again")
    done: Json = desk.cancel_hold.function(world, hold=hold, card=card)
    return done


def _closed(world: LibraryWorld, day: str) -> None:
    if world.connection.execute(update(HOURS).where(HOURS.c.day == day).values(opens=None, closes=None)).rowcount != 1:
        raise ToolError(f"there is no day {day}")


def _withdrawn(world: LibraryWorld, book: str) -> None:
    if world.connection.execute(update(BOOKS).where(BOOKS.c.book == book).values(lendable=False)).rowcount != 1:
        raise ToolError(f"there is no book {book}")


def _all_said(tools: Mapping[str, Tool], intents: Mapping[str, Intent]) -> Sequence[Rule]:
    return (grounded_arguments(tools, intents),)


def _clear_first(tools: Mapping[str, Tool], intents: Mapping[str, Intent]) -> Sequence[Rule]:
    described = "A hold is cancelled only under an if on check_account's clear."
    return (only_under("CLEAR_FIRST", described, ("cancel_hold",), "check_account", "clear", "card"),)


def _limit_first(tools: Mapping[str, Tool], intents: Mapping[str, Intent]) -> Sequence[Rule]:
    described = "A loan is renewed only under an if on check_account's within_limit."
    return (only_under("RENEWAL_LIMIT", described, ("renew_loan",), "check_account", "within_limit", "card"),)


_SWITCHES = (
    Switch("closed_day", "hours", "On {value} the library is closed from now on.", _closed),
    Switch(
        "book_withdrawn", "stock", "The book {value} is not lent any more, it stays in the reading room.", _withdrawn
    ),
    Switch(
        BOOK_NAMED,
        "argument",
        "cancel_hold needs one more argument: book, the number of the book that the hold is for.",
        tools={"cancel_hold": cancel_hold},
        asks={"cancel_hold": ("book",)},
        rules=_all_said,
    ),
    Switch(
        CLEAR_FIRST,
        "rule",
        "New rule CLEAR_FIRST: a hold is cancelled only under an if on check_account's clear.",
        serves={"cancel_hold": ("check_account",)},
        rules=_clear_first,
    ),
    Switch(
        LIMIT_FIRST,
        "rule",
        "New rule RENEWAL_LIMIT: a loan is renewed only under an if on check_account's within_limit.",
        rules=_limit_first,
    ),
    *(
        Switch(f"{old}_renamed", "rename", f"The tool {old} is called {new} from now on.", renames={old: new})
        for old, new in RENAMES.items()
    ),
)
SWITCHES: dict[str, Switch] = {switch.name: switch for switch in _SWITCHES}
