"""How an expert Understander reads a customer: patterns over the words alone, never the hidden goals.

A `Reading` takes the Understander's frame and gives its answer as a JSON object. The requests come from cue words,
tried in a fixed order in each clause, or stay what they were; values come from the pack's readers, tried in the order
of the entity table, each on what the ones before have left. A pack has the intents small_talk and out_of_scope.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agentmill.domains.base import Entity, Intent, Json, missing_entity
from agentmill.domains.kit.personas import CORRECTION
from agentmill.domains.kit.policy import Frame
from agentmill.domains.switching import Switch, intents_under, names_in

Reader = Callable[[str, Json, str], tuple[Any, str]]  # (text, heard so far, assistant) -> (value or None, rest of text)
Refer = Callable[[str, Mapping[str, list[Any]]], Json]  # (text, memory) -> what its references stand for
ORDINALS = ("first", "second", "third", "fourth", "fifth")
_CLAUSE = re.compile(r"(?<=[.?!])\s+(?=(?:And|Also|Then)\b)")
_ORDINAL = re.compile(rf"\bthe ({'|'.join(ORDINALS)}|last)\b", re.IGNORECASE)
_GREETING = re.compile(r"\bgood (?:morning|afternoon|evening|day)\b", re.IGNORECASE)


def cue(pattern: str) -> re.Pattern[str]:
    """A pattern of whole words, whatever the case."""
    return re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE)


TALK = cue(
    r"hi|hello|hey|good (?:morning|afternoon|evening)|how are you|thanks|thank you|cheers|bye|goodbye|that's all|"
    r"that was all|weather|rainy|sunny|website|friendly"
)
AGREES = re.compile(
    r"^\W*(?:yes|yeah|yep|sure|please do|go ahead|ok|okay|perfect|that works|sounds good|great|correct|right|confirm|"
    r"do it|book it|absolutely|definitely|of course|fine|exactly|that's right|"
    r"it sounds good|for me this works)\b",
    re.IGNORECASE,
)
DECLINES = cue(r"no|not|wrong|never mind|leave it|forget it|don't")


@dataclass(frozen=True)
class Reading:
    """What a pack tells of its customers' language.

    `cues` name the intents in the order in which they are tried; `together` are the pairs of intents that two clauses
    of one utterance may ask for; a value of an intent in `alone` stands for that intent where no words do; `talk` is
    what small talk is known by. Of the `switches` a frame tells those that make an intent need more entities.
    """

    entities: Mapping[str, Entity]
    intents: Mapping[str, Intent]
    cues: Sequence[tuple[str, re.Pattern[str]]]
    readers: Mapping[str, Reader]
    refer: Refer = lambda text, memory: {}
    together: frozenset[tuple[str, ...]] = frozenset()
    alone: tuple[str, ...] = ()
    talk: re.Pattern[str] = TALK
    switches: Mapping[str, Switch] = field(default_factory=dict)

    def understand(self, frame: Frame) -> Json:
        """The error-free answer: requests, entities heard, confirmation, question back."""
        if "changes" in frame:
            names = names_in(self.switches, json.loads(frame["changes"]))
            rest = {name: text for name, text in frame.items() if name != "changes"}
            return replace(self, intents=intents_under(self.intents, self.switches, names)).understand(rest)
        text = frame.get("customer", "")
        before = (frame.get("intent", "none"), *filter(None, frame.get("also", "").split(", ")))
        proposed = frame.get("proposed") == "yes"
        asked = self._asked(text)
        requests = asked or tuple(name for name in before if name in self.intents)
        heard = self.heard(requests, frame, frame.get("assistant", ""))
        agrees = proposed and requests == before and bool(AGREES.search(text))
        if not asked and not heard and not agrees:
            meant = self._implied(frame) or self._without_cue(text, requests, proposed)
            requests = before if meant == before[0] else (meant,)
            heard = self.heard(requests, frame, "") if requests != before else heard
        known = self._known(frame, before, requests)
        missing = missing_entity([self.intents[name] for name in requests], {*known, *heard})
        changed = any(str(value) != known.get(name) for name, value in heard.items())
        also = {"also": list(requests[1:])} if requests[1:] else {}
        return {
            "intent": requests[0],
            **also,
            "entities": heard,
            "confirmed": agrees and not changed,
            "question": self.entities[missing].question if missing else None,
        }

    def _asked(self, text: str) -> tuple[str, ...]:
        """The requests of an utterance: that of its first cue, or those of two clauses that go together."""
        clauses = [self._intent_of(clause) for clause in _CLAUSE.split(text)]
        named = tuple(dict.fromkeys(filter(None, clauses)))
        if named in self.together:
            return named
        whole = self._intent_of(text)
        return (whole,) if whole else ()

    def _intent_of(self, text: str) -> str:
        return next((name for name, pattern in self.cues if pattern.search(text)), "")

    def slots(self, requests: Sequence[str]) -> list[str]:
        """The entities that the requests have use for."""
        known = [self.intents[name] for name in requests if name in self.intents]
        return [slot for intent in known for slot in intent.required + intent.optional]

    def supplied(self, requests: Sequence[str]) -> set[str]:
        """What one of several requests is to give to the others."""
        return {slot for name in requests for slot in self.intents[name].supplies} if requests[1:] else set()

    def _known(self, frame: Frame, before: Sequence[str], requests: Sequence[str]) -> dict[str, str]:
        """What the frame tells and is kept, as DialogueState.updated keeps it."""
        kept = self.slots([name for name in requests if name in before])
        dropped = self.supplied(requests) if requests != before else set()
        return {
            name: frame[name]
            for name in self.slots(before)
            if name in frame and (name in kept or self.entities[name].shared) and name not in dropped
        }

    def heard(self, requests: Sequence[str], frame: Frame, assistant: str) -> Json:
        """The entities heard, in the order of their table; what is said after "no wait" is meant."""
        found: Json = {}
        for part in CORRECTION.split(frame.get("customer", "")):
            found |= self.values(requests, part, frame, assistant)
        return {name: found[name] for name in self.entities if name in found}

    def values(self, requests: Sequence[str], text: str, frame: Frame, assistant: str) -> Json:
        """The entities in a text, references resolved."""
        wanted, supplied = set(self.slots(requests)), self.supplied(requests)
        text = _GREETING.sub(" ", text)
        heard = self.refer(text, json.loads(frame.get("memory", "{}")))
        heard = {name: value for name, value in heard.items() if name in wanted - supplied}
        for name in self.entities:
            if name in wanted:
                value, text = self.readers[name](text, heard, assistant)
                heard |= {} if value is None else {name: value}
        return heard

    def _implied(self, frame: Frame) -> str:
        return next((name for name in self.alone if self.heard((name,), frame, "")), "")

    def _without_cue(self, text: str, before: Sequence[str], proposed: bool) -> str:
        """The intent of words that name no wish and no value: small talk, the intent again, or nothing of ours."""
        if self.talk.search(text) or (proposed and DECLINES.search(text)):
            return "small_talk"
        return before[0] if before and self.intents[before[0]].tools else "out_of_scope"


def ordinal(text: str, listed: Sequence[Any]) -> Any | None:
    """What "the second one" stands for among the values that were listed; None for nothing."""
    match = _ORDINAL.search(text)
    if match is None or not listed:
        return None
    place = len(listed) - 1 if match[1].lower() == "last" else ORDINALS.index(match[1].lower())
    return listed[place] if place < len(listed) else None


def pattern_reader(pattern: str, value: Callable[[re.Match[str]], Any] = lambda match: match[0]) -> Reader:
    """A reader of the first match of a pattern, whatever the case."""
    compiled = re.compile(pattern, re.IGNORECASE)

    def read(text: str, heard: Json, assistant: str) -> tuple[Any, str]:
        match = compiled.search(text)
        return (value(match), f"{text[: match.start()]} ; {text[match.end() :]}") if match else (None, text)

    return read


def choice_reader(choices: Sequence[str]) -> Reader:
    """A reader of one of the choices, as a word of its own."""
    return pattern_reader(rf"\b(?:{'|'.join(map(re.escape, choices))})\b", lambda match: match[0].lower())


def when_asked(word: str, asked: Reader, otherwise: Reader) -> Reader:
    """A reader that takes more for a value when the assistant has just asked for it with `word`."""

    def read(text: str, heard: Json, assistant: str) -> tuple[Any, str]:
        return (asked if word in assistant.casefold() else otherwise)(text, heard, assistant)

    return read
