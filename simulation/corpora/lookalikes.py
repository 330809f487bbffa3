"""Made-up values in the place of personal ones: of the same kind and the same form, drawn from a seed.

Letters stay letters and digits stay digits, separators stay where they are; check digits are right (VIN, card, IBAN);
telephone numbers fall into the range that is kept for fiction, addresses into domains kept for examples.
"""

import random
import re
import string
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from simulation.corpora.settings import PersonalKind

if TYPE_CHECKING:
    from faker import Faker

_VIN_WEIGHTS = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)
_VIN_LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"
_VIN_VALUES = dict(zip(string.digits + _VIN_LETTERS, map(int, "012345678912345678123457923456789"), strict=True))
_EXAMPLES = ("example.com", "example.org", "example.net")


def lookalike(kind: PersonalKind, value: str, rng: random.Random) -> str:
    """A made-up value of the form of `value`. Persons are made name by name: see `first_name` and `last_name`."""
    return _MAKERS[kind](value, rng)


def first_name(rng: random.Random) -> str:
    """A given name."""
    return _drawn(rng).first_name()


def last_name(rng: random.Random) -> str:
    """A family name."""
    return _drawn(rng).last_name()


def vin_check_digit(vin: str) -> str:
    """The ninth sign of a vehicle identification number, from the other sixteen (ISO 3779, 49 CFR 565)."""
    total = sum(_VIN_VALUES[sign] * weight for sign, weight in zip(vin, _VIN_WEIGHTS, strict=True))
    return "X" if total % 11 == 10 else str(total % 11)


def same_form(value: str, rng: random.Random, letters: str = string.ascii_uppercase) -> str:
    """Digits for digits, letters for letters in their case, everything else as it is."""

    def other(sign: str) -> str:
        if sign.isdigit():
            return rng.choice(string.digits)
        if not sign.isalpha():
            return sign
        return rng.choice(letters) if sign.isupper() else rng.choice(letters).lower()

    return "".join(map(other, value))


def _vin(value: str, rng: random.Random) -> str:
    made = same_form(value.upper(), rng, _VIN_LETTERS)
    made = made[:8] + vin_check_digit(made) + made[9:]
    return made if value == value.upper() else made.lower()


def _phone(value: str, rng: random.Random) -> str:
    """Numbers of 7, 10 or 11 digits as North America's 555-01xx; others with their beginning kept."""
    count = sum(sign.isdigit() for sign in value)
    line = f"55501{rng.randrange(100):02d}"
    area = f"{rng.randrange(2, 10)}{rng.randrange(9)}{rng.randrange(10)}"
    if count == 7:
        return _filled(value, line)
    if count == 10 and not value.startswith("+"):
        return _filled(value, area + line)
    if count == 11 and value.lstrip("+(").startswith("1"):
        return _filled(value, "1" + area + line)
    digits = re.sub(r"\D", "", value)
    begin = min(3, count // 2)
    return _filled(value, digits[:begin] + "".join(rng.choices(string.digits, k=count - begin)))


def _card(value: str, rng: random.Random) -> str:
    from stdnum import luhn

    digits = re.sub(r"\D", "", value)
    made = digits[0] + "".join(rng.choices(string.digits, k=len(digits) - 2))
    return _filled(value, made + str(luhn.calc_check_digit(made)))


def _iban(value: str, rng: random.Random) -> str:
    from stdnum.iso7064 import mod_97_10

    plain = re.sub(r"\W", "", value).upper()
    body = same_form(plain[4:], rng)
    check = mod_97_10.calc_check_digits(body + plain[:2])
    return _filled(value, plain[:2] + check + body, signs=str.isalnum)


def _email(value: str, rng: random.Random) -> str:
    name = f"{first_name(rng)}.{last_name(rng)}{rng.randrange(100)}".lower()
    return f"{re.sub('[^a-z0-9.]', '', name)}@{rng.choice(_EXAMPLES)}"


def _filled(form: str, signs_in: str, signs: Callable[[str], bool] = str.isdigit) -> str:
    """`form` with its signs (digits) replaced by `signs_in`, one by one."""
    left = iter(signs_in)
    return "".join(next(left) if signs(sign) else sign for sign in form)


def _drawn(rng: random.Random) -> "Faker":
    faker = _faker()
    faker.seed_instance(rng.getrandbits(32))
    return faker


@lru_cache(maxsize=1)
def _faker() -> "Faker":
    from faker import Faker

    return Faker("en_US")


_MAKERS: dict[str, Callable[[str, random.Random], str]] = {
    "phone": _phone,
    "email": _email,
    "plate": same_form,
    "vin": _vin,
    "card": _card,
    "iban": _iban,
    "code": same_form,
}
