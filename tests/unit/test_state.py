"""The dialogue state: several requests, what is remembered, and what a request supplies to another."""

from typing import Any

from agentmill.agents.state import DialogueState, Understanding, mentioned
from agentmill.domains.automotive import build

DOMAIN = build()
DRIVER: dict[str, Any] = {"name": "Ana Brankovic", "licence": "D4471902"}
FOUND = {"cars": [{"stock": "N4821", "price": 27000}, {"stock": "K2207", "price": 21000}]}


def heard(intent: str, *also: str, confirmed: bool = False, **entities: Any) -> Understanding:
    return Understanding(intent=intent, also=also, entities=entities, confirmed=confirmed)


def test_what_tools_returned_and_customers_told_is_remembered() -> None:
    state = DialogueState().updated(heard("find_vehicles", body="suv"), DOMAIN).after(FOUND, DOMAIN)
    assert state.memory == {"stock": ["N4821", "K2207"]}
    state = state.updated(heard("opening_hours", day="friday"), DOMAIN)
    assert state.memory == {"stock": ["N4821", "K2207"], "day": ["friday"]}
    assert state.remembered() == {"stock": ["N4821", "K2207"]}


def test_a_car_of_the_list_leaves_the_list_as_it_is_and_another_one_replaces_it() -> None:
    state = DialogueState(memory={"stock": ["N4821", "K2207"]})
    assert state.updated(heard("vehicle_details", stock="K2207"), DOMAIN).memory["stock"] == ["N4821", "K2207"]
    assert state.updated(heard("vehicle_details", stock="B0001"), DOMAIN).memory["stock"] == ["B0001"]


def test_only_entities_that_can_be_referred_to_are_remembered_in_the_order_of_the_results() -> None:
    results = {"booking": {"day": "monday", "time": "15:00", "name": "Ana"}, "cars": [{"stock": "B1"}, {"stock": "A2"}]}
    assert mentioned(results, DOMAIN) == {"day": ["monday"], "stock": ["B1", "A2"]}
    many = {"cars": [{"stock": f"A{n}"} for n in range(9)] + [{"stock": 7}]}
    assert mentioned(many, DOMAIN) == {"stock": [f"A{n}" for n in range(5)]}


def test_two_requests_ask_for_what_neither_of_them_supplies() -> None:
    both = heard("find_vehicles", "book_test_drive", body="suv", day="friday", time="15:00")
    state = DialogueState().updated(both, DOMAIN)
    assert DOMAIN.missing(state.requests, state.entities) == "name"
    state = state.updated(heard("find_vehicles", "book_test_drive", **DRIVER), DOMAIN)
    assert DOMAIN.missing(state.requests, state.entities) is None
    assert "stock" not in state.entities


def test_a_supplied_value_is_pinned_for_the_change_that_waits_for_a_word() -> None:
    both = heard("find_vehicles", "book_test_drive", body="suv", day="friday", time="15:00", **DRIVER)
    state = DialogueState().updated(both, DOMAIN).after(FOUND, DOMAIN)
    assert (state.requests, state.proposed) == (("book_test_drive",), True)
    assert state.entities["stock"] == "N4821"
    agreed = state.updated(heard("book_test_drive", confirmed=True), DOMAIN)
    assert agreed.confirmed and agreed.entities["stock"] == "N4821"
    other = state.updated(heard("book_test_drive", confirmed=True, time="16:00"), DOMAIN)
    assert not other.confirmed


def test_nothing_is_proposed_when_a_request_found_nothing_to_supply() -> None:
    both = heard("find_vehicles", "book_test_drive", body="suv", day="friday", time="15:00", **DRIVER)
    state = DialogueState().updated(both, DOMAIN).after({"cars": []}, DOMAIN)
    assert not state.proposed
    assert state.requests == ("find_vehicles", "book_test_drive")


def test_what_an_earlier_request_found_is_not_pinned_in_place_of_what_this_one_did_not() -> None:
    before = DialogueState(memory={"stock": ["B0001"]})
    both = heard("find_vehicles", "book_test_drive", body="suv", day="friday", time="15:00", **DRIVER)
    state = before.updated(both, DOMAIN).after({"cars": []}, DOMAIN)
    assert not state.proposed
    assert "stock" not in state.entities


def test_what_a_new_pair_of_requests_supplies_is_not_taken_from_before() -> None:
    before = DialogueState(intent="vehicle_details", entities={"stock": "B0001"})
    state = before.updated(heard("find_vehicles", "book_test_drive", body="suv"), DOMAIN)
    assert "stock" not in state.entities


def test_a_word_for_other_requests_than_the_proposed_one_confirms_nothing() -> None:
    entities = {"stock": "N4821", "day": "friday", "time": "15:00", **DRIVER}
    proposed = DialogueState(intent="book_test_drive", entities=entities, proposed=True)
    assert proposed.updated(heard("book_test_drive", confirmed=True), DOMAIN).confirmed
    assert not proposed.updated(heard("book_test_drive", "cancel_test_drive", confirmed=True), DOMAIN).confirmed
    assert not proposed.updated(heard("reserve_vehicle", confirmed=True), DOMAIN).confirmed


def test_a_known_number_makes_what_it_stands_for_needless() -> None:
    intent = DOMAIN.intents["value_trade_in"]
    assert intent.missing({"mileage", "condition"}) == "make"
    assert intent.missing({"vin", "mileage"}) == "condition"
    assert intent.missing({"vin", "mileage", "condition"}) is None
