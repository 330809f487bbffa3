"""Real dialogues to mix in: conversational JSONL, plain or gzipped, or Parquet, in the `messages` form.

A line of JSONL is `{"messages": [{"role", "content"}, ...]}`; Parquet has a column `messages`, a list of structs or
the same list as JSON text. Out come dialogues one by one and, of every line or row that cannot be used, its number and
why. Invariants: a broken line costs only itself; empty lines are no dialogues and no errors; text that comes out can be
written as UTF-8; the same dialogue comes out once, so that none is both trained on and held out. Memory holds one batch
and some bytes for each dialogue.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from agentmill.config import UserError
from agentmill.models.chat import Message, Role
from simulation.corpora.personal import Disguise
from simulation.corpora.rows import PUBLIC, Candidate, Split, key64, lineage
from simulation.tables import compact

CONTEXT_MESSAGES = 3
MESSAGES = "messages"
_GZIP = b"\x1f\x8b"
_PARQUET = b"PAR1"
_BOM = b"\xef\xbb\xbf"
_ROLES = frozenset(get_args(Role))
_TOLD = 10
_AT_ONCE = 256
_ABOUT_CHARACTERS = 200
_TOP = 2**64

Messages = tuple[Message, ...]


class PublicDataError(UserError):
    """A file of public dialogues that cannot be read at all."""


@dataclass(frozen=True)
class PublicDialogue:
    """One dialogue, its digest, and what the file says of it beside the messages (short texts and lists of them)."""

    messages: Messages
    id: str
    about: dict[str, str] = field(default_factory=dict)


@dataclass
class PublicTally:
    """What a file held: dialogues read, lines skipped (the first of them with number and reason), doubles."""

    read: int = 0
    skipped: int = 0
    repeated: int = 0
    problems: list[tuple[int, str]] = field(default_factory=list)

    def skip(self, number: int, why: str) -> None:
        """Count a line or row that cannot be used."""
        self.skipped += 1
        if len(self.problems) < _TOLD:
            self.problems.append((number, why))


def read_public(path: Path, tally: PublicTally) -> Iterator[PublicDialogue]:
    """The dialogues of a file, each once; `tally` counts along.

    Raises:
        PublicDataError: when the file cannot be opened, or has come to its end without a usable dialogue.
    """
    seen: set[int] = set()
    try:
        for number, found in _found(path, tally):
            if isinstance(found, str):
                tally.skip(number, found)
                continue
            key = int(found.id, 16)
            if key in seen:
                tally.repeated += 1
                continue
            seen.add(key)
            tally.read += 1
            yield found
    except (OSError, pa.ArrowException) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise PublicDataError(f"data.public={path}: cannot be read: {why}; give a JSONL or Parquet file") from error
    if not tally.read:
        first = f"; {tally.problems[0][0]}: {tally.problems[0][1]}" if tally.problems else ""
        raise PublicDataError(
            f'data.public={path}: no line is a dialogue{first}; each line must be {{"messages": '
            '[{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'
        )


def parse_line(line: bytes) -> PublicDialogue | str:
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
    return parse_record(value)


def parse_record(record: dict[str, Any]) -> PublicDialogue | str:
    """One record as a dialogue, or a sentence saying why it is none. Its messages may be JSON text."""
    messages = record.get(MESSAGES)
    if isinstance(messages, str):
        try:
            messages = json.loads(messages)
        except (json.JSONDecodeError, RecursionError):
            messages = None
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
    key = key64(compact([message.model_dump() for message in dialogue]))
    return PublicDialogue(tuple(dialogue), f"{key:016x}", _about(record))


def disguised_dialogue(dialogue: PublicDialogue, disguise: Disguise) -> PublicDialogue:
    """The dialogue with personal data replaced; it keeps its identity."""
    texts = disguise.texts(dialogue.id, [message.content for message in dialogue.messages])
    messages = [
        message.model_copy(update={"content": text}) for message, text in zip(dialogue.messages, texts, strict=True)
    ]
    return replace(dialogue, messages=tuple(messages))


def public_split(dialogue: PublicDialogue, heldout_share: float) -> Split:
    """Decided by the dialogue's digest: the order of the file and the seed do not matter."""
    return "public_heldout" if int(dialogue.id, 16) < heldout_share * _TOP else "train"


def public_rows(dialogue: PublicDialogue, split: Split, run: str, *, max_characters: int) -> Iterator[Candidate]:
    """A row for each reply in the dialogue with what was said before it; longer ones than the limit are left out."""
    for number, (context, reply) in enumerate(exchanges(dialogue.messages)):
        origin = lineage(
            agent=PUBLIC, call_id=f"public-{dialogue.id}-{number}", sid=dialogue.id, source=PUBLIC, run=run
        )
        row = {"prompt": [message.model_dump() for message in context], "completion": [reply.model_dump()], **origin}
        candidate = Candidate(row, split, PUBLIC)
        if candidate.characters <= max_characters:
            yield candidate


def exchanges(dialogue: Messages) -> Iterator[tuple[Messages, Message]]:
    """(context, reply) for each assistant message that answers a user; the context is at most three messages."""
    for index in range(1, len(dialogue)):
        if dialogue[index].role == "assistant" and dialogue[index - 1].role == "user":
            yield dialogue[max(0, index - CONTEXT_MESSAGES) : index], dialogue[index]


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


def _about(record: dict[str, Any]) -> dict[str, str]:
    """The record's other fields that describe it: short texts, and lists of short texts."""
    found: dict[str, str] = {}
    for name, value in record.items():
        texts = value if isinstance(value, list) else [value]
        if name in (MESSAGES, "id") or not texts or not all(isinstance(text, str) for text in texts):
            continue
        joined = ", ".join(texts)
        if len(joined) <= _ABOUT_CHARACTERS and not _surrogates(joined):
            found[str(name)] = joined
    return found


def _surrogates(text: str) -> bool:
    return any("\ud800" <= sign <= "\udfff" for sign in text)


def _found(path: Path, tally: PublicTally) -> Iterator[tuple[int, PublicDialogue | str]]:
    """Numbered dialogues, or why there is none."""
    with path.open("rb") as stream:
        is_parquet = stream.read(4) == _PARQUET
    if is_parquet:
        yield from ((number, parse_record(record)) for number, record in _records(path))
    else:
        yield from ((number, parse_line(line)) for number, line in _lines(path, tally))


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a Parquet file with the columns that matter, numbered from 1."""
    file = pq.ParquetFile(path)
    names = file.schema_arrow.names
    if MESSAGES not in names:
        raise PublicDataError(
            f"data.public={path}: there is no column {MESSAGES}, only {', '.join(names)}; name the column of the "
            f"dialogues {MESSAGES}: lists of structs of role and content, or JSON text"
        )
    number = 0
    for batch in file.iter_batches(batch_size=_AT_ONCE):
        for record in batch.to_pylist():
            number += 1
            yield number, record


def _lines(path: Path, tally: PublicTally) -> Iterator[tuple[int, bytes]]:
    """Numbered lines that are not empty. A compressed file that breaks off costs what follows, and is reported."""
    number = 0
    with _opened(path) as stream:
        try:
            for number, line in enumerate(stream, 1):
                text = (line.removeprefix(_BOM) if number == 1 else line).strip()
                if text:
                    yield number, text
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            tally.skip(number + 1, f"the compressed file is damaged from here on: {error}")


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
