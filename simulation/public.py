"""Real dialogues to mix in: JSONL, plain or gzipped, one `{"messages": [{"role", "content"}, ...]}` a line.

Out come dialogues and, of every line that cannot be used, its number and why. Invariants: a broken line costs only
itself; empty lines are no dialogues and no errors; text that comes out can be written as UTF-8. The same dialogue
twice is kept once, so that none is both trained on and held out.
"""

import gzip
import json
import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, get_args

from agentmill.config import UserError
from agentmill.models.chat import Message, Role
from agentmill.runs import digest_json

CONTEXT_MESSAGES = 3
_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_ROLES = frozenset(get_args(Role))

Dialogue = tuple[Message, ...]


class PublicDataError(UserError):
    """A file of public dialogues that cannot be read at all."""


@dataclass
class PublicData:
    """What a file held. `problems` are (line number, why) of the lines that were skipped; `repeated` counts doubles."""

    dialogues: list[Dialogue] = field(default_factory=list)
    problems: list[tuple[int, str]] = field(default_factory=list)
    repeated: int = 0


def read_public(path: Path) -> PublicData:
    """Read a whole file.

    Raises:
        PublicDataError: when the file cannot be opened or holds no usable dialogue.
    """
    data = PublicData()
    seen: set[str] = set()
    try:
        for number, line in _lines(path, data):
            found = parse_dialogue(line)
            if isinstance(found, str):
                data.problems.append((number, found))
                continue
            digest = digest_json([message.model_dump() for message in found])
            if digest in seen:
                data.repeated += 1
            else:
                seen.add(digest)
                data.dialogues.append(found)
    except OSError as error:
        why = error.strerror or str(error)
        raise PublicDataError(f"data.public={path}: cannot be read: {why}; give a JSONL file") from error
    if not data.dialogues:
        first = f"; line {data.problems[0][0]}: {data.problems[0][1]}" if data.problems else ""
        raise PublicDataError(
            f'data.public={path}: no line is a dialogue{first}; each line must be {{"messages": '
            '[{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'
        )
    return data


def parse_dialogue(line: bytes) -> Dialogue | str:
    """One line as a dialogue, or a sentence saying why it is none."""
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return f"not UTF-8 at byte {error.start}"
    except json.JSONDecodeError as error:
        return f"not JSON: {error.msg} at character {error.pos}"
    except RecursionError:
        return "not JSON that can be read: nested too deep"
    if not isinstance(value, dict):
        return f"a {type(value).__name__}, not an object with messages"
    messages = value.get("messages")
    if not isinstance(messages, list):
        return "no list of messages"
    dialogue: list[Message] = []
    for index, message in enumerate(messages):
        problem = _message_problem(message)
        if problem:
            return f"messages[{index}]: {problem}"
        dialogue.append(Message(role=message["role"], content=message["content"]))
    if not any(True for _ in exchanges(tuple(dialogue))):
        return "no assistant message after a user message"
    return tuple(dialogue)


def exchanges(dialogue: Dialogue) -> Iterator[tuple[Dialogue, Message]]:
    """(context, reply) for each assistant message that answers a user; the context is at most three messages."""
    for index in range(1, len(dialogue)):
        if dialogue[index].role == "assistant" and dialogue[index - 1].role == "user":
            yield dialogue[max(0, index - CONTEXT_MESSAGES) : index], dialogue[index]


def split_dialogues(dialogues: list[Dialogue], heldout_share: float) -> tuple[list[Dialogue], list[Dialogue]]:
    """(train, held out), decided by each dialogue's digest: the order of the file and the seed do not matter."""
    ordered = sorted(dialogues, key=lambda dialogue: digest_json([message.model_dump() for message in dialogue]))
    count = min(len(ordered) - 1, max(1, round(len(ordered) * heldout_share))) if heldout_share else 0
    return ordered[count:], ordered[:count]


def draw_exchanges(
    dialogues: list[Dialogue], count: int, *, max_characters: int, seed: int
) -> list[tuple[Dialogue, Message]]:
    """At most `count` exchanges, drawn at random over all dialogues; longer ones than `max_characters` are left out."""
    found = [pair for dialogue in dialogues for pair in exchanges(dialogue) if _length(pair) <= max_characters]
    random.Random(seed).shuffle(found)
    return found[:count]


def _length(pair: tuple[Dialogue, Message]) -> int:
    return sum(len(message.content) for message in pair[0]) + len(pair[1].content)


def _message_problem(message: Any) -> str:
    if not isinstance(message, dict):
        return f"a {type(message).__name__}, not an object with role and content"
    if message.get("role") not in _ROLES if isinstance(message.get("role"), str) else True:
        return f"role={message.get('role')!r} is none of {', '.join(sorted(_ROLES))}"
    content = message.get("content")
    if not isinstance(content, str) or not content.strip():
        return "content is no text" if not isinstance(content, str) else "content is empty"
    try:
        content.encode("utf-8")
    except UnicodeEncodeError:
        return "content has half a character (a lone surrogate)"
    return ""


def _lines(path: Path, data: PublicData) -> Iterator[tuple[int, bytes]]:
    """Numbered lines that are not empty. A compressed file that breaks off costs what follows, and is reported."""
    number = 0
    with _opened(path) as stream:
        try:
            for number, line in enumerate(stream, 1):
                text = (line.removeprefix(_BOM) if number == 1 else line).strip()
                if text:
                    yield number, text
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            data.problems.append((number + 1, f"the compressed file is damaged from here on: {error}"))


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, unpacked where it starts like gzip, whatever its name is."""
    with path.open("rb") as plain:
        packed = plain.read(2) == _GZIP
        plain.seek(0)
        if not packed:
            yield plain
            return
        with gzip.GzipFile(fileobj=plain) as stream:
            yield stream  # type: ignore[misc]
