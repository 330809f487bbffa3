"""What the error-free Explainer says for a frame: one line, facts copied from the results in their own order.

One wording for each case on purpose: the reply is a plain function of the frame, so that a very small student can
learn it. The replies to several requests follow each other; what is the same in both is said once.
"""

import json
from collections.abc import Callable

from agentmill.domains.base import Json
from agentmill.domains.kit.policy import Frame
from agentmill.domains.kit.talk import small_talk

OUT_OF_SCOPE = "I am sorry, I can only help with our books, loans, holds, fines and opening hours."
PRIVATE = "I am sorry, I may speak with readers about their own card alone."
UNCLEAR = "I am sorry, I could not look that up. Could you say it in other words?"
UNKNOWN_READER = "I cannot match this card number and PIN."


def explain(frame: Frame) -> str:
    """The error-free reply to an Explainer's frame.

    Raises:
        ValueError: for an intent that it does not know.
    """
    requests = (frame.get("intent", "none"), *filter(None, frame.get("also", "").split(", ")))
    results = json.loads(frame.get("results", "{}"))
    unknown = [name for name in requests if name not in _REPLIES]
    if unknown:
        raise ValueError(f"intent={unknown[0]!r} is unknown: use one of {', '.join(_REPLIES)}")
    replies = [_REPLIES[name](frame, results) for name in requests]
    return " ".join(dict.fromkeys(filter(None, replies))) or UNCLEAR


def _small_talk(frame: Frame, results: Json) -> str:
    return small_talk(frame.get("customer", ""))


def _find_books(frame: Frame, results: Json) -> str:
    books = results.get("books", [])
    if not books:
        return "I am sorry, I found nothing that fits."
    listed = [f"{row['book']}, {row['title']} by {row['author']}" for row in books]
    return f"I found {'; '.join(listed)}."


def _book_details(frame: Frame, results: Json) -> str:
    book = results.get("found", {})
    if not book.get("found"):
        return _no_book(frame["book"])
    copies = f"{book['in']} of {book['copies']} copies {'is' if book['in'] == 1 else 'are'} in"
    where = "" if book["lendable"] else ", to be read in the reading room"
    told = f"{book['title']} by {book['author']} from {book['year']}, on {book['subject']}"
    return f"{frame['book']} is {told}; {copies}{where}."


def _place_hold(frame: Frame, results: Json) -> str:
    account, copy = results.get("account"), results.get("copy")
    if account is None or copy is None:
        return _not_reached(results)
    title = copy.get("title", "")
    if copy.get("reason") == "unknown":
        return _no_book(_book_of(frame, results))
    if not account["within_limit"]:
        return f"You have {account['holds']} holds already, so another one is not possible."
    if not account["clear"]:
        return _owes(account)
    if copy.get("reason"):
        why = "is not lent, it stays in the reading room" if copy["reason"] == "reading room" else "is out"
        return f"{title} {why}, so it is not possible to set it aside."
    if "hold" in results:
        return f"Done, a copy of {title} is set aside for you. The number of your hold is {results['hold']['hold']}."
    return f"A copy of {title}, {_book_of(frame, results)}, is in. Shall I set it aside for you?"


def _cancel_hold(frame: Frame, results: Json) -> str:
    found = results.get("found")
    if found is None:
        return _not_reached(results)
    if not found["found"]:
        return f"There is no hold {frame['hold']} on your card, so cancelling is not possible."
    if "done" in results:
        return f"Done, hold {frame['hold']} is cancelled."
    if not results.get("account", {"clear": True})["clear"]:
        return _owes(results["account"])
    return f"Hold {frame['hold']} is for {found['title']}. Shall I cancel it?"


def _renew_loan(frame: Frame, results: Json) -> str:
    account, renewal = results.get("account"), results.get("renewal")
    if account is None or renewal is None:
        return _not_reached(results)
    if not account["clear"]:
        return _owes(account)
    match renewal.get("reason"):
        case "unknown":
            return f"{_book_of(frame, results)} is not on loan to you, so renewing is not possible."
        case "wanted":
            return f"Another reader has a hold on {renewal['title']}, so renewing is not possible."
        case "too often":
            return f"{renewal['title']} was renewed too often already, so renewing is not possible."
    if frame.get("confirmed") == "yes" and "loan" not in results and not account["within_limit"]:
        return f"You have {account['holds']} holds already, so renewing is not possible."
    if "loan" in results:
        return f"Done, {renewal['title']} is renewed until {results['loan']['due']}."
    return f"{renewal['title']}, {_book_of(frame, results)}, is due on {renewal['due']}. Shall I renew it?"


def _my_loans(frame: Frame, results: Json) -> str:
    if "loans" not in results:
        return _not_reached(results)
    loans = [f"{row['book']}, {row['title']}, due on {row['due']}" for row in results["loans"]]
    return f"You have on loan: {'; '.join(loans)}." if loans else "You have nothing on loan."


def _my_fines(frame: Frame, results: Json) -> str:
    if "fines" not in results:
        return _not_reached(results)
    return f"You owe ${results['fines']['amount']}." if results["fines"]["amount"] else "You owe nothing."


def _pay_fine(frame: Frame, results: Json) -> str:
    payment = results.get("payment")
    if payment is None:
        return _not_reached(results)
    amount = frame["amount"] if "amount" in frame else results["fines"]["amount"]
    if not payment["owed"]:
        return "You owe nothing, so a payment is not possible."
    if "receipt" in results:
        receipt = results["receipt"]
        return f"Done, you have paid ${amount}. Your receipt is {receipt['receipt']}, and ${receipt['left']} are left."
    if not payment["allowed"]:
        return f"You owe ${payment['owed']}, so a payment of ${amount} is not possible."
    return f"Shall I take ${amount} of the ${payment['owed']} that you owe?"


def _opening_hours(frame: Frame, results: Json) -> str:
    hours, day = results.get("hours", {}), frame["day"].capitalize()
    if not hours.get("open"):
        return f"On {day} we are closed."
    return f"On {day} we are open from {hours['from']} to {hours['to']}."


def _not_reached(results: Json) -> str:
    """Why a reader's own part of a plan did not run; "" where another reply has said it."""
    return "" if results.get("reader", {}).get("valid") else UNKNOWN_READER


def _no_book(book: str) -> str:
    return f"I cannot find a book with the number {book}."


def _owes(account: Json) -> str:
    return f"You owe ${account['owed']}, so borrowing is not possible before you have paid."


def _book_of(frame: Frame, results: Json) -> str:
    """The book that is spoken about: the customer's, or the first that another request has supplied."""
    listed = results.get("books") or results.get("loans") or [{"book": ""}]
    return frame["book"] if "book" in frame else str(listed[0]["book"])


_REPLIES: dict[str, Callable[[Frame, Json], str]] = {
    "find_books": _find_books,
    "book_details": _book_details,
    "place_hold": _place_hold,
    "cancel_hold": _cancel_hold,
    "renew_loan": _renew_loan,
    "my_loans": _my_loans,
    "my_fines": _my_fines,
    "pay_fine": _pay_fine,
    "opening_hours": _opening_hours,
    "small_talk": _small_talk,
    "out_of_scope": lambda frame, results: OUT_OF_SCOPE,
    "private_data": lambda frame, results: PRIVATE,
}
