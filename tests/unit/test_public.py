"""Real dialogues from a file that nobody promised to be clean."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agentmill.models.chat import Message
from simulation.corpora.public import (
    PublicDataError,
    PublicDialogue,
    PublicTally,
    exchanges,
    parse_line,
    public_rows,
    public_split,
    read_public,
)


def line(*texts: str, first: str = "user") -> bytes:
    roles = ("user", "assistant") if first == "user" else ("assistant", "user")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    return json.dumps({"id": "1", "messages": messages}).encode()


GOOD = line("Is a car free?", "Yes, one is.")


def read(path: Path) -> tuple[list[PublicDialogue], PublicTally]:
    tally = PublicTally()
    return list(read_public(path, tally)), tally


def write(folder: Path, *lines: bytes, packed: bool = False, name: str = "data.jsonl") -> Path:
    path = folder / name
    content = b"\n".join(lines) + b"\n"
    path.write_bytes(gzip.compress(content) if packed else content)
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_plain_and_gzipped_files_are_told_apart_by_their_content(tmp_path: Path, packed: bool) -> None:
    dialogues, tally = read(write(tmp_path, GOOD, b"", line("Hi", "Hello"), packed=packed, name="data.txt"))
    assert [len(dialogue.messages) for dialogue in dialogues] == [2, 2]
    assert tally.problems == []


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (b"{", "not JSON"),
        (b"[1]", "a list, not an object"),
        (b'{"id": 1}', "no list of messages"),
        (b'{"messages": "text"}', "no list of messages"),
        (b'{"messages": []}', "no assistant message after a user message"),
        (b'{"messages": ["Hello"]}', "messages[0]: a str"),
        (b'{"messages": [{"role": "human", "content": "Hi"}]}', "messages[0]: role='human'"),
        (b'{"messages": [{"role": ["user"], "content": "Hi"}]}', "messages[0]: role=['user']"),
        (b'{"messages": [{"role": "user", "content": null}]}', "messages[0]: content is no text"),
        (b'{"messages": [{"role": "user", "content": "  "}]}', "messages[0]: content is empty"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "lone surrogate"),
        (b'{"messages": [{"role": "user", "content": "caf\xe9"}]}', "not UTF-8 at byte 46"),
        (b"[" * 100_000, "not JSON"),
        (line("only", first="assistant"), "no assistant message after a user message"),
    ],
)
def test_a_broken_line_is_reported_with_its_number_and_costs_only_itself(
    tmp_path: Path, broken: bytes, why: str
) -> None:
    dialogues, tally = read(write(tmp_path, GOOD, broken, line("Hi", "Hello")))
    assert (len(dialogues), tally.skipped) == (2, 1)
    [(number, problem)] = tally.problems
    assert number == 2
    assert why in problem


def test_a_gzip_file_that_breaks_off_keeps_what_was_read(tmp_path: Path) -> None:
    lines = [line(f"Question {i} {random.Random(i).random()}?", f"Answer {i}.") for i in range(2000)]
    whole = write(tmp_path, *lines, packed=True)
    whole.write_bytes(whole.read_bytes()[:-2000])
    dialogues, tally = read(whole)
    assert 0 < len(dialogues) < 2000
    assert "damaged from here on" in tally.problems[-1][1]


def test_a_byte_order_mark_and_windows_line_ends_are_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD + b"\r\n" + line("Hi", "Hello") + b"\r\n")
    dialogues, tally = read(path)
    assert (len(dialogues), tally.problems) == (2, [])


def test_the_same_dialogue_twice_is_kept_once(tmp_path: Path) -> None:
    dialogues, tally = read(write(tmp_path, GOOD, GOOD, GOOD))
    assert (len(dialogues), tally.read, tally.repeated) == (1, 1, 2)


def test_a_file_without_a_dialogue_says_what_a_line_must_be(tmp_path: Path) -> None:
    with pytest.raises(PublicDataError, match=r'1: not JSON.*each line must be \{"messages"'):
        read(write(tmp_path, b"hello"))
    with pytest.raises(PublicDataError, match="no line is a dialogue"):
        read(write(tmp_path))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(PublicDataError, match=r"cannot be read: .*; give a JSONL or Parquet file"):
        read(tmp_path)


def test_an_exchange_has_at_most_three_messages_of_context_and_answers_a_user() -> None:
    found = parse_line(line("a", "b", "c", "d", "e", "f"))
    assert not isinstance(found, str)
    dialogue = found.messages
    shown = [([m.content for m in context], reply.content) for context, reply in exchanges(dialogue)]
    assert shown == [(["a"], "b"), (["a", "b", "c"], "d"), (["c", "d", "e"], "f")]
    opening = (Message(role="assistant", content="Welcome"), *dialogue[:2])
    assert [reply.content for _, reply in exchanges(opening)] == ["b"]


@pytest.mark.parametrize("nested", [True, False])
def test_parquet_is_read_whether_messages_are_structs_or_json_text(tmp_path: Path, nested: bool) -> None:
    said = [{"role": "user", "content": "Is a car free?"}, {"role": "assistant", "content": "Yes, one is."}]
    rows: list[dict[str, Any]] = [{"services": ["Cars_1"], "messages": said}, {"services": [], "messages": said[:1]}]
    if not nested:
        rows = [{**row, "messages": json.dumps(row["messages"])} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data.bin")
    [dialogue], tally = read(tmp_path / "data.bin")
    assert [message.content for message in dialogue.messages] == ["Is a car free?", "Yes, one is."]
    assert dialogue.about == {"services": "Cars_1"}
    assert tally.problems == [(2, "no assistant message after a user message")]
    [same], _ = read(write(tmp_path, GOOD))
    assert dialogue.id == same.id


def test_parquet_without_messages_names_the_columns_that_it_has(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "label": [1]}), tmp_path / "data.parquet")
    with pytest.raises(PublicDataError, match="no column messages, only text, label"):
        read(tmp_path / "data.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "data.parquet").read_bytes()[:60])
    with pytest.raises(PublicDataError, match="cannot be read"):
        read(tmp_path / "cut.parquet")


def test_only_so_many_problems_are_kept_and_all_are_counted(tmp_path: Path) -> None:
    _, tally = read(write(tmp_path, GOOD, *[b"{"] * 50))
    assert (tally.skipped, len(tally.problems)) == (50, 10)


def test_the_split_depends_on_the_dialogue_alone(tmp_path: Path) -> None:
    dialogues, _ = read(write(tmp_path, *(line(f"Question {i}", "Yes") for i in range(400))))
    splits = [public_split(dialogue, 0.1) for dialogue in dialogues]
    assert 15 < splits.count("public_heldout") < 75
    assert splits == [public_split(dialogue, 0.1) for dialogue in dialogues]
    assert {public_split(dialogue, 0.0) for dialogue in dialogues} == {"train"}


def test_long_exchanges_are_left_out(tmp_path: Path) -> None:
    [dialogue], _ = read(write(tmp_path, line("a", "b", "c" * 90, "d")))
    rows = list(public_rows(dialogue, "train", "run", max_characters=50))
    assert [row.row["completion"][0]["content"] for row in rows] == ["b"]
    assert rows[0].row["call_id"] == f"public-{dialogue.id}-0"
