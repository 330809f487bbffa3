"""Personal data: none that was found or known is left, the same value has one replacement, and forms stay."""

import random
import re

import pytest
from stdnum import iban, luhn

from simulation.corpora.lookalikes import lookalike, vin_check_digit
from simulation.corpora.personal import Disguise, known_values
from simulation.corpora.recognisers import recognise
from simulation.corpora.settings import PersonalKind, PersonalSettings

VIN = "1HGCM82633A004352"
TEXTS = (
    "Hi, my name is Ann O'Neil, my number is (510) 324-2000 and my mail is ann@mail.com",
    f"My plate is ABC 1234 and the VIN {VIN.lower()}; I pay with 4111 1111 1111 1111 or DE89 3704 0044 0532 0130 00.",
    f'book(name="Ann O\'Neil", phone="5103242000", plate="ABC1234", vin="{VIN}", licence="D1234567")',
    "Thank you, Ann! Dear Ms O'Neil, we call 510-324-2000 or write to ANN@mail.com. Licence D1234567 is verified.",
)
KNOWN: list[tuple[PersonalKind, str]] = [("code", "D1234567"), ("phone", "510-324-2000")]
ORIGINALS = re.compile(r"\bann\b|neil|324\D*2000|abc\W?1234|4352|1111|3704|1234567", re.IGNORECASE)


def shape(value: str) -> str:
    """A value with every digit 0 and every letter A or a."""
    return re.sub(r"[a-z]", "a", re.sub(r"[A-Z]", "A", re.sub(r"\d", "0", value)))


def disguised(seed: int = 3, conversation: str = "c1") -> list[str]:
    return Disguise(PersonalSettings(), seed).texts(conversation, TEXTS, KNOWN)


@pytest.mark.parametrize("seed", range(10))
def test_no_original_survives_and_every_value_keeps_one_replacement(seed: int) -> None:
    first, second, plan, reply = disguised(seed)
    assert not ORIGINALS.search("\n".join((first, second, plan, reply)))
    arguments = dict(re.findall(r'(\w+)="([^"]*)"', plan))
    assert f"my name is {arguments['name']}," in first
    assert re.sub(r"\D", "", first)[:10] == arguments["phone"]
    assert arguments["plate"] in second.replace(" ", "")
    assert arguments["vin"].lower() in second
    given, family = arguments["name"].split()
    assert f"Thank you, {given}! Dear Ms {family}," in reply
    assert f"Licence {arguments['licence']} is" in reply
    assert re.sub(r"\D", "", reply)[:10] == arguments["phone"]


def test_the_form_and_the_check_digits_stay() -> None:
    first, second, plan, _ = disguised()
    assert re.search(r"\(\d{3}\) 555-01\d\d and my mail is [a-z.]+\d*@example\.(com|org|net)$", first)
    assert re.search(r"plate is [A-Z]{3} \d{4} and", second)
    vin = re.search(r'vin="(\w{17})"', plan)
    assert vin and vin[1][8] == vin_check_digit(vin[1])
    card, account = re.search(r"with ([\d ]{19}) or (DE[\d ]{25})", second).groups()  # type: ignore[union-attr]
    assert luhn.is_valid(card.replace(" ", ""))
    assert iban.is_valid(account)


def test_another_conversation_gets_other_values_and_the_same_one_the_same() -> None:
    assert disguised() == disguised()
    assert disguised(conversation="c2")[0] != disguised()[0]
    assert disguised(seed=4)[0] != disguised()[0]


def test_values_are_counted_once_a_conversation_by_kind() -> None:
    disguise = Disguise(PersonalSettings(), 3)
    disguise.texts("c1", TEXTS, KNOWN)
    assert disguise.counts["phone"] == disguise.counts["vin"] == disguise.counts["card"] == 1
    assert disguise.counts["email"] == disguise.counts["plate"] == disguise.counts["iban"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "I want to go on 2019-03-12 at 10:45, it costs $20,000 and has 120,000 miles.",
        "The stock number is R1234 and order 20260618 is on its way; the reference is B12345.",
        "My budget is 15000 dollars over 48 months, thank you. This is great, I am Looking forward to it.",
        'hours = opening_hours(day=\'monday\'); results: {"open":"09:00","price":34999}',
    ],
)
def test_what_is_not_personal_stays(text: str) -> None:
    assert recognise(text, "US") == []
    assert Disguise(PersonalSettings(), 1).texts("c", [text]) == [text]


def test_a_name_that_is_a_word_too_is_replaced_where_it_is_a_name() -> None:
    [text] = Disguise(PersonalSettings(), 1).texts("c", ["My name is Will Long. How long will it take, Will?"])
    assert "Will" not in text
    assert "How long will it take, " in text


def test_numbers_of_other_countries_are_found_by_the_library_and_keep_their_beginning() -> None:
    [text] = Disguise(PersonalSettings(), 1).texts("c", ["Ring me on +49 30 123456 78."])
    assert re.search(r"\+49 3\d \d{6} \d\d\.", text)
    assert "123456 78" not in text


def test_a_number_is_the_same_with_its_countrys_code_and_without() -> None:
    said = ["Call +1 (510) 324-2000.", "That is 1-510-324-2000, or 510.324.2000?"]
    first, second = Disguise(PersonalSettings(), 1).texts("c", said)
    numbers = [re.sub(r"\D", "", text) for text in (first, *second.split(","))]
    assert numbers[0] == numbers[1] == f"1{numbers[2]}" != "15103242000"


def test_a_name_of_particles_alone_is_left() -> None:
    assert Disguise(PersonalSettings(), 1).texts("c", ["de la"], [("person", "De La")]) == ["de la"]


def test_known_values_are_found_in_nested_results_and_lists() -> None:
    fields = {
        "name": "Ann Lee",
        "results": {"visit": [{"plate": "ABC1234", "day": 5}]},
        "vin": [VIN, 3],
        "day": 5,
    }
    entities = PersonalSettings().entities
    assert known_values(fields, entities) == [("person", "Ann Lee"), ("plate", "ABC1234"), ("vin", VIN)]


@pytest.mark.parametrize("kind", ["plate", "code", "vin", "phone", "card", "iban", "email"])
def test_every_kind_makes_values_of_its_form(kind: PersonalKind) -> None:
    samples = {
        "plate": "AB-123-C", "code": "d9-77X", "vin": VIN, "phone": "555-1234", "card": "4111-1111-1111-1111",
        "iban": "GB82WEST12345698765432", "email": "a@b.org",
    }  # fmt: skip
    value = samples[kind]
    made = {lookalike(kind, value, random.Random(seed)) for seed in range(20)}
    assert len(made) > 15
    if kind != "email":
        assert kind == "vin" or {shape(one) for one in made} == {shape(value)}


def test_the_check_digit_of_a_well_known_vin() -> None:
    assert vin_check_digit("1M8GDM9AXKP042788") == "X"
    assert vin_check_digit(VIN) == "3"
