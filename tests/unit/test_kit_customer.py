"""The kit's simulated customer and reader, on the library pack: they notice, insist, give way, and leave."""

import json
from typing import Any

import pytest

from agentmill.domains.base import Json
from agentmill.domains.kit.customer import Customer
from agentmill.domains.kit.reading import ordinal
from agentmill.domains.library_desk import build
from agentmill.domains.library_desk.phrases import SIGNS, SPEECH
from agentmill.domains.library_desk.reading import READING
from agentmill.domains.library_desk.scenarios import generate

HOLD: Json = {"book": "B2047", "card": "C204816", "pin": "0417"}
PROPOSAL = "A copy of The Silent Harbour, B2047, is in. Shall I set it aside for you?"
OUT = "The Silent Harbour is out, so it is not possible to set it aside."


def says(goals: list[Json], *history: tuple[str, str], persona: str = "plain", seed: int = 0) -> str:
    told = [list(turn) for turn in history]
    return Customer(SPEECH, {"persona": persona, "goals": json.dumps(goals), "history": json.dumps(told)}, seed).speak()


def goal(intent: str, *also: str, **slots: Any) -> Json:
    return {"intent": intent, **({"also": list(also)} if also else {}), "slots": slots}


def heard(customer: str, **frame: str) -> Json:
    return READING.understand({"intent": "none", **frame, "customer": customer})


@pytest.mark.parametrize(
    ("intent", "reply", "expected"),
    [
        ("place_hold", PROPOSAL, ("proposal", ())),
        ("place_hold", PROPOSAL.replace("B2047", "B9999"), ("mismatch", ("book",))),
        ("place_hold", OUT, ("refused", ())),
        ("place_hold", "Done, a copy is set aside for you. The number of your hold is H12345.", ("done", ())),
        ("place_hold", "What is your PIN?", ("question", ("pin",))),
        ("place_hold", "I did not get that right.", ("unhelpful", ())),
        ("place_hold", "Nice weather.", ("unhelpful", ())),
        ("book_details", "B2047 is The Silent Harbour.", ("done", ())),
        ("book_details", "B9999 is The Silent Harbour.", ("mismatch", ("book",))),
        ("my_loans", "I cannot match this card number and PIN.", ("refused", ())),
    ],
)
def test_replies_are_told_apart_by_their_signs(intent: str, reply: str, expected: tuple[str, tuple[str, ...]]) -> None:
    assert SIGNS.hear(intent, HOLD, reply) == expected


def test_a_customer_agrees_changes_its_mind_once_and_takes_the_second_choice() -> None:
    opening = ("I'd like to reserve B2047.", PROPOSAL)
    assert heard(says([goal("place_hold", **HOLD)], opening), intent="place_hold", proposed="yes", **HOLD)["confirmed"]
    mind = [goal("place_hold", **HOLD, mind_book="B1111")]
    assert "B1111" in says(mind, opening)
    agreed = says(mind, opening, ("Hmm, make it B1111 instead.", PROPOSAL.replace("B2047", "B1111")))
    assert heard(agreed, intent="place_hold", proposed="yes", **HOLD)["confirmed"]
    other = [goal("place_hold", **HOLD, else_book="B1111")]
    assert "B1111" in says(other, ("I'd like to reserve B2047.", OUT))
    assert (
        says([goal("place_hold", **HOLD)], ("I'd like to reserve B2047.", OUT), ("Thank you, bye!", "Bye!")) == "EXIT"
    )


def test_a_customer_corrects_wrong_facts_and_leaves_after_three_failures() -> None:
    wrong = PROPOSAL.replace("B2047", "B9999")
    assert "B2047" in says([goal("place_hold", **HOLD)], ("I'd like to reserve B2047.", wrong))
    refused = [("I'd like to reserve B2047.", "I did not get that right.")] * 3
    said = says([goal("place_hold", **HOLD)], *refused[:2], persona="terse")
    assert said != "EXIT" and "B2047" in said
    assert says([goal("place_hold", **HOLD)], *refused) == "EXIT"


def test_a_book_that_was_listed_may_be_pointed_at_and_a_new_one_is_always_named() -> None:
    goals = [goal("find_books", subject="poetry"), goal("book_details", book="B3333")]
    listed = ("Show me books on poetry.", "I found B2047, The Silent Harbour by Ada Ito; B3333, The Road by Ada Ito.")
    said = {says(goals, listed, seed=seed) for seed in range(40)}
    assert any("the second book" in text for text in said)
    assert all("second" in text or "B3333" in text or "a book" in text for text in said)
    another = [goal("book_details", book="B2047"), goal("book_details", book="B3333")]
    told = ("Tell me about B2047.", "B2047 is The Silent Harbour.")
    assert all("B3333" in says(another, told, seed=seed) for seed in range(40))


def test_what_is_searched_for_is_told_as_a_whole_or_not_at_all() -> None:
    goals = [goal("find_books", subject="poetry", author="Ada Ito")]
    for seed in range(60):
        said = says(goals, seed=seed)
        assert ("poetry" in said) == ("Ada Ito" in said)
    answer = says(goals, ("Can you help me find a book?", "Which subject or author are you looking for?"))
    assert "poetry" in answer and "Ada Ito" in answer


def test_every_opening_of_every_goal_is_read_as_it_was_meant() -> None:
    domain = build()
    for number, scenario in enumerate(generate(400, 21, "train")):
        for wish in scenario.goals:
            shown = goal(wish.intent, *wish.also, **wish.slots)
            said = says([shown], seed=number, persona=scenario.persona)
            understood = heard(said)
            assert (understood["intent"], *understood.get("also", ())) == (wish.intent, *wish.also), said
            assert understood["entities"].items() <= wish.slots.items(), said
            assert understood["entities"].keys() <= set(domain.slots_of((wish.intent, *wish.also)))


@pytest.mark.parametrize(
    ("text", "frame", "entities"),
    [
        ("The last one, please.", {"memory": '{"book":["B1","B2"]}'}, {"book": "B2"}),
        ("Reserve the third book.", {"memory": '{"book":["B1","B2"]}'}, {}),
        ("card C204816, PIN 0417", {}, {"card": "C204816", "pin": "0417"}),
        ("It's 0417.", {"card": "C204816"}, {"pin": "0417"}),
    ],
)
def test_values_and_references_are_read(text: str, frame: dict[str, str], entities: Json) -> None:
    assert heard(text, **{"intent": "place_hold", **frame})["entities"] == entities


def test_all_of_it_is_what_is_owed_and_a_bare_number_counts_only_when_asked_for() -> None:
    memory = {"intent": "pay_fine", "memory": '{"amount":[7]}'}
    assert heard("I'd like to pay all of it.", **memory)["entities"] == {"amount": 7}
    assert heard("5", intent="pay_fine", assistant="How much would you like to pay?")["entities"] == {"amount": 5}
    assert heard("5", intent="pay_fine", assistant="What is your PIN?")["entities"] == {}


def test_agreement_counts_only_for_what_was_proposed() -> None:
    proposed = {"intent": "place_hold", "proposed": "yes", **HOLD}
    assert heard("Yes, please.", **proposed)["confirmed"]
    assert not heard("Yes, but B1111 please.", **proposed)["confirmed"]
    assert not heard("Yes, please.", intent="place_hold", **HOLD)["confirmed"]
    assert heard("No, leave it.", **proposed)["intent"] == "small_talk"
    assert heard("Blue elephants", intent="none")["intent"] == "out_of_scope"


def test_an_ordinal_needs_a_list() -> None:
    assert ordinal("the second one", ["a", "b"]) == "b"
    assert ordinal("the fifth one", ["a", "b"]) is None
    assert ordinal("the first", []) is None
    assert ordinal("second", ["a", "b"]) is None
