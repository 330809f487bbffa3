"""The user simulator U in code: what a customer says next, from persona, goals and history alone.

A pure function of its frame and a seed. It walks through the history to see which goals the replies have answered,
then speaks: opens the next goal, answers a question, agrees to a proposal whose facts are right, corrects one whose
facts are wrong, takes its second choice (slots `else_x`) when the first is refused, changes its mind once (slots
`mind_x`) before it agrees, points at what the last reply has listed ("the second one"), and does what its persona does
(`personas`). It says the same in other words as often as its persona has patience, then leaves with EXIT, as it does
when every goal is answered. A refusal without a second choice is an answer.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentmill.domains.kit import personas, phrases
from agentmill.domains.kit.hearing import Heard, Signs
from agentmill.domains.kit.non_native import non_native
from agentmill.domains.kit.policy import Frame
from agentmill.domains.kit.reading import ORDINALS

EXIT = "EXIT"
MAX_ASKED, MAX_AGREED = 2, 2
_FAREWELL_SHARE, _POINTING_SHARE = 0.3, 0.6
_SLOT = re.compile(r"{(\w+)}")
_OTHER = ("else_", "mind_")
Texts = tuple[str, ...]


@dataclass(frozen=True)
class Speech:
    """How the customers of one pack talk; every text may hold slots in `{braces}`.

    `openings` are keyed by intent, or by two with a plus between for a wish of two requests. Of the slots that `whole`
    names for an intent a text tells all that are wished for or none; an opening names a slot of `named` when an earlier
    goal may have left another value. A value that a pattern of `listed` finds in the last reply may be pointed at, as
    `noun`: "the second book". `free` intents have no end but a reply.
    `mixed` are the slots that a confused customer names wrongly first, with the values that they might be (none: a
    number); `pushed` the intents that are answered without a proposal and are bargained over.
    """

    signs: Signs
    openings: Mapping[str, Texts]
    answers: Mapping[str, Texts]
    second: Mapping[str, Texts]
    changed: Mapping[str, Texts]
    free: Texts
    whole: Mapping[str, Texts] = field(default_factory=dict)
    named: Texts = ()
    listed: Mapping[str, re.Pattern[str]] = field(default_factory=dict)
    noun: str = "one"
    mixed: Mapping[str, Texts] = field(default_factory=dict)
    pushed: Texts = ()


@dataclass
class Progress:
    """Where the customer stands: the goal at hand and how the last reply to it was heard."""

    goal: int = 0
    heard: Heard | None = None
    failures: int = 0
    choice: str = ""
    puzzled: bool = False
    pushed: bool = False
    counts: Counter[str] = field(default_factory=Counter)


class Customer:
    """One customer at one point of a conversation."""

    def __init__(self, speech: Speech, frame: Frame, seed: int | None) -> None:
        self.speech = speech
        self.persona = frame["persona"]
        self.who = personas.PERSONAS.get(self.persona, personas.PLAIN["plain"])
        self.manner = phrases.MANNERS.get(frame["persona"], phrases.MANNERS["plain"])
        self.goals: list[dict[str, Any]] = json.loads(frame["goals"])
        self.history: list[list[str]] = json.loads(frame["history"])
        self.rng = random.Random(f"customer {seed} {frame['persona']} {frame['goals']} {frame['history']}")
        self.at = Progress()

    def speak(self) -> str:
        """The next utterance, or EXIT."""
        text = self._speak()
        foreign = self.persona == "non_native" and self.at.goal < len(self.goals) and text != EXIT
        return non_native(text, self.rng) if foreign else text

    def _speak(self) -> str:
        for _, reply in self.history:
            if self.at.goal < len(self.goals):
                self._take_in(reply)
        if self.at.failures > self.who.patience:
            return EXIT
        if self.at.goal >= len(self.goals):
            return self._leave()
        return self._respond(self.at.heard) if self.at.heard else self._open()

    @property
    def _goal(self) -> dict[str, Any]:
        return self.goals[self.at.goal]

    @property
    def _intents(self) -> list[str]:
        return [self._goal["intent"], *self._goal.get("also", ())]

    def _wishes(self) -> dict[str, Any]:
        """The goal's slots as wanted now: another choice once the first was refused or the mind has changed."""
        slots = self._goal["slots"]
        wishes = {name: value for name, value in slots.items() if not name.startswith(_OTHER)}
        return wishes | {name: slots[f"{self.at.choice}{name}"] for name in self._choices(self.at.choice)}

    def _choices(self, prefix: str) -> list[str]:
        """The slots for which the goal has another choice of this kind."""
        names = self._goal["slots"] if prefix else ()
        return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]

    def _take_in(self, reply: str) -> None:
        """Go on by one turn: what the reply means for the goal at hand."""
        at, intent = self.at, self._intents[-1]
        free = intent in self.speech.free
        heard = Heard("done") if free else self._acted(self.speech.signs.hear(intent, self._wishes(), reply))
        if heard.kind == "done":
            self.at = Progress(at.goal + 1)
            return
        at.counts[f"{heard.kind} {heard.slots}"] += 1
        asked_again = heard.kind == "question" and at.counts[f"question {heard.slots}"] > MAX_ASKED
        agreed_again = heard.kind == "proposal" and at.counts["proposal ()"] > MAX_AGREED
        at.failures += heard.kind in ("unhelpful", "mismatch") or asked_again or agreed_again
        at.heard = Heard("unhelpful") if asked_again or agreed_again else heard

    def _acted(self, heard: Heard) -> Heard:
        """What the customer makes of what was heard: another choice, a changed mind, a trick of the persona's."""
        at = self.at
        if heard.kind == "question" and not at.puzzled and self._draws(self.who.puzzled_share, "puzzled"):
            at.puzzled = True
            return Heard("puzzled")
        if heard.kind == "refused" and self._choices("else_") and at.choice != "else_":
            at.choice = "else_"
            return heard
        if heard.kind == "refused":
            return Heard("done")
        if heard.kind == "proposal" and self._choices("mind_") and not at.choice:
            at.choice = "mind_"
            return Heard("changed")
        bargains = heard.kind == "done" and self.persona == "haggling" and self._intents[-1] in self.speech.pushed
        if (heard.kind == "proposal" or bargains) and not at.pushed and self._draws(self.who.push_share, "push"):
            at.pushed = True
            return Heard("pushes")
        return heard

    def _draws(self, share: float, what: str) -> bool:
        """Whether the persona does `what` with the goal at hand."""
        return personas.draws(share, what, self.at.goal, self.goals)

    def _leave(self) -> str:
        last = self.history[-1][0] if self.history else EXIT
        first_time = not any(text in last for text in phrases.FAREWELLS)
        if first_time and self.history and random.Random(json.dumps(self.goals)).random() < _FAREWELL_SHARE:
            return self.rng.choice(phrases.FAREWELLS)
        return EXIT

    def _open(self) -> str:
        must = frozenset(name for name in self.speech.named if self._named_otherwise(name))
        text = self._drawn(self._openings, must=must, vague=self._draws(self.who.vague_share, "vague"))
        prefix = self.manner.turns if self.history else self.manner.openings
        talk = self._intents[0] in self.speech.free
        return self._joined("" if talk else self.rng.choice(prefix), text, pointing=True)

    @property
    def _openings(self) -> Texts:
        """How the goal at hand may be opened; talk on a topic of its own has its own words."""
        of_topic = f"{self._intents[0]} {self._goal['slots'].get('topic')}"
        return self.speech.openings.get(of_topic) or self.speech.openings["+".join(self._intents)]

    def _respond(self, heard: Heard) -> str:
        choices = self._choices(self.at.choice)
        match heard.kind:
            case "proposal":
                return self._joined("", self.rng.choice(phrases.AGREE))
            case "mismatch":
                values = ", ".join(self._written(name) for name in heard.slots)
                return self._joined("", self.rng.choice(phrases.CORRECT).format(values=values))
            case "refused":
                return self._joined("", self._drawn(self.speech.second[choices[0]]))
            case "changed":
                mixed = tuple(text.replace("{slot}", f"{{{choices[0]}}}") for text in personas.MIXED_MIND)
                texts = mixed if self.persona == "confused" else self.speech.changed[choices[0]]
                return self._joined("", self._drawn(texts))
            case "puzzled":
                return self._joined("", self.rng.choice(self.who.puzzled))
            case "pushes":
                return self._joined("", self.rng.choice(self.who.pushes))
            case "question" if heard.slots[0] in self.speech.answers:
                text = self._drawn(self.speech.answers[heard.slots[0]])
                if text and (mended := self._mixed_up(heard.slots[0], text)):
                    return mended
                if text:
                    return self._joined(self.rng.choice(self.manner.fillers), text)
        text = self._drawn(self._openings, in_full=True)
        return self._joined(self.rng.choice(phrases.REPEATS), text)

    def _mixed_up(self, slot: str, text: str) -> str:
        """An answer that names a wrong value first and mends it, "" where the customer mixes nothing up."""
        mixes = slot in self.speech.mixed and set(_SLOT.findall(text)) == {slot}
        if not mixes or not self._draws(self.who.mixed_up, f"mixed up {slot}"):
            return ""
        wrong = personas.mixed_up(self._wishes()[slot], self.speech.mixed[slot], self.rng)
        said = text.format(**{slot: self.rng.choice(self.speech.signs.forms(slot, wrong))})
        return personas.self_corrected(said, text.format(**{slot: self._written(slot)}), self.rng)

    def _drawn(
        self,
        texts: Sequence[str],
        *,
        must: frozenset[str] = frozenset(),
        in_full: bool = False,
        vague: bool = False,
    ) -> str:
        """One of the texts that say only what is wished for; "" where none does.

        `in_full`: one that says most; `vague`: one that says least.
        """
        wishes = self._wishes()
        fits = {text: set(_SLOT.findall(text)) for text in texts}
        fits = {text: slots for text, slots in fits.items() if must <= slots <= wishes.keys()}
        for intent in self._intents:
            told = wishes.keys() & set(self.speech.whole.get(intent, ()))
            fits = {text: slots for text, slots in fits.items() if slots & told in (told, set())}
        if in_full:
            most = max(map(len, fits.values()), default=0)
            fits = {text: slots for text, slots in fits.items() if len(slots) == most}
        if vague:
            least = min(map(len, fits.values()), default=0)
            fits = {text: slots for text, slots in fits.items() if len(slots) == least}
        return self.rng.choice(list(fits)) if fits else ""

    def _named_otherwise(self, name: str) -> bool:
        """Whether an earlier goal had another value for a slot, or one of two requests that was not said."""
        if name not in self._wishes():
            return False
        keys = (name, f"else_{name}", f"mind_{name}")
        earlier = self.goals[: self.at.goal]
        values = [goal["slots"][key] for goal in earlier for key in keys if key in goal["slots"]]
        return any("also" in goal for goal in earlier) or any(other != self._wishes()[name] for other in values)

    def _written(self, name: str) -> str:
        return self.rng.choice(self.speech.signs.forms(name, self._wishes()[name]))

    def _joined(self, prefix: str, template: str, *, pointing: bool = False) -> str:
        """Prefix and text as one utterance in the persona's manner, the slots filled in."""
        if prefix.rstrip().endswith((",", ":", "And")) and not template.startswith(("I ", "I'", "{")):
            template = template[0].lower() + template[1:]
        if self.manner.terse:
            template = template.rstrip(".")
        values = {name: self._written(name) for name in _SLOT.findall(template)}
        if pointing and self.history and self.rng.random() < _POINTING_SHARE:
            values |= {name: place for name in values if (place := self._place(name))}
        text = prefix + template.format(**values)
        return text[0].upper() + text[1:]

    def _place(self, name: str) -> str:
        """How to point at a slot's value among several that the last reply has listed, "" where it is not there."""
        pattern = self.speech.listed.get(name)
        listed = list(dict.fromkeys(pattern.findall(self.history[-1][1]))) if pattern else []
        value = self._wishes()[name]
        return f"the {ORDINALS[listed.index(value)]} {self.speech.noun}" if len(listed) > 1 and value in listed else ""
