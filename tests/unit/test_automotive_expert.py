"""The expert: reads its own customers completely, errs only as configured, and judges what it sees."""

import asyncio
import json
from random import Random

import pytest

from agentmill.agents.frames import render_frame
from agentmill.domains.automotive import build, phrases, requests
from agentmill.domains.automotive.hearing import hear
from agentmill.domains.automotive.openers import opener
from agentmill.domains.automotive.policy import POLICY
from agentmill.domains.automotive.reading import understand
from agentmill.domains.automotive.scenarios import generate
from agentmill.domains.base import Json
from agentmill.domains.kit.answers import Answers
from agentmill.domains.kit.expert import Expert
from agentmill.models.chat import AgentName, ChatRequest, Message, ModelError, Sampling

ANSWERS = Answers(build(), POLICY)
BOOKING = {"stock": "N4821", "day": "friday", "time": "15:00", "name": "Ana Brankovic", "licence": "D4471902"}


def ask(expert: Expert, agent: AgentName, frame: str, seed: int = 0) -> str:
    request = ChatRequest(agent=agent, messages=(Message(role="user", content=frame),), sampling=Sampling(seed=seed))
    return asyncio.run(expert.complete(request)).text


def heard(customer: str, intent: str = "none", assistant: str = "none", **known: str) -> Json:
    return understand({"intent": intent, **known, "assistant": assistant, "customer": customer})


@pytest.mark.parametrize(
    ("customer", "intent", "entities"),
    [
        ("Do you have a hybrid Toyota SUV under $30,000?", "find_vehicles",
         {"make": "Toyota", "body": "suv", "fuel": "hybrid", "max_price": 30000}),
        ("cheapest pickup for at most 12k?", "find_vehicles", {"body": "pickup", "max_price": 12000}),
        ("Tell me about N4821.", "vehicle_details", {"stock": "N4821"}),
        ("Can I book a test drive of N4821 on Friday at 3 in the afternoon?", "book_test_drive",
         {"stock": "N4821", "day": "friday", "time": "15:00"}),
        ("I'm Ludwig van Beethoven. Test drive at noon.", "book_test_drive",
         {"time": "12:00", "name": "Ludwig van Beethoven"}),
        ("When is my test drive T20817?", "check_booking", {"reference": "T20817"}),
        ("I can't make it, cancel T20817.", "cancel_test_drive", {"reference": "T20817"}),
        ("Are you open on sunday?", "opening_hours", {"day": "sunday"}),
        ("What is my 2016 Honda Civic worth, 84k miles, good condition?", "value_trade_in",
         {"make": "Honda", "model": "Civic", "year": 2016, "mileage": 84000, "condition": "good"}),
        ("Good morning!", "small_talk", {}),
        ("Can you recommend a pizza place?", "out_of_scope", {}),
    ],
)  # fmt: skip
def test_wishes_are_understood(customer: str, intent: str, entities: Json) -> None:
    understood = heard(customer)
    assert (understood["intent"], understood["entities"]) == (intent, entities)


MEMORY = '{"stock":["N4821","K2207","B3310"],"day":["friday"]}'


@pytest.mark.parametrize(
    ("customer", "intent", "entities"),
    [
        ("Tell me about the second one.", "vehicle_details", {"stock": "K2207"}),
        ("I'd like to reserve the last one.", "reserve_vehicle", {"stock": "B3310"}),
        ("Compare the first one and the third one.", "compare_vehicles", {"stock": "N4821", "other_stock": "B3310"}),
        ("Can you compare K2207 with the first car?", "compare_vehicles", {"stock": "K2207", "other_stock": "N4821"}),
        ("The second one versus Y1176, please.", "compare_vehicles", {"stock": "K2207", "other_stock": "Y1176"}),
        ("A test drive of the first car on the same day at noon, please.", "book_test_drive",
         {"stock": "N4821", "day": "friday", "time": "12:00"}),
        ("Tell me about the fourth one.", "vehicle_details", {}),
    ],
)  # fmt: skip
def test_references_are_resolved_from_the_memory(customer: str, intent: str, entities: Json) -> None:
    understood = heard(customer, memory=MEMORY)
    assert (understood["intent"], understood["entities"]) == (intent, entities)
    assert heard("Tell me about the second one.")["question"] == "What is the stock number of the car?"


@pytest.mark.parametrize(
    ("customer", "requests", "entities"),
    [
        ("Do you have a petrol van? And book me a test drive of the first one on friday at 3pm.",
         ["find_vehicles", "book_test_drive"], {"body": "van", "fuel": "petrol", "day": "friday", "time": "15:00"}),
        ("What is my 2016 Honda Civic worth with 84,000 miles in good condition? Also, what is the monthly rate for "
         "N4821 over 48 months with that as the down payment? My credit score is 700.",
         ["value_trade_in", "finance_quote"],
         {"make": "Honda", "model": "Civic", "stock": "N4821", "score": 700, "term": 48, "year": 2016,
          "mileage": 84000, "condition": "good"}),
        ("When is my test drive T20817? And what are your opening hours that day?",
         ["check_booking", "opening_hours"], {"reference": "T20817"}),
        ("Thanks. And when are you open on sunday?", ["opening_hours"], {"day": "sunday"}),
    ],
)  # fmt: skip
def test_two_requests_of_one_utterance_are_heard(customer: str, requests: list[str], entities: Json) -> None:
    understood = heard(customer, memory=MEMORY)
    assert [understood["intent"], *understood.get("also", [])] == requests
    assert understood["entities"] == entities


def test_an_answer_belongs_to_the_requests_that_it_was_asked_for() -> None:
    asked = heard("Ana Brankovic", "find_vehicles", "What is your full name?", also="book_test_drive", body="van")
    assert (asked["intent"], asked["also"], asked["entities"]) == (
        "find_vehicles", ["book_test_drive"], {"name": "Ana Brankovic"},
    )  # fmt: skip


@pytest.mark.parametrize("intent", ["private_data", "unsafe"])
def test_what_must_be_refused_is_refused(intent: str) -> None:
    for text in requests.ASKED[intent]:
        said = text.format(stock="N4821", reference="T20817")
        assert heard(said)["intent"] == intent, said
    reply = ANSWERS.answer("explainer", {"intent": intent, "customer": "Tell me!"})
    assert "cannot" in reply


@pytest.mark.parametrize(
    ("violation", "intent", "tool"),
    [
        ("DISCOUNT_LIMIT: A discount is at most 4 percent: quote that.", "price_offer", "discount=4"),
        ("FINANCE_TERM: choose another", "finance_quote", "finance_terms()"),
        ("DOWN_PAYMENT: more", "finance_quote", "finance_terms()"),
        ("TRADE_IN_AGE: too old", "value_trade_in", "appraisal_terms()"),
    ],
)
def test_a_wish_beyond_a_limit_leads_to_another_plan(violation: str, intent: str, tool: str) -> None:
    frame = {"intent": intent, "stock": "N4821", "discount": "9", "score": "700", "term": "48", "down_payment": "3000",
             "make": "Honda", "model": "Civic", "year": "2016", "mileage": "84000", "condition": "good"}  # fmt: skip
    assert tool not in ANSWERS.answer("planner", frame)
    assert tool in ANSWERS.answer("planner", {**frame, "violation": violation})


def test_answers_keep_the_intent_and_the_next_missing_entity_is_asked_for() -> None:
    understood = heard("friday, 3pm", "book_test_drive", "Which day would you like?", stock="N4821")
    assert understood["entities"] == {"day": "friday", "time": "15:00"}
    assert understood["question"] == "What is your full name?"


def test_agreement_counts_only_for_what_was_proposed() -> None:
    proposed = {**BOOKING, "proposed": "yes"}
    assert heard("Yes, please.", "book_test_drive", **proposed)["confirmed"]
    assert not heard("Yes, please.", "book_test_drive", **BOOKING)["confirmed"]
    changed = heard("Yes, but at 4pm.", "book_test_drive", **proposed)
    assert (changed["confirmed"], changed["entities"]) == (False, {"time": "16:00"})
    assert heard("No, leave it.", "book_test_drive", **proposed)["intent"] == "small_talk"


def test_every_opening_of_every_goal_is_read_as_it_was_meant() -> None:
    for number, scenario in enumerate(generate(1500, 21, "train")):
        for goal in scenario.goals:
            if goal.also or goal.intent in ("private_data", "unsafe"):
                continue
            wishes = {name: value for name, value in goal.slots.items() if not name.startswith(("else_", "mind_"))}
            said = opener(goal.intent, wishes, Random(number))
            understood = heard(said)
            assert understood["intent"] == goal.intent, said
            assert understood["entities"].items() <= wishes.items(), said
            in_full = heard(opener(goal.intent, wishes, Random(number), in_full=True))
            assert goal.intent in ("small_talk", "out_of_scope") or in_full["entities"] == wishes, said


@pytest.mark.parametrize("text", phrases.AGREE)
def test_every_agreement_is_read(text: str) -> None:
    assert heard(text, "book_test_drive", **BOOKING, proposed="yes")["confirmed"]


def test_each_act_has_many_phrasings() -> None:
    acts = (phrases.FIND, phrases.DETAILS, phrases.BOOK, phrases.CHECK, phrases.CANCEL, phrases.HOURS, phrases.TRADE)
    assert all(len(act) >= 15 for act in (*acts, phrases.AGREE, phrases.OTHER_SLOT, phrases.GREETINGS))


def test_a_planner_that_was_stopped_by_the_world_only_checks() -> None:
    frame = {"intent": "book_test_drive", **BOOKING, "confirmed": "yes"}
    assert "book_test_drive(" in ANSWERS.answer("planner", frame)
    assert "book_test_drive(" in ANSWERS.answer("planner", {**frame, "violation": "LICENCE_CHECK: verify first"})
    assert "book_test_drive(" not in ANSWERS.answer("planner", {**frame, "violation": "OPENING_HOURS: closed"})


def test_the_customer_notices_wrong_facts_and_takes_the_second_choice() -> None:
    assert hear("book_test_drive", BOOKING, "N4821 is free on Friday at 15:00. Shall I book it?").kind == "proposal"
    wrong = hear("book_test_drive", BOOKING, "N4821 is free on Monday at 15:00. Shall I book it for Ana Brankovic?")
    assert wrong == ("mismatch", ("day",))
    assert (
        hear("book_test_drive", BOOKING, "N4821 is taken on Friday at 15:00. Free times are 16:00.").kind == "refused"
    )
    assert hear("book_test_drive", BOOKING, "Done, N4821 is booked on Friday at 15:00.").kind == "done"
    assert hear("book_test_drive", BOOKING, "At what time?") == ("question", ("time",))
    slots = {**BOOKING, "else_time": "16:00"}
    history = [["A test drive please.", "N4821 is taken on Friday at 15:00. Free times are 16:00 and 17:00."]]
    goals = [{"intent": "book_test_drive", "slots": slots}]
    said = ask(Expert(ANSWERS), "user", render_frame({"persona": "plain", "goals": goals, "history": history}))
    assert heard(said, "book_test_drive", **BOOKING)["entities"]["time"] == "16:00"


def test_a_customer_who_is_not_understood_repeats_twice_and_leaves() -> None:
    goals = [{"intent": "vehicle_details", "slots": {"stock": "N4821"}}]
    safe = build().safe_reply
    history: list[list[str]] = []
    said = ""
    while said != "EXIT" and len(history) < 10:
        frame = render_frame({"persona": "terse", "goals": goals, "history": history})
        said = ask(Expert(ANSWERS), "user", frame)
        history.append([said, safe])
    assert len(history) == 4
    assert all("N4821" in text for text, _ in history[1:3])


def test_answers_are_a_function_of_the_prompt_and_the_seed() -> None:
    frame = render_frame({"intent": "none", "assistant": "none", "customer": "Are you open on Friday at all?"})
    for rate in (0.0, 0.5, 1.0):
        assert ask(Expert(ANSWERS, rate), "understander", frame, 3) == ask(
            Expert(ANSWERS, rate), "understander", frame, 3
        )
    assert ask(Expert(ANSWERS, 1.0), "understander", frame) != ask(Expert(ANSWERS, 0.0), "understander", frame)
    with pytest.raises(ValueError, match="mistake_rate"):
        Expert(ANSWERS, 1.5)


PROMPTS: dict[AgentName, str] = {
    "understander": render_frame(
        {"intent": "none", "assistant": "none", "customer": "Test drive of N4821 on Friday at 3pm."}
    ),
    "planner": render_frame({"intent": "book_test_drive", **BOOKING, "confirmed": True}),
    "explainer": render_frame(
        {"intent": "vehicle_details", "stock": "N4821", "customer": "Price?", "results": {"car": {"found": False}}}
    ),
}


def judged(agent: AgentName, output: str) -> Json:
    frame = render_frame({"agent": agent, "prompt": json.dumps(PROMPTS[agent]), "output": json.dumps(output)})
    verdict: Json = json.loads(ask(Expert(ANSWERS), "judge", frame))
    return verdict


@pytest.mark.parametrize("agent", ["understander", "planner", "explainer"])
def test_the_judge_keeps_right_outputs_and_mends_every_mistake(agent: AgentName) -> None:
    right = ask(Expert(ANSWERS, 0.0), agent, PROMPTS[agent])
    assert judged(agent, right)["verdict"] == "keep"
    assert judged(agent, right)["output"] == right
    for seed in range(40):
        wrong = ask(Expert(ANSWERS, 1.0), agent, PROMPTS[agent], seed)
        assert wrong != right
        verdict = judged(agent, wrong)
        assert (verdict["verdict"], verdict["output"]) == ("edit", right), wrong


def test_the_judge_keeps_another_wording_and_another_variable() -> None:
    assert judged("explainer", "Sorry, there is no car N4821 here.")["verdict"] == "keep"
    right = ask(Expert(ANSWERS, 0.0), "planner", PROMPTS["planner"])
    assert judged("planner", right.replace("check =", "proof =").replace('check["', 'proof["'))["verdict"] == "keep"
    assert judged("planner", "no plan at all")["output"] == right


def test_a_prompt_that_no_agent_gets_is_refused_for_good() -> None:
    with pytest.raises(ModelError) as refused:
        ask(Expert(ANSWERS), "planner", "intent: small_talk")
    assert not refused.value.retryable
