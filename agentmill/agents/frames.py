"""The line format of every agent's prompt: `key: value` lines, the same for the teacher, the expert and the student.

A frame is an ordered mapping from lower-case keys to text. Only the last key may hold several lines: `plan`, which
takes all that follows it. Invariant: text from a customer or a tool cannot add a line or hide words in it. Line breaks
in values are folded to spaces or escaped in JSON, and so are signs that are not seen but that a model reads (zero
width, direction marks, Unicode's tags). So `parse_frame(render_frame(f)) == f` for all values that have been folded.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

_KEY_LINE = re.compile(r"^([a-z][a-z_]*): (.*)$")
BLOCK = "plan"
# Signs without a picture: a model reads what a person does not see. Halves of surrogate pairs cannot be sent at all.
_UNSEEN = (
    "\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff"
)
_HIDDEN = re.compile(f"[{_UNSEEN}]+")
_BREAKS = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_ESCAPED = re.compile(rf"[\x7f-\x9f\u2028\u2029{_UNSEEN}]")  # what json.dumps leaves as it is
_NO_BLOCK = re.compile(rf"[\x00-\x08\x0b-\x1f]|{_ESCAPED.pattern}")


def fold(text: str) -> str:
    """Make `text` one line of signs that are seen: every run of white space and control characters becomes one space.

    Signs without a picture are left out, but for the joiners that some scripts need.
    """
    return _BREAKS.sub(" ", _HIDDEN.sub("", text)).strip()


def to_text(value: Any) -> str:
    """Write a value as a frame shows it: strings bare, true and false as yes and no, the rest as compact JSON."""
    if isinstance(value, str):
        return fold(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return _ESCAPED.sub(lambda sign: json.dumps(sign[0])[1:-1], text)


def render_frame(fields: Mapping[str, Any], *, block: tuple[str, str] | None = None) -> str:
    """Write `fields` as lines; `block` is an optional last key whose text keeps its own lines.

    Other control signs and signs that are not seen are spelled out in it, as a Python text would have them.
    """
    lines = [f"{key}: {to_text(value)}" for key, value in fields.items()]
    if block is not None:
        text = block[1].strip().replace("\r\n", "\n")
        lines.append(f"{block[0]}: {_NO_BLOCK.sub(_spelled, text)}")
    return "\n".join(lines)


def _spelled(sign: re.Match[str]) -> str:
    return sign[0].encode("unicode_escape").decode()


def parse_frame(text: str) -> dict[str, str]:
    """Read a frame back. A line that starts no key belongs to the key above it, and every line after `plan` to it."""
    fields: dict[str, str] = {}
    key = ""
    for line in text.split("\n"):
        match = None if key == BLOCK else _KEY_LINE.match(line)
        if match:
            key = match.group(1)
            fields[key] = match.group(2)
        elif key:
            fields[key] += "\n" + line
    return fields
