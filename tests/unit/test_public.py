"""Real dialogues from a file that nobody promised to be clean."""

import gzip
import json
import random
from pathlib import Path

import pytest

from agentmill.models.chat import Message
from simulation.public import PublicDataError, draw_exchanges, exchanges, parse_dialogue, read_public, split_dialogues


def line(*texts: str, first: str = "user") -> bytes:
    roles = ("user", "assistant") if first == "user" else ("assistant", "user")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    return json.dumps({"id": "1", "messages": messages}).encode()


GOOD = line("Is a car free?", "Yes, one is.")


def write(folder: Path, *lines: bytes, packed: bool = False, name: str = "data.jsonl") -> Path:
    path = folder / name
    content = b"\n".join(lines) + b"\n"
    path.write_bytes(gzip.compress(content) if packed else content)
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_plain_and_gzipped_files_are_told_apart_by_their_content(tmp_path: Path, packed: bool) -> None:
    data = read_public(write(tmp_path, GOOD, b"", line("Hi", "Hello"), packed=packed, name="data.txt"))
    assert [len(dialogue) for dialogue in data.dialogues] == [2, 2]
    assert data.problems == []


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
    data = read_public(write(tmp_path, GOOD, broken, line("Hi", "Hello")))
    assert len(data.dialogues) == 2
    [(number, problem)] = data.problems
    assert number == 2
    assert why in problem


def test_a_gzip_file_that_breaks_off_keeps_what_was_read(tmp_path: Path) -> None:
    lines = [line(f"Question {i} {random.Random(i).random()}?", f"Answer {i}.") for i in range(2000)]
    whole = write(tmp_path, *lines, packed=True)
    whole.write_bytes(whole.read_bytes()[:-2000])
    data = read_public(whole)
    assert 0 < len(data.dialogues) < 2000
    assert "damaged from here on" in data.problems[-1][1]


def test_a_byte_order_mark_and_windows_line_ends_are_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD + b"\r\n" + line("Hi", "Hello") + b"\r\n")
    data = read_public(path)
    assert (len(data.dialogues), data.problems) == (2, [])


def test_the_same_dialogue_twice_is_kept_once(tmp_path: Path) -> None:
    data = read_public(write(tmp_path, GOOD, GOOD, GOOD))
    assert (len(data.dialogues), data.repeated) == (1, 2)


def test_a_file_without_a_dialogue_says_what_a_line_must_be(tmp_path: Path) -> None:
    with pytest.raises(PublicDataError, match=r'line 1: not JSON.*each line must be \{"messages"'):
        read_public(write(tmp_path, b"hello"))
    with pytest.raises(PublicDataError, match="no line is a dialogue"):
        read_public(write(tmp_path))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(PublicDataError, match=r"cannot be read: .*; give a JSONL file"):
        read_public(tmp_path)


def test_an_exchange_has_at_most_three_messages_of_context_and_answers_a_user() -> None:
    dialogue = parse_dialogue(line("a", "b", "c", "d", "e", "f"))
    assert not isinstance(dialogue, str)
    shown = [([m.content for m in context], reply.content) for context, reply in exchanges(dialogue)]
    assert shown == [(["a"], "b"), (["a", "b", "c"], "d"), (["c", "d", "e"], "f")]
    opening = (Message(role="assistant", content="Welcome"), *dialogue[:2])
    assert [reply.content for _, reply in exchanges(opening)] == ["b"]


def test_the_split_depends_on_the_dialogues_and_not_on_their_order(tmp_path: Path) -> None:
    dialogues = read_public(write(tmp_path, *(line(f"Question {i}", "Yes") for i in range(40)))).dialogues
    train, heldout = split_dialogues(dialogues, 0.1)
    again, heldout_again = split_dialogues(dialogues[::-1], 0.1)
    assert (len(train), len(heldout)) == (36, 4)
    assert (train, heldout) == (again, heldout_again)
    assert not set(train) & set(heldout)
    assert split_dialogues(dialogues[:1], 0.5) == (dialogues[:1], [])
    assert split_dialogues(dialogues, 0.0)[1] == []


def test_exchanges_are_drawn_over_all_dialogues_and_long_ones_left_out(tmp_path: Path) -> None:
    lines = [line(f"Question {i}", "x" * (2000 if i % 2 else 5)) for i in range(20)]
    dialogues = read_public(write(tmp_path, *lines)).dialogues
    drawn = draw_exchanges(dialogues, 7, max_characters=100, seed=1)
    assert len(drawn) == 7
    assert all(len(reply.content) == 5 for _, reply in drawn)
    assert drawn == draw_exchanges(dialogues, 7, max_characters=100, seed=1)
    assert drawn != draw_exchanges(dialogues, 7, max_characters=100, seed=2)
