"""Rows to Parquet and back: calls, turns and conversations in the schemas of `agentmill.records`, refined calls.

Invariants: a folder of parts appears whole or not at all; a reader refuses files of another schema version. Rows keep
the order in which they were given.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from agentmill.domains.base import Scenario
from agentmill.records import CALL_SCHEMA, CONVERSATION_SCHEMA, SCHEMA_VERSION, TURN_SCHEMA, Call, Conversation, Turn
from agentmill.runs import RunError

VERSION_KEY = b"agentmill.schema_version"
_OF_CALL = ("call_id", "sid", "turn", "index", "agent", "messages_json", "output", "status")
REFINED_SCHEMA = pa.schema(
    [
        *(CALL_SCHEMA.field(name) for name in _OF_CALL),
        ("verdict", pa.string()),
        ("refined", pa.string()),
        ("reason", pa.string()),
        ("criteria_json", pa.string()),
        ("violations_json", pa.string()),
        ("judged_as", pa.string()),
    ],
    metadata=CALL_SCHEMA.metadata,
)


def compact(value: Any) -> str:
    """JSON as every prompt and column holds it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def prompt_of(messages_json: str) -> list[dict[str, str]]:
    """A recorded call's system text and frame; what follows them speaks of outputs that were refused."""
    messages: list[dict[str, str]] = json.loads(messages_json)
    return messages[:2]


def call_row(call: Call) -> dict[str, Any]:
    """A call as a row of CALL_SCHEMA."""
    row = call.model_dump(mode="json")
    row["messages_json"] = compact(row.pop("messages"))
    return row


def turn_row(turn: Turn) -> dict[str, Any]:
    """A turn as a row of TURN_SCHEMA."""
    row = turn.model_dump(mode="json")
    row["violations_json"] = compact(row.pop("violations"))
    return row


def conversation_row(conversation: Conversation) -> dict[str, Any]:
    """A conversation as a row of CONVERSATION_SCHEMA."""
    row = conversation.model_dump(mode="json")
    row["reasons_json"] = compact(row.pop("reasons"))
    return row


def conversation_tables(
    conversations: Iterable[Conversation], turns: Iterable[Turn], calls: Iterable[Call]
) -> dict[str, pa.Table]:
    """The three tables of played conversations, by folder name."""
    return {
        "calls": pa.Table.from_pylist([call_row(c) for c in calls], schema=CALL_SCHEMA),
        "turns": pa.Table.from_pylist([turn_row(t) for t in turns], schema=TURN_SCHEMA),
        "conversations": pa.Table.from_pylist([conversation_row(c) for c in conversations], schema=CONVERSATION_SCHEMA),
    }


def write_table(table: pa.Table, path: Path) -> None:
    """Write one Parquet file, atomically."""
    part = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, part, compression="zstd")
    part.replace(path)


def read_folder(folder: Path, columns: list[str] | None = None) -> pa.Table:
    """All parts of a folder as one table, in order.

    Raises:
        RunError: when there are none, or they are of another schema version.
    """
    return pa.concat_tables(list(iter_parts(folder, columns)))


def iter_parts(folder: Path, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The parts of a folder one by one, for what is too large to hold at once."""
    for path in part_files(folder):
        yield read_table(path, columns)


def scenarios_by_sid(folder: Path) -> dict[str, Scenario]:
    """The scenario of every conversation in `simulate/conversations`."""
    table = read_folder(folder, ["sid", "scenario_json"])
    pairs = zip(table["sid"].to_pylist(), table["scenario_json"].to_pylist(), strict=True)
    return {sid: Scenario.model_validate_json(text) for sid, text in pairs}


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """One Parquet file that this project wrote.

    Raises:
        RunError: when it is missing or of another schema version.
    """
    if not path.is_file():
        raise RunError(f"{path}: there is no such file; run the stage that makes it first")
    table = pq.read_table(path, columns=columns)
    require_version(path, table.schema)
    return table


def require_version(path: Path, schema: pa.Schema) -> None:
    """Refuse a file of another schema version.

    Raises:
        RunError: when it is of another one.
    """
    version = (schema.metadata or {}).get(VERSION_KEY, b"none").decode()
    if version != SCHEMA_VERSION:
        raise RunError(
            f"{path}: schema version {version}, this agentmill reads {SCHEMA_VERSION}; run the stage again with it"
        )


def part_files(folder: Path) -> list[Path]:
    """The parts of a folder, in order.

    Raises:
        RunError: when there are none.
    """
    parts = sorted(folder.glob("part-*.parquet"))
    if not parts:
        raise RunError(f"{folder}: there are no part-*.parquet files; run the stage that makes them first")
    return parts
