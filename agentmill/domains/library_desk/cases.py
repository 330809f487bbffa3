"""For every rule a plan that breaks it and nothing else, and one that keeps it: `agentmill domain check` runs them."""

from agentmill.agents.state import DialogueState
from agentmill.domains.base import Json, RuleCase, Situation
from agentmill.domains.library_desk.canonical import canonical_plan
from agentmill.domains.library_desk.intents import INTENTS

VALUES: Json = {
    "author": "Ada Lehmann", "subject": "poetry", "book": "B2047", "hold": "H20481", "amount": 7,
    "card": "C204816", "pin": "0417", "day": "friday",
}  # fmt: skip
READER = 'reader = check_reader(card="C204816", pin="0417")\nif reader["valid"]:\n'
CHECKS = '    account = check_account(card="C204816")\n    copy = check_copy(book="B2047")\n'
HOLD = '        hold = place_hold(book="B2047", card="C204816")'
RENEWAL = (
    '    account = check_account(card="C204816")\n    renewal = check_renewal(book="B2047", card="C204816")\n'
    '    if {test}:\n        loan = renew_loan(book="B2047", card="C204816")'
)
_BROKEN: dict[str, tuple[str, str]] = {
    "CONFIRM_FIRST": (
        "place_hold",
        f'{READER}{CHECKS}    if account["within_limit"] and account["clear"] and copy["holdable"]:\n{HOLD}',
    ),
    "IDENTITY_FIRST": ("my_loans", 'loans = list_loans(card="C204816")'),
    "HOLD_LIMIT": ("place_hold", f'{READER}{CHECKS}    if account["clear"] and copy["holdable"]:\n{HOLD}'),
    "FINE_LIMIT": ("renew_loan", READER + RENEWAL.format(test='renewal["allowed"]')),
    "COPY_CHECK": ("place_hold", f'{READER}{CHECKS}    if account["clear"] and account["within_limit"]:\n{HOLD}'),
    "RENEWAL_CHECK": ("renew_loan", READER + RENEWAL.format(test='account["clear"]')),
    "OWN_HOLD": ("cancel_hold", f'{READER}    done = cancel_hold(hold="H20481", card="C204816")'),
    "PAYMENT_LIMIT": (
        "pay_fine",
        f'{READER}    payment = check_payment(card="C204816", amount=7)\n'
        '    if payment["owed"]:\n        receipt = pay_fine(card="C204816", amount=7)',
    ),
    "GROUNDED_ARGUMENT": ("find_books", 'books = search_catalogue(author="Ada Lehmann", subject="crime")'),
    "ONE_CHANGE": (
        "cancel_hold",
        f'{READER}    found = find_hold(hold="H20481", card="C204816")\n    if found["found"]:\n'
        '        a = cancel_hold(hold="H20481", card="C204816")\n'
        '        b = cancel_hold(hold="H20481", card="C204816")',
    ),
}


def known(*requests: str, confirmed: bool, without: tuple[str, ...] = ()) -> DialogueState:
    """The state in which everything that the requests need is known, but for what one supplies to another."""
    intents = [INTENTS[name] for name in requests]
    slots = dict.fromkeys(slot for intent in intents for slot in intent.required + intent.optional)
    entities = {name: VALUES[name] for name in slots if name not in without}
    return DialogueState(intent=requests[0], also=requests[1:], entities=entities, confirmed=confirmed)


def due(*requests: str, confirmed: bool, without: tuple[str, ...] = ()) -> Situation:
    """The plan that is due in that state."""
    state = known(*requests, confirmed=confirmed, without=without)
    return Situation(canonical_plan(requests, state.entities, confirmed=confirmed), state)


def _case(code: str, intent: str, plan: str) -> RuleCase:
    confirmed = code != "CONFIRM_FIRST"
    return RuleCase(Situation(plan, known(intent, confirmed=confirmed)), due(intent, confirmed=confirmed))


CASES: dict[str, RuleCase] = {code: _case(code, intent, plan) for code, (intent, plan) in _BROKEN.items()}
