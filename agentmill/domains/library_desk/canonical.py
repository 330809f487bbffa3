"""What the error-free Planner writes for a dialogue state: one canonical plan for its requests, as text.

Whatever is a reader's own stands under one `if` on the reader's identity. A request that takes something from another
one refers to that one's result: the first of the books found, the amount that is owed.
"""

from collections.abc import Sequence
from typing import Any

from agentmill.domains.kit.writing import call
from agentmill.domains.library_desk.switches import BOOK_NAMED, CLEAR_FIRST, LIMIT_FIRST

Known = dict[str, Any]
Lines = list[str]


def canonical_plan(requests: Sequence[str], known: Known, *, confirmed: bool, switches: Sequence[str] = ()) -> str:
    """The plan for a state with `switches` in force; without `confirmed` it only checks.

    Raises:
        ValueError: for requests that have no plan.
    """
    parts = [_Part(requests, known, confirmed, switches).lines(name) for name in requests]
    lines = [line for open_lines, _ in parts for line in open_lines]
    own = [line for _, own_lines in parts for line in own_lines]
    if own:
        found_first = "books and " if "search_catalogue(" in "".join(lines) else ""
        lines.append(f"reader = {call('check_reader', known, 'card', 'pin')}")
        lines += [f'if {found_first}reader["valid"]:', *_indented(own)]
    return "\n".join(lines)


class _Part:
    """The lines of one request among `requests`: those for everybody, and those for the reader whose card it is."""

    def __init__(self, requests: Sequence[str], known: Known, confirmed: bool, switches: Sequence[str]) -> None:
        self.requests, self.known, self.confirmed, self.switches = requests, known, confirmed, switches

    def lines(self, name: str) -> tuple[Lines, Lines]:
        """The lines of the request `name`."""
        known = self.known
        match name:
            case "find_books":
                return [f"books = {call('search_catalogue', known, 'author', 'subject')}"], []
            case "book_details":
                return [f"found = {call('get_book', known, 'book')}"], []
            case "opening_hours":
                return [f"hours = {call('opening_hours', known, 'day')}"], []
            case "my_loans":
                return [], [f"loans = {call('list_loans', known, 'card')}"]
            case "my_fines":
                return [], [f"fines = {call('fines_owed', known, 'card')}"]
            case "place_hold":
                return [], self._hold()
            case "cancel_hold":
                return [], self._cancellation()
            case "renew_loan":
                return [], self._renewal()
            case "pay_fine":
                return [], self._payment()
            case _:
                raise ValueError(f"intent={name!r} has no plan: only intents with tools are planned")

    def _with(self, tool: str, *names: str) -> str:
        """A call with its known arguments; what another request supplies is taken from that one's result."""
        taken = {"book": "loans" if "my_loans" in self.requests else "books", "amount": "fines"}
        places = {"book": f'{taken["book"]}[0]["book"]', "amount": f'{taken["amount"]}["amount"]'}
        supplied = {name: places[name] for name in names if name in places and name not in self.known}
        return call(tool, self.known, *names, **supplied)

    def _guarded(self, condition: str, line: str) -> Lines:
        return [f"if {condition}:", f"    {line}"] if self.confirmed else []

    def _hold(self) -> Lines:
        lines = [f"account = {self._with('check_account', 'card')}", f"copy = {self._with('check_copy', 'book')}"]
        condition = 'account["within_limit"] and account["clear"] and copy["holdable"]'
        return lines + self._guarded(condition, f"hold = {self._with('place_hold', 'book', 'card')}")

    def _cancellation(self) -> Lines:
        lines = [f"found = {self._with('find_hold', 'hold', 'card')}"]
        names, condition = ["hold", "card"], 'found["found"]'
        if BOOK_NAMED in self.switches:
            names.append("book")
        if CLEAR_FIRST in self.switches:
            lines.append(f"account = {self._with('check_account', 'card')}")
            condition += ' and account["clear"]'
        return lines + self._guarded(condition, f"done = {self._with('cancel_hold', *names)}")

    def _renewal(self) -> Lines:
        lines = [
            f"account = {self._with('check_account', 'card')}",
            f"renewal = {self._with('check_renewal', 'book', 'card')}",
        ]
        condition = 'account["clear"] and renewal["allowed"]'
        if LIMIT_FIRST in self.switches:
            condition = f'account["within_limit"] and {condition}'
        lines += self._guarded(condition, f"loan = {self._with('renew_loan', 'book', 'card')}")
        return ["if loans:", *_indented(lines)] if "book" not in self.known else lines

    def _payment(self) -> Lines:
        lines = [f"payment = {self._with('check_payment', 'card', 'amount')}"]
        return lines + self._guarded('payment["allowed"]', f"receipt = {self._with('pay_fine', 'card', 'amount')}")


def _indented(lines: Lines) -> Lines:
    return [f"    {line}" for line in lines]
