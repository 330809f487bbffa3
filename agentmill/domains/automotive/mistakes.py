"""What an expert teacher gets wrong on purpose, so that the judge has something to refine.

Four kinds, each visible to a judge that knows the right answer: a wrong entity, a wrong tool, a missing check and an
ungrounded sentence. `spoil` gives None where an answer offers no such mistake.
"""

import json
import random
from collections.abc import Mapping
from typing import Any, Literal

from agentmill.domains.automotive.canonical import call
from agentmill.domains.automotive.catalogue import BODIES, CONDITIONS, DAYS, FUELS
from agentmill.domains.automotive.policy import compact, state_of
from agentmill.domains.automotive.tools import TOOLS

Kind = Literal["wrong_entity", "wrong_tool", "missing_check", "ungrounded_sentence"]
Frame = Mapping[str, str]
_CHOICES = {"day": DAYS, "body": BODIES, "fuel": FUELS, "condition": CONDITIONS}


def spoil(agent: str, frame: Frame, right: str, rng: random.Random) -> tuple[Kind, str] | None:
    """A wrong answer made from the right one, with its kind."""
    if agent == "understander":
        return _wrong_entity(right, rng)
    if agent == "planner":
        return _wrong_plan(frame, right, rng)
    if agent == "evaluator":
        return _overlooked(right)
    if agent == "explainer":
        return "ungrounded_sentence", f"{right} {_ungrounded(rng)}"
    return None


def _wrong_entity(right: str, rng: random.Random) -> tuple[Kind, str] | None:
    heard = json.loads(right)
    if not heard["entities"]:
        return None
    name = rng.choice(list(heard["entities"]))
    value = _other_value(name, heard["entities"][name], rng)
    if value is None:
        del heard["entities"][name]
    else:
        heard["entities"][name] = value
    return "wrong_entity", compact(heard)


def _other_value(name: str, value: Any, rng: random.Random) -> Any:
    """Another value of the same kind; None for what must be in the customer's words, which is then not heard."""
    if name in _CHOICES:
        return rng.choice([choice for choice in _CHOICES[name] if choice != value])
    if name == "time":
        return f"{(int(value[:2]) + rng.choice((1, 2, 12))) % 24:02d}:00"
    if isinstance(value, int):
        return value + rng.choice((1, 2)) if name == "year" else value * 10
    return None


def _wrong_plan(frame: Frame, right: str, rng: random.Random) -> tuple[Kind, str]:
    known = state_of(frame).entities
    if "book_test_drive(" in right and rng.random() < 0.7:
        unchecked = call("book_test_drive", known, "stock", "day", "time", "name", "licence")
        kept = right.splitlines()[0]
        return "missing_check", f'{kept}\nif slot["free"]:\n    booking = {unchecked}'
    used = {line.split("(")[0].split()[-1] for line in right.splitlines() if "(" in line}
    tool = rng.choice(sorted(name for name in TOOLS if name not in used and not TOOLS[name].changes))
    return "wrong_tool", f"found = {call(tool, known, *TOOLS[tool].parameters)}"


def _overlooked(right: str) -> tuple[Kind, str] | None:
    return None if json.loads(right)["ok"] else ("missing_check", compact({"ok": True, "violations": []}))


def _ungrounded(rng: random.Random) -> str:
    months, price, phone = rng.choice((12, 24, 36)), rng.randint(2, 40) * 50, rng.randint(1000, 9999)
    return rng.choice(
        (
            f"It comes with a {months} month warranty.",
            f"This week there is ${price} off.",
            f"Call us on 555-{phone} for more.",
            f"Ask for Gregor, who has {rng.randint(3, 30)} years of experience.",
        )
    )
