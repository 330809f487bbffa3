"""The line format of every agent's prompt: `key: value` lines, the same for the teacher, the expert and the student.

A frame is an ordered mapping from lower-case keys to text. Only the last key may hold several lines (a plan).
Invariant: text from a customer or a tool cannot add a line, because line breaks in values are folded to spaces,
so `parse_frame(render_frame(f)) == f` for every frame whose values have been folded.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

_KEY_LINE = re.compile(r"^([a-z][a-z_]*): (.*)$")
_BREAKS = re.compile(r"[\s\x00-\x1f\x7f\x85\u2028\u2029]+")


def fold(text: str) -> str:
    """Make `text` one line: every run of white space and control characters becomes one space."""
    return _BREAKS.sub(" ", text).strip()


def to_text(value: Any) -> str:
    """Write a value as a frame shows it: strings bare, true and false as yes and no, the rest as compact JSON."""
    if isinstance(value, str):
        return fold(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def render_frame(fields: Mapping[str, Any], *, block: tuple[str, str] | None = None) -> str:
    """Write `fields` as lines; `block` is an optional last key whose text keeps its own lines."""
    lines = [f"{key}: {to_text(value)}" for key, value in fields.items()]
    if block is not None:
        lines.append(f"{block[0]}: {block[1].strip()}")
    return "\n".join(lines)


def parse_frame(text: str) -> dict[str, str]:
    """Read a frame back. A line that starts no key belongs to the key above it."""
    fields: dict[str, str] = {}
    key = ""
    for line in text.split("\n"):
        match = _KEY_LINE.match(line)
        if match:
            key = match.group(1)
            fields[key] = match.group(2)
        elif key:
            fields[key] += "\n" + line
    return fields
