"""For every rule a plan that breaks it and nothing else, and one that keeps it: `agentmill domain check` runs them."""

from typing import Any

from agentmill.agents.state import DialogueState
from agentmill.domains.automotive.canonical import canonical_plan
from agentmill.domains.automotive.intents import names_of
from agentmill.domains.base import Json, RuleCase, Situation

FACTS: Json = {
    "hours": {"monday": ["09:00", "18:00"], "friday": ["09:00", "18:00"], "sunday": None},
    "limits": {
        "max_discount": 5, "min_down_payment": 1000, "max_trade_in_age": 15, "max_trade_in_mileage": 150_000,
    },
}  # fmt: skip
VALUES: Json = {
    "stock": "N4821", "other_stock": "K2207", "day": "friday", "time": "15:00", "name": "Ana Brankovic",
    "licence": "D4471902", "phone": "555-0123", "reference": "T20817", "make": "Honda", "model": "Civic",
    "body": "suv", "fuel": "diesel", "max_price": 30000, "year": 2016, "mileage": 84000, "condition": "good",
    "discount": 4, "score": 720, "term": 48, "down_payment": 3000, "order": "P48213", "plate": "KLM4821",
    "service": "brakes", "place": "airport", "vin": "WVWZZZ1KZAW123456",
}  # fmt: skip
_BOTH = 'if slot["free"] and check["verified"]:'


def situation(plan: str, *requests: str, confirmed: bool = True, **changed: Any) -> Situation:
    """A plan for requests about which everything is known; `changed` values are other ones, None an unknown one."""
    known = {name: changed.get(name, VALUES[name]) for name in names_of(*requests)}
    entities = {name: value for name, value in known.items() if value is not None}
    state = DialogueState(intent=requests[0], also=requests[1:], entities=entities, confirmed=confirmed)
    return Situation(plan, state, FACTS)


def due(*requests: str, confirmed: bool = True, **changed: Any) -> Situation:
    """The plan that is due for requests."""
    state = situation("", *requests, confirmed=confirmed, **changed).state
    return situation(
        canonical_plan(requests, state.entities, confirmed=confirmed), *requests, confirmed=confirmed, **changed
    )


def _edited(keeps: Situation, *edits: tuple[str, str]) -> RuleCase:
    """The case of a plan that is right and, with `edits`, breaks the rule."""
    text = keeps.plan
    for old, new in edits:
        assert old in text, (old, text)
        text = text.replace(old, new)
    return RuleCase(Situation(text, keeps.state, keeps.facts), keeps)


def _wished(intent: str, **wish: Any) -> RuleCase:
    """The case of a wish that the rule forbids: its plan breaks the rule, with other values it keeps it."""
    rest: Json = {"vin": None} if intent == "value_trade_in" and "vin" not in wish else {}
    return RuleCase(due(intent, **{**rest, **wish}), due(intent, **rest))


_DRIVE, _MOVE, _DELIVERY = due("book_test_drive"), due("move_test_drive"), due("move_delivery")
_OFFER = due("price_offer", discount=None)
_OTHER_DEAL = 'deals = quote_price(stock="N4821")\ndeal = '
_OTHER_RATE = "rates = finance_terms()\nrate = "
_TWICE = """visit = find_service(reference="W20817")
if visit["found"]:
    done = cancel_service(reference="W20817")"""
_CANCEL = situation(_TWICE, "cancel_service", reference="W20817")

CASES: dict[str, RuleCase] = {
    "CONFIRM_FIRST": RuleCase(
        situation(_DRIVE.plan, "book_test_drive", confirmed=False), due("book_test_drive", confirmed=False)
    ),
    "LICENCE_CHECK": _edited(_DRIVE, (_BOTH, 'if slot["free"]:')),
    "SLOT_CHECK": _edited(_DRIVE, (_BOTH, 'if check["verified"]:')),
    "OPENING_HOURS": _wished("book_test_drive", time="20:00"),
    "GROUNDED_ARGUMENT": _edited(due("directions"), ("airport", "station")),
    "ONE_CHANGE": _edited(_CANCEL, (_TWICE, f'{_TWICE}\n    again = cancel_service(reference="W20817")')),
    "NO_CHANGE_IN_LOOP": _edited(_CANCEL, ("    done", "    for name in visit:\n        done")),
    "CANCEL_LOOKUP": _edited(due("cancel_test_drive"), ('if booking["found"]:\n    done', "done")),
    "MOVE_LOOKUP": _edited(
        _MOVE,
        ('if booking["found"]:\n    slot', "slot"),
        ('    if slot["free"]:\n        moved', 'if slot["free"]:\n    moved'),
    ),
    "MOVE_SLOT_CHECK": _edited(_MOVE, ('    if slot["free"]:\n        moved', "    moved")),
    "AVAILABILITY_CHECK": _edited(due("reserve_vehicle"), ('if status["available"]:\n    kept', "kept")),
    "DISCOUNT_LIMIT": _wished("price_offer", discount=15),
    "NO_STACKING": RuleCase(
        situation(
            'deal = list_incentives(stock="N4821")\n'
            'offer = quote_price(stock="N4821", discount=4, incentive=deal["best"])',
            "price_offer",
        ),
        due("price_offer"),
    ),
    "INCENTIVE_LISTED": _edited(_OFFER, ('deal["best"]', 'deals["best"]'), ("deal = ", _OTHER_DEAL)),
    "FINANCE_RATE": _edited(due("finance_quote"), ('apr=rate["apr"]', 'apr=rates["apr"]'), ("rate = ", _OTHER_RATE)),
    "FINANCE_APPROVAL": _edited(due("finance_quote"), ('if rate["approved"]:\n    quote', "quote")),
    "FINANCE_TERM": _wished("finance_quote", term=30),
    "DOWN_PAYMENT": _wished("finance_quote", down_payment=200),
    "TRADE_IN_AGE": _wished("value_trade_in", year=1999),
    "TRADE_IN_MILEAGE": _wished("value_trade_in", mileage=250_000),
    "VIN_FORMAT": _wished("value_trade_in", vin="WVWZZZ1KZIO"),
    "VIN_DECODED": RuleCase(
        situation(
            'value = estimate_trade_in(make="Honda", model="Civic", year=2016, mileage=84000, condition="good")',
            "value_trade_in",
        ),
        due("value_trade_in"),
    ),
    "TWO_CARS": _wished("compare_vehicles", other_stock="N4821"),
    "SERVICE_SLOT_CHECK": _edited(due("book_service"), ('if visit["free"]:\n    booked', "booked")),
    "SERVICE_HOURS": _wished("book_service", time="17:00"),
    "SERVICE_LOOKUP": _edited(_CANCEL, ('if visit["found"]:\n    done', "done")),
    "ORDER_IDENTITY": _edited(
        _DELIVERY,
        ('if order["found"]:\n    delivery', "delivery"),
        ('    if delivery["possible"]:\n        moved', 'if delivery["possible"]:\n    moved'),
    ),
    "DELIVERY_DAY": _edited(_DELIVERY, ('    if delivery["possible"]:\n        moved', "    moved")),
    "LEAD_NEW": _edited(due("leave_contact"), ('if lead["new"]:\n    noted', "noted")),
    "PHONE_FORMAT": _wished("leave_contact", phone="call me"),
    "BUDGET": _wished("find_vehicles", max_price=-1),
}
