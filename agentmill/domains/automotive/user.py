"""The user simulator U in code: what the customer says next, from persona, goals and history alone.

A pure function of its frame and a seed. It walks through the history to see which goals the replies have answered,
then speaks: opens the next goal, answers a question, agrees to a proposal whose facts are right, corrects one whose
facts are wrong, takes its second choice when the first is not possible, may change its mind or bargain once, points at
what a reply has listed ("the second one") or at the day of the goal before. It says the same in other words as often
as its persona has patience, then leaves with EXIT, as it does when every goal is answered.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agentmill.domains.automotive import phrases, requests
from agentmill.domains.automotive.hearing import Heard, hear
from agentmill.domains.automotive.intents import FREE_TEXT_INTENTS, INTENTS, SEARCH_ENTITIES
from agentmill.domains.automotive.openers import opener, together, vague_opener
from agentmill.domains.automotive.values import OWN_WORDS
from agentmill.domains.automotive.voice import MIXED_UP, car_phrase, forms, mentions, slot_phrase, written
from agentmill.domains.kit import personas
from agentmill.domains.kit.non_native import non_native
from agentmill.domains.kit.phrases import MANNERS, Manner

EXIT = "EXIT"
POINTING = "pointing"  # a plain customer who says "the second one" and "the same day"
_OTHER = ("else_", "mind_", "ask_")
_UNIT = {"down_payment": " down"}
MAX_ASKED, MAX_AGREED = 2, 2
_FAREWELL_SHARE, _PAIR_SHARE = 0.3, 0.4
_ARTICLE = re.compile(r"\b([Aa]) (?=[AEIOaeio]|SUV)")
_ORDER = (
    "stock", "day", "time", "name", "licence", "reference", "make", "model", "year", "mileage", "condition", "score",
    "term", "down_payment", "service", "plate", "order", "other_stock", "discount", "place", "phone", "vin",
)  # fmt: skip
_FOLLOWING = {"order": "name", "name": "phone", "service": "plate", "score": "term"}
_ANSWERS = {**phrases.ANSWERS, **requests.TOLD}
_PAIRS = {**phrases.PAIRS, **requests.TOLD_PAIRS}
_LISTED = re.compile(r"\b[A-Z]\d{4}\b")
_POINTING_SHARE, _SAME_DAY_SHARE = 0.6, 0.5
_PUSHED = ("find_vehicles", "value_trade_in")  # answered without a proposal, and yet bargained for


_OTHER_CHOICES: dict[str, tuple[str, tuple[str, ...]]] = {
    "refused": ("else_", phrases.OTHER_SLOT),
    "changed": ("mind_", requests.CHANGED_MIND),
    "bargains": ("ask_", personas.BARGAINS),
    "limit": ("ask_", personas.ACCEPTS),
}


def manner_of(persona: str) -> Manner:
    """How a persona begins its sentences; the dealership's own words for those who have no other behaviour."""
    known = persona if persona in phrases.OPENINGS or persona in MANNERS else "plain"
    if known not in phrases.OPENINGS:
        return MANNERS[known]
    return Manner(phrases.OPENINGS[known], phrases.TURNS[known], phrases.FILLERS[known], terse=known == "terse")


@dataclass
class Progress:
    """Where the customer stands: the goal at hand, what was said for it and how the last reply was heard."""

    goal: int = 0
    heard: Heard | None = None
    failures: int = 0
    second_choice: bool = False
    other_mind: bool = False
    bargain: str = ""  # "open" while more is asked for than there is, then "over"
    puzzled: bool = False
    pushed: bool = False
    said: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


class Customer:
    """One customer at one point of a conversation."""

    def __init__(self, frame: Mapping[str, str], seed: int | None) -> None:
        self.persona = frame["persona"]
        self.who = personas.PERSONAS.get(self.persona, personas.PLAIN["plain"])
        self.manner = manner_of(self.persona)
        self.goals: list[dict[str, Any]] = json.loads(frame["goals"])
        self.history: list[list[str]] = json.loads(frame["history"])
        self.rng = random.Random(f"customer {seed} {frame['persona']} {frame['goals']} {frame['history']}")
        self.points = frame["persona"] == POINTING
        self.at = Progress()

    def speak(self) -> str:
        """The next utterance, or EXIT."""
        text = self._speak()
        foreign = self.persona == "non_native" and self.at.goal < len(self.goals) and text != EXIT
        return non_native(text, self.rng) if foreign else text

    def _speak(self) -> str:
        for said, reply in self.history:
            if self.at.goal < len(self.goals):
                self._take_in(said, reply)
        if self.at.failures > self.who.patience:
            return EXIT
        if self.at.goal >= len(self.goals):
            return self._leave()
        heard = self.at.heard
        if heard is None:
            return self._joined(self._prefix(), self._opening())
        return self._respond(heard)

    def _wishes(self) -> dict[str, Any]:
        """The goal's slots as wanted now: another choice once the first was refused or the mind has changed."""
        slots = self.goals[self.at.goal]["slots"]
        wishes = {name: value for name, value in slots.items() if not name.startswith(_OTHER)}
        at = self.at
        prefix = "else_" if at.second_choice else "mind_" if at.other_mind else "ask_" if at.bargain == "open" else ""
        if prefix:
            wishes |= {name.removeprefix(prefix): v for name, v in slots.items() if name.startswith(prefix)}
        return wishes

    @property
    def _intent(self) -> str:
        """The intent that decides how a reply to the goal at hand is heard: the last one asked for."""
        goal = self.goals[self.at.goal]
        return str(goal.get("also", [goal["intent"]])[-1])

    def _take_in(self, said: str, reply: str) -> None:
        """Go on by one turn: what the reply means for the goal at hand."""
        at, intent = self.at, self._intent
        at.said.append(said)
        if intent in FREE_TEXT_INTENTS:
            self.at = Progress(goal=at.goal + 1)
            return
        heard = self._acted(hear(intent, self._wishes(), reply))
        if heard.kind == "done":
            self.at = Progress(goal=at.goal + 1)
            return
        at.counts[f"{heard.kind} {heard.slots}"] += 1
        asked_again = heard.kind == "question" and at.counts[f"question {heard.slots}"] > MAX_ASKED
        agreed_again = heard.kind == "proposal" and at.counts["proposal ()"] > MAX_AGREED
        if heard.kind in ("unhelpful", "mismatch") or asked_again or agreed_again:
            at.failures += 1
        if heard.kind == "mismatch" and at.failures > self.who.patience:
            self.at = Progress(goal=at.goal + 1)
            return
        at.heard = Heard("unhelpful") if asked_again or agreed_again else heard

    def _acted(self, heard: Heard) -> Heard:
        """What the customer makes of what was heard: another choice, a changed mind, a bargain, a trick of theirs."""
        at = self.at
        if heard.kind == "question" and not at.puzzled and self._draws(self.who.puzzled_share, "puzzled"):
            at.puzzled = True
            return Heard("puzzled")
        if heard.kind == "done" and self._intent == "find_vehicles" and self._untold():
            return Heard("question", self._untold())
        if at.bargain == "open" and heard.kind in ("refused", "done"):
            at.bargain = "over"
            return Heard("limit") if heard.kind == "refused" else heard
        if heard.kind in ("refused", "gone"):
            return self._refused(gone=heard.kind == "gone")
        if heard.kind == "proposal" and not at.other_mind and self._choices("mind_"):
            at.other_mind = True
            return Heard("changed")
        looked_up = heard.kind == "done" and not INTENTS[self._intent].needs_confirmation
        if (heard.kind == "proposal" or looked_up) and not at.bargain and self._choices("ask_"):
            at.bargain = "open"
            return Heard("bargains")
        pushing = heard.kind == "proposal" or (looked_up and self.persona == "haggling" and self._intent in _PUSHED)
        if pushing and not (at.pushed or at.bargain) and self._draws(self.who.push_share, "push"):
            at.pushed = True
            return Heard("pushes")
        return heard

    def _draws(self, share: float, what: str) -> bool:
        """Whether the persona does `what` with the goal at hand."""
        return personas.draws(share, what, self.at.goal, self.goals)

    def _refused(self, *, gone: bool) -> Heard:
        """What a refusal leads to: the second choice, or its acceptance where the car is gone or no rate is given."""
        if self._choices("else_") and not self.at.second_choice:
            self.at.second_choice = True
            return Heard("refused")
        accepted = gone or (self._intent == "finance_quote" and not self.at.second_choice)
        return Heard("done" if accepted else "unhelpful")

    def _choices(self, prefix: str) -> list[str]:
        """The slots for which the goal has another choice of this kind."""
        return [name.removeprefix(prefix) for name in self.goals[self.at.goal]["slots"] if name.startswith(prefix)]

    def _untold(self) -> tuple[str, ...]:
        """What the customer looks for and has not said yet; given up once it was said and not understood."""
        slots = self.goals[self.at.goal]["slots"]
        text = " ".join(self.at.said)
        return tuple(name for name in SEARCH_ENTITIES if name in slots and not mentions(name, slots[name], text))

    def _leave(self) -> str:
        last = self.history[-1][0] if self.history else EXIT
        first_time = not any(text in last for text in phrases.FAREWELLS)
        if first_time and self.history and random.Random(json.dumps(self.goals)).random() < _FAREWELL_SHARE:
            return self.rng.choice(phrases.FAREWELLS)
        return EXIT

    def _respond(self, heard: Heard) -> str:
        wishes = self._wishes()
        if heard.kind == "proposal":
            return self._joined("", self.rng.choice(phrases.AGREE))
        if heard.kind == "mismatch":
            values = self._values(wishes, heard.slots)
            return self._joined("", self.rng.choice(phrases.CORRECT).format(values=values))
        if heard.kind in ("puzzled", "pushes"):
            return self._joined("", self.rng.choice(getattr(self.who, heard.kind)))
        if heard.kind in ("refused", "changed", "bargains", "limit"):
            return self._other_choice(heard.kind)
        if heard.kind == "question":
            text = self._answer(heard.slots, wishes)
            if text is not None:
                return self._joined(self.rng.choice(self.manner.fillers), text)
        goal = self.goals[self.at.goal]
        if "also" in goal:
            return self._joined(self.rng.choice(phrases.REPEATS), together(goal, self.rng))
        text = opener(goal["intent"], wishes, self.rng, earlier=self.goals[: self.at.goal], in_full=True)
        return self._joined(self.rng.choice(phrases.REPEATS), text)

    def _opening(self) -> str:
        goal = self.goals[self.at.goal]
        if "also" in goal:
            return together(goal, self.rng)
        earlier = self.goals[: self.at.goal]
        if self._draws(self.who.vague_share, "vague"):
            vague = vague_opener(goal["intent"], self._wishes(), self.rng, earlier)
            if vague is not None:
                return vague
        text = opener(goal["intent"], self._wishes(), self.rng, earlier=earlier)
        return self._pointing(text)

    def _pointing(self, text: str) -> str:
        """The text with a stock number that the last reply has listed, or the day of the goal before, pointed at."""
        if not self.points or not self.at.goal or not self.history:
            return text
        listed = list(dict.fromkeys(_LISTED.findall(self.history[-1][1])))
        for slot in ("stock", "other_stock"):
            stock = str(self._wishes().get(slot))
            if len(listed) > 1 and stock in listed and stock in text and self.rng.random() < _POINTING_SHARE:
                place = requests.ORDINALS[listed.index(stock)]
                text = text.replace(stock, self.rng.choice(requests.ANY_CAR).format(nth=place))
        before, day = self.goals[self.at.goal - 1], self._wishes().get("day")
        if before["slots"].get("day") == day and self._steady(before) and self.rng.random() < _SAME_DAY_SHARE:
            text = re.sub(rf"\b(?:on )?{day}\b", self.rng.choice(requests.SAME_DAY), text, flags=re.IGNORECASE)
        return text

    def _steady(self, goal: Mapping[str, Any]) -> bool:
        """Whether the day of a goal was what it was from its beginning to its end."""
        return not any(name in goal["slots"] for name in ("else_day", "mind_day", "else_time"))

    def _prefix(self) -> str:
        if self.goals[self.at.goal]["intent"] == "small_talk":
            return ""
        if not self.history:
            return self.rng.choice(self.manner.openings)
        after_talk = self.at.goal > 0 and self.goals[self.at.goal - 1]["intent"] in FREE_TEXT_INTENTS
        return self.rng.choice(phrases.AFTER_TALK if after_talk else self.manner.turns)

    def _answer(self, slots: tuple[str, ...], wishes: dict[str, Any]) -> str | None:
        """The answer to a question, sometimes with what comes next; None where it asks for what is not wanted."""
        if self._intent == "find_vehicles":
            if self.at.said and len(slots) < len(wishes) and slots == self._untold() and "body" not in slots:
                return self._refinement(slots, wishes)
            if slots == ("body",) and set(wishes) == {"body"}:
                return self._fill("body", wishes)
            template = phrases.ANSWERS["body"] if "body" in wishes and len(wishes) == 1 else phrases.NO_PREFERENCE
            return self.rng.choice(template).format(car=car_phrase(wishes, self.rng))
        slot = slots[0]
        if slot not in wishes:
            return None
        after = _ORDER[_ORDER.index(slot) + 1 : _ORDER.index(slot) + 2]
        pair = (slot, after[0] if after and after[0] in wishes else _FOLLOWING.get(slot, ""))
        told = " ".join(self.at.said)
        new = pair in _PAIRS and pair[1] in wishes and not mentions(pair[1], wishes[pair[1]], told)
        if new and self.rng.random() < _PAIR_SHARE:
            values = {name: written(name, wishes[name], self.rng) for name in pair}
            return self.rng.choice(_PAIRS[pair]).format(**values)
        return self._fill(slot, wishes)

    def _fill(self, slot: str, wishes: dict[str, Any]) -> str:
        text = self.rng.choice(_ANSWERS[slot])
        right = text.format(**{slot: written(slot, wishes[slot], self.rng)})
        if slot not in MIXED_UP or not self._draws(self.who.mixed_up, f"mixed up {slot}"):
            return right
        wrong = personas.mixed_up(wishes[slot], MIXED_UP[slot], self.rng)
        return personas.self_corrected(text.format(**{slot: written(slot, wrong, self.rng)}), right, self.rng)

    def _refinement(self, slots: tuple[str, ...], wishes: dict[str, Any]) -> str:
        parts = []
        for slot in slots:
            text = written(slot, wishes[slot], self.rng)
            parts.append({"make": f"a {text}", "max_price": f"under {text}"}.get(slot, text))
        return self.rng.choice(phrases.REFINE).format(x=" and ".join(parts))

    def _other_choice(self, kind: str) -> str:
        """Says the slots of the other choice, or those of the first one again where a bargain is over."""
        prefix, texts = _OTHER_CHOICES[kind]
        texts = personas.MIXED_MIND if kind == "changed" and self.persona == "confused" else texts
        names, wishes = self._choices(prefix), self._wishes()
        if {"day", "time"} & set(names):
            text = slot_phrase(wishes, names, self.rng)
        else:
            text = " and ".join(f"{written(n, wishes[n], self.rng)}{_UNIT.get(n, '')}" for n in names)
        return self._joined("", self.rng.choice(texts).format(slot=text))

    def _values(self, wishes: dict[str, Any], slots: tuple[str, ...]) -> str:
        """The values that were got wrong, as they are said in a correction."""
        if self._intent == "find_vehicles":
            return car_phrase(wishes, self.rng)
        if {"make", "model", "year"} & set(slots):
            return f"a {wishes['year']} {wishes['make']} {wishes['model']}"
        plain = [forms(name, wishes[name])[0] for name in slots if name not in ("day", "time")]
        when = slot_phrase(wishes, [name for name in slots if name in ("day", "time")], self.rng)
        return ", ".join([*plain, when] if when else plain)

    def _joined(self, prefix: str, text: str) -> str:
        """Prefix and text as one utterance in the persona's manner."""
        word = text.split()[0].strip(",.:!?")
        goes_on = prefix.rstrip().endswith((",", ":", "And", "and"))
        if goes_on and word in OWN_WORDS and word.split("'")[0] not in ("I", "SUV"):
            text = text[0].lower() + text[1:]
        if self.manner.terse:
            text = text.rstrip(".")
        text = _ARTICLE.sub(r"\1n ", prefix + text)
        return text[0].upper() + text[1:]
