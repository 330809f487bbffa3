"""An utterance as somebody writes it whose first language is another: articles dropped, small words and order changed.

`non_native(text, rng)` touches function words alone: names, numbers and choices keep every letter and their order,
and what points at something ("the second one", "the same day") stays, so that the meaning can be read as before.
"""

import random
import re

_SHARE = 0.85  # of the turns of phrase that could be changed
_KEPT = r"(?!(?:first|second|third|fourth|fifth|last|same|other|workshop|one)\b)"
_ARTICLE = re.compile(rf"\b(?:an?|the) {_KEPT}(?=\w)", re.IGNORECASE)
_PER = re.compile(r"\b(how much\b.*) a month\b", re.IGNORECASE)
_PHRASES = tuple(
    (re.compile(pattern, re.IGNORECASE), text)
    for pattern, text in (
        (r"\bI(?:'d| would) like to\b", "I want to"),
        (r"\bI(?:'d| would) like\b", "I want"),
        (r"\bI'm looking for\b", "I am looking for"),
        (r"^(?:can|could) you (?=tell|give|find|check|look|book|cancel|move|compare|hold|search|describe|arrange)",
         "Please you "),
        (r"\bcan I have\b", "I can have"),
        (r"\bwhat are your\b", "which are your"),
        (r"\bhow late are you open\b", "how late you are open"),
        (r"\bwhen are you open\b", "when you are open"),
        (r"\bare you open\b", "you are open"),
        (r"\bdo you have\b", "you have maybe"),
        (r"\bis ([A-Z]\d{4}) still available", r"\1 is still available"),
        (r"\bhave you got\b", "you have got"),
        (r"\bI don't mind\b", "I don't mind it"),
        (r"\bmy name is\b", "my name it is"),
        (r"\bthat works for me\b", "for me this works"),
        (r"\bsounds good\b", "it sounds good to me"),
        (r"^yes, please\b", "Yes please, do"),
        (r"^it's (?=\S)", "Is "),
    )
)  # fmt: skip

FOREIGN_WORDS = tuple(text for _, text in _PHRASES)


def non_native(text: str, rng: random.Random) -> str:
    """`text` in such words; the same text and generator give the same words."""
    text = _PER.sub(r"\1 per month", text)
    for pattern, other in _PHRASES:
        if rng.random() < _SHARE:
            text = pattern.sub(other, text)
    text = _ARTICLE.sub(lambda match: "" if rng.random() < _SHARE else match[0], text)
    return text[:1].upper() + text[1:]
