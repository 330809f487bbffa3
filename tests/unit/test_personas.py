"""What each persona does, in both packs: it can be read, it changes no end state, and it comes to an end."""

import json
import random
import re
from typing import Any

import pytest

from agentmill.domains.automotive.reading import understand as hear_customer
from agentmill.domains.automotive.user import Customer as CarCustomer
from agentmill.domains.base import Json, load_domain
from agentmill.domains.kit.customer import Customer
from agentmill.domains.kit.non_native import non_native
from agentmill.domains.kit.personas import COVERED, INJECTIONS, mixed_up, self_corrected
from agentmill.domains.library_desk.phrases import SPEECH
from agentmill.domains.library_desk.reading import READING

DRIVE: Json = {"stock": "N4821", "day": "friday", "time": "15:00", "name": "Ana Brankovic", "licence": "D4471902"}
PROPOSED = "N4821 is free on Friday at 15:00. Shall I book it for Ana Brankovic?"
OPENED = ("I'd like to book a test drive of N4821.", "Which day would you like?")
HOLD: Json = {"book": "B2047", "card": "C204816", "pin": "0417"}


def says(persona: str, goals: list[Json], *history: tuple[str, str], seed: int = 0) -> str:
    told = json.dumps([list(turn) for turn in history])
    return CarCustomer({"persona": persona, "goals": json.dumps(goals), "history": told}, seed).speak()


def reads(persona: str, goals: list[Json], *history: tuple[str, str], seed: int = 0) -> str:
    told = json.dumps([list(turn) for turn in history])
    return Customer(SPEECH, {"persona": persona, "goals": json.dumps(goals), "history": told}, seed).speak()


def drive(**more: Any) -> list[Json]:
    return [{"intent": "book_test_drive", "slots": {**DRIVE, **more}}]


def many(count: int = 60) -> list[list[Json]]:
    """Goals that differ, so that each draws for itself what the persona does."""
    return [drive(licence=f"D44719{number:02d}") for number in range(count)]


def test_a_confused_customer_asks_what_is_meant_and_then_answers() -> None:
    asked = [says("confused", goals, OPENED) for goals in many()]
    puzzled = [goals for goals, said in zip(many(), asked, strict=True) if said in COVERED["confused"].puzzled]
    assert 5 < len(puzzled) < 40
    again = ("Sorry, what do you mean?", OPENED[1])
    assert all("riday" in says("confused", goals, OPENED, again) for goals in puzzled)


def test_a_confused_customer_names_a_wrong_day_first_and_is_read_right() -> None:
    said = [says("confused", goals, OPENED) for goals in many()]
    mixed = [text for text in said if "no wait" in text.lower()]
    assert mixed and all(len(re.findall(r"(?i)\w+day", text)) == 2 for text in mixed)
    for text in mixed:
        heard = hear_customer({"intent": "book_test_drive", "stock": "N4821", "customer": text})
        assert heard["entities"] == {"day": "friday"}, text


@pytest.mark.parametrize("value", ["T20817", "N4821", "0417", "AKZ0008"])
def test_a_mixed_up_number_differs_in_one_digit_and_the_right_one_keeps_its_letters(value: str) -> None:
    for seed in range(20):
        rng = random.Random(seed)
        wrong = mixed_up(value, (), rng)
        assert sum(a != b for a, b in zip(wrong, value, strict=True)) == 1
        assert self_corrected(f"It's {wrong}.", f"It's {value}.", rng).endswith(f"it's {value}.")
        assert self_corrected(wrong, value, rng).endswith(value)


def test_a_haggler_asks_for_an_earlier_time_once_and_takes_the_first_when_it_is_refused() -> None:
    goals = drive(ask_time="07:00")
    asked = says("haggling", goals, ("Book me a test drive of N4821 on Friday at 3pm.", PROPOSED))
    assert re.search(r"07:00|7 ?am|7:00 am|7 in the morning", asked)
    history = (("Book it.", PROPOSED), (asked, "On Friday at 07:00 we are closed."))
    accepts = says("haggling", goals, *history)
    heard = hear_customer({"intent": "book_test_drive", **DRIVE, "time": "07:00", "customer": accepts})
    assert heard["entities"] == {"time": "15:00"}
    agrees = says("haggling", goals, *history, (accepts, PROPOSED))
    assert hear_customer({"intent": "book_test_drive", "proposed": "yes", **DRIVE, "customer": agrees})["confirmed"]


def test_a_haggler_asks_for_more_off_after_the_best_price_and_takes_the_limit() -> None:
    goals = [{"intent": "price_offer", "slots": {"stock": "N4821", "ask_discount": 12}}]
    best = ("Make me an offer for N4821.", "With the incentive NOW55 of $500, N4821 costs $6450 instead of $6950.")
    asked = says("haggling", goals, best)
    heard = hear_customer({"intent": "price_offer", "stock": "N4821", "customer": asked})
    assert (heard["intent"], heard["entities"]) == ("price_offer", {"discount": 12})
    limit = (asked, "5 percent is the most that I can give: N4821 costs $6602 instead of $6950.")
    assert (
        hear_customer({"intent": "none", "customer": says("haggling", goals, best, limit)})["intent"] != "price_offer"
    )


def test_a_changed_mind_comes_once_at_the_proposal() -> None:
    goals = drive(mind_time="16:00")
    changed = says("changing_mind", goals, ("Book it.", PROPOSED))
    assert hear_customer({"intent": "book_test_drive", **DRIVE, "customer": changed})["entities"]["time"] == "16:00"
    agreed = says("changing_mind", goals, ("Book it.", PROPOSED), (changed, PROPOSED.replace("15:00", "16:00")))
    assert hear_customer({"intent": "book_test_drive", "proposed": "yes", **DRIVE, "customer": agreed})["confirmed"]


def test_two_requests_are_one_message() -> None:
    goals = [{"intent": "opening_hours", "also": ["directions"], "slots": {"day": "friday", "place": "harbour"}}]
    heard = hear_customer({"intent": "none", "customer": says("multi_request", goals)})
    assert (heard["intent"], heard["also"]) == ("opening_hours", ["directions"])


@pytest.mark.parametrize("text", INJECTIONS)
def test_an_injection_is_out_of_scope_whatever_was_going_on(text: str) -> None:
    assert hear_customer({"intent": "none", "customer": text})["intent"] == "out_of_scope"
    waiting = {"intent": "book_test_drive", "proposed": "yes", **DRIVE}
    heard = hear_customer({**waiting, "customer": text})
    assert (heard["intent"], heard["confirmed"], heard["entities"]) == ("out_of_scope", False, {})
    desk = READING.understand({"intent": "place_hold", "proposed": "yes", **HOLD, "customer": text})
    assert (desk["intent"], desk["confirmed"]) == ("out_of_scope", False)


TRICKS = [text for persona in COVERED.values() for text in (*persona.puzzled, *persona.pushes)]


@pytest.mark.parametrize("text", TRICKS)
@pytest.mark.parametrize("slot", ["day", "name", "licence", "time"])
def test_a_question_back_and_a_push_tell_nothing_and_confirm_nothing(text: str, slot: str) -> None:
    questions = {name: entity.question for name, entity in load_domain("automotive").entities.items()}
    known = {name: value for name, value in DRIVE.items() if name != slot}
    asked = {"intent": "book_test_drive", **known, "assistant": questions[slot], "customer": text}
    heard = hear_customer(asked)
    assert (heard["intent"], heard["entities"], heard["question"]) == ("book_test_drive", {}, questions[slot])
    proposed = hear_customer({"intent": "book_test_drive", "proposed": "yes", **DRIVE, "customer": text})
    pushed = text in (*COVERED["haggling"].pushes, *COVERED["adversarial"].pushes)
    assert not proposed["confirmed"] and (not pushed or proposed["intent"] == "book_test_drive")
    desk = READING.understand({"intent": "place_hold", "book": "B2047", "customer": text})
    assert (desk["intent"], desk["entities"]) == ("place_hold", {})


def test_an_adversary_presses_and_then_does_what_it_came_for() -> None:
    pushed = [says("adversarial", goals, ("Book it.", PROPOSED)) for goals in many()]
    pushing = [goals for goals, said in zip(many(), pushed, strict=True) if said in COVERED["adversarial"].pushes]
    assert len(pushing) > 10
    said = says("adversarial", pushing[0], ("Book it.", PROPOSED), ("Make it free and we talk.", PROPOSED))
    assert hear_customer({"intent": "book_test_drive", "proposed": "yes", **DRIVE, "customer": said})["confirmed"]


def test_broken_english_keeps_every_name_and_number() -> None:
    text = "Could you set aside the N4821 for Ana van den Berg? I'd like to have it on Friday at 3pm, phone 555-0100."
    said = {non_native(text, random.Random(seed)) for seed in range(30)}
    assert all(value in each for each in said for value in ("N4821", "Ana van den Berg", "Friday", "3pm", "555-0100"))
    assert any(" the " not in each for each in said)
    assert all("the second one" in non_native("Reserve the second one.", random.Random(s)) for s in range(30))


@pytest.mark.parametrize("persona", [name for name in COVERED if name not in ("confused", "adversarial", "haggling")])
def test_openings_of_every_persona_are_read_as_they_were_meant(persona: str) -> None:
    pack = load_domain("automotive")
    for number, scenario in enumerate(pack.scenarios(150, 23, "heldout")):
        for wish in scenario.goals:
            shown = {"intent": wish.intent, **({"also": list(wish.also)} if wish.also else {}), "slots": wish.slots}
            said = says(persona, [shown], seed=number)
            heard = hear_customer({"intent": "none", "assistant": "none", "customer": said})
            assert (heard["intent"], *heard.get("also", ())) == (wish.intent, *wish.also), said
            assert heard["entities"].items() <= wish.slots.items(), said


def test_the_patient_bear_with_more_failures_than_others() -> None:
    failed = ("I'd like a hold on B2047.", "I did not get that right.")
    goals: list[Json] = [{"intent": "place_hold", "slots": HOLD}]
    assert reads("haggling", goals, *[failed] * 3) == "EXIT"
    assert reads("patient", goals, *[failed] * 3) != "EXIT"
    assert reads("patient", goals, *[failed] * 5) == "EXIT"
    assert says("terse", drive(), *[("Book it.", "I did not get that right.")] * 3) == "EXIT"
    assert says("patient", drive(), *[("Book it.", "I did not get that right.")] * 3) != "EXIT"


def test_the_library_s_readers_mix_up_numbers_and_are_read_right() -> None:
    opened = ("I'd like to reserve a book.", "What is the number of the book?")
    said = [
        reads("confused", [{"intent": "place_hold", "slots": {**HOLD, "pin": f"{n:04d}"}}], opened) for n in range(60)
    ]
    mixed = [text for text in said if "no wait" in text.lower()]
    assert mixed
    for text in mixed:
        assert READING.understand({"intent": "place_hold", "customer": text})["entities"] == {"book": "B2047"}, text
