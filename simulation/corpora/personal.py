"""Personal data replaced, the same value by the same replacement in every text of a conversation.

In go the texts of one conversation and the values that are known to be personal; out come texts that a model can still
learn from: a name in an utterance is the name in the plan's arguments and in the reply. Invariants: within one
conversation a value has one replacement, whatever its spelling (case, separators); no replacement stands in the texts
already; no value that was found or known is left. The same seed gives the same replacements.
"""

import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from simulation.corpora.lookalikes import first_name, last_name, lookalike
from simulation.corpora.recognisers import recognise
from simulation.corpora.rows import key64
from simulation.corpora.settings import PersonalKind, PersonalSettings

Known = Iterable[tuple[PersonalKind, str]]
_PARTICLES = frozenset("de da del der den di el la le ten ter van von dr mr mrs ms prof".split())
# Names that are words too: replaced only where they are written as names.
_WORDS = frozenset(
    "will may mark rose grace hope faith joy april june august bill rich grant chase art frank drew sue pat jack dean "
    "long young day king miles ford best price cook black white green brown gray grey hill wood field stone".split()
)
_SHORTEST = 2
_ATTEMPTS = 200


class Disguise:
    """Replaces personal data and counts what it replaced, by kind: distinct values of each conversation."""

    def __init__(self, settings: PersonalSettings, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self._settings = settings
        self._seed = seed

    def texts(self, conversation: str, texts: Sequence[str], known: Known = ()) -> list[str]:
        """The texts of one conversation with its personal data replaced."""
        values = self._values(texts, known)
        if not values:
            return list(texts)
        self.counts.update(kind for kind, _ in values.values())
        taken = "\n".join(texts).lower()
        table: dict[str, str] = {}
        for key, (kind, value) in values.items():
            if kind == "person":
                self._name(conversation, value, taken, table)
            else:
                table[key] = self._other(conversation, kind, key, value, taken, set(table.values()))
        if not table:
            return list(texts)
        pattern = _pattern(values, table)
        return [pattern.sub(lambda match: _spelled(match[0], table), text) for text in texts]

    def _values(self, texts: Sequence[str], known: Known) -> dict[str, tuple[PersonalKind, str]]:
        """Every personal value by what its spellings share; the known ones first."""
        found = {normal(value): (kind, value) for kind, value in known if len(normal(value)) >= _SHORTEST}
        for text in texts:
            for one in recognise(text, self._settings.phone_region):
                found.setdefault(normal(one.value), (one.kind, one.value))
        return found

    def _name(self, conversation: str, value: str, taken: str, table: dict[str, str]) -> None:
        """Names are replaced part by part, so that "Mr Lee" is still the "Ann Lee" of before."""
        for place, part in enumerate(value.split()):
            key = normal(part)
            if key in table or key in _PARTICLES or len(key) < _SHORTEST:
                continue
            rng = self._rng(conversation, "person", key)
            for _ in range(_ATTEMPTS):
                made = first_name(rng) if place == 0 else last_name(rng)
                if made.lower() not in taken and made not in table.values():
                    break
            table[key] = made

    def _other(self, conversation: str, kind: PersonalKind, key: str, value: str, taken: str, used: set[str]) -> str:
        rng = self._rng(conversation, kind, key)
        for _ in range(_ATTEMPTS):
            made = lookalike(kind, value, rng)
            if made.lower() not in taken and made not in used:
                break
        return made

    def _rng(self, conversation: str, kind: str, key: str) -> random.Random:
        return random.Random(key64(f"{self._seed}/{conversation}/{kind}/{key}"))


def normal(value: str) -> str:
    """What the spellings of a value share: its letters and digits in lower case."""
    return re.sub(r"[\W_]", "", value).lower() if "@" not in value else value.lower()


def known_values(fields: Mapping[str, object], entities: Mapping[str, PersonalKind]) -> list[tuple[PersonalKind, str]]:
    """The personal values among named values, those nested in lists and mappings included."""
    found: list[tuple[PersonalKind, str]] = []
    for name, value in fields.items():
        if name in entities and isinstance(value, str) and value.strip():
            found.append((entities[name], value))
        elif name in entities and isinstance(value, list):
            found += [(entities[name], one) for one in value if isinstance(one, str) and one.strip()]
        else:
            for inner in value if isinstance(value, list) else [value]:
                if isinstance(inner, Mapping):
                    found += known_values(inner, entities)
    return found


def _pattern(values: Mapping[str, tuple[PersonalKind, str]], table: Mapping[str, str]) -> re.Pattern[str]:
    """Finds every spelling of the values: separators may differ, and case where the value is no common word."""
    people = {normal(part): part for kind, value in values.values() if kind == "person" for part in value.split()}
    others = {key: value for key, (kind, value) in values.items() if kind != "person"}
    forms = [_form(key, value) for key, value in others.items()]
    for key, part in people.items():
        if key in table:
            text = re.escape(part.strip(".,"))
            forms.append(text if key in _WORDS else f"(?i:{text})")
    forms.sort(key=len, reverse=True)
    return re.compile(rf"(?<![^\W_])(?:{'|'.join(forms)})(?![^\W_])")


def _form(key: str, value: str) -> str:
    if "@" in value:
        return f"(?i:{re.escape(value)})"
    return "(?i:" + r"[ .\-()+]{0,2}".join(map(re.escape, key)) + ")"


def _spelled(seen: str, table: Mapping[str, str]) -> str:
    """The replacement in the spelling of what is replaced: its separators, its case."""
    made = table[normal(seen)]
    if "@" in made:
        return made
    signs = normal(made)
    if seen.isupper() or seen.islower():
        made = made.upper() if seen.isupper() else made.lower()
    if len(signs) != len(normal(seen)) or re.sub(r"\w", "", seen) == re.sub(r"\w", "", made):
        return made
    left = iter(re.sub(r"[\W_]", "", made))
    return "".join(next(left) if sign.isalnum() else sign for sign in seen)
