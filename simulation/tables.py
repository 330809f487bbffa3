"""Rows to Parquet and back: calls, turns and conversations in the schemas of `agentmill.records`, refined calls.

Invariants: a folder of parts appears whole or not at all; a reader refuses files of another schema version. Rows keep
the order in which they were given; equal rows make equal files, to the byte. Part n of each folder of a simulation is
about the same conversations, so that a reader can join them part by part.
"""

import json
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from agentmill.records import (
    CALL_SCHEMA,
    CONVERSATION_SCHEMA,
    SCHEMA_VERSION,
    TIMING_SCHEMA,
    TURN_SCHEMA,
    Call,
    Conversation,
    Turn,
)
from agentmill.runs import RunError

ROW_GROUP = 1024  # so many rows are read at once by what streams
VERSION_KEY = b"agentmill.schema_version"
_OF_CALL = ("call_id", "sid", "turn", "index", "agent", "messages_json", "output", "status")
REFINED_SCHEMA = pa.schema(
    [
        *(CALL_SCHEMA.field(name) for name in _OF_CALL),
        *(
            (name, pa.string())
            for name in (
                "verdict",
                "severity",
                "unjudged_because",
                "refined",
                "reason",
                "criteria_json",
                "violations_json",
                "judged_as",
                "second_verdict",
            )
        ),
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
    messages = compact([message.model_dump() for message in call.messages])
    return {**_flat(call, "messages", "latency_s"), "messages_json": messages}


def turn_row(turn: Turn) -> dict[str, Any]:
    """A turn as a row of TURN_SCHEMA."""
    nested = {"violations_json": compact(turn.violations), "switches_json": compact(turn.switches)}
    return {**_flat(turn, "violations", "switches", "latency_s"), **nested}


def conversation_row(conversation: Conversation) -> dict[str, Any]:
    """A conversation as a row of CONVERSATION_SCHEMA."""
    scenario = json.loads(conversation.scenario_json)
    return {
        **_flat(conversation, "reasons", "user_errors", "seconds"),
        "reasons_json": compact(conversation.reasons),
        "user_errors_json": compact(conversation.user_errors),
        "scenario": scenario["sid"],
        "split": scenario["split"],
        "world_seed": scenario["world_seed"],
    }


def timing_rows(
    conversations: Iterable[Conversation], turns: Iterable[Turn], calls: Iterable[Call]
) -> Iterator[dict[str, Any]]:
    """What a clock measured of played conversations, as rows of TIMING_SCHEMA."""
    for done in conversations:
        yield {"kind": "conversation", "sid": done.sid, "seconds": done.seconds}
    for turn in turns:
        yield {"kind": "turn", "sid": turn.sid, "turn": turn.turn, "seconds": turn.latency_s}
    for call in calls:
        yield {
            "kind": "call", "sid": call.sid, "turn": call.turn, "index": call.index, "seconds": call.latency_s,
        }  # fmt: skip


def conversation_tables(
    conversations: Sequence[Conversation], turns: Sequence[Turn], calls: Sequence[Call]
) -> dict[str, pa.Table]:
    """The four tables of played conversations, by folder name."""
    rows: dict[str, tuple[Iterable[dict[str, Any]], pa.Schema]] = {
        "calls": (map(call_row, calls), CALL_SCHEMA),
        "turns": (map(turn_row, turns), TURN_SCHEMA),
        "conversations": (map(conversation_row, conversations), CONVERSATION_SCHEMA),
        "timings": (timing_rows(conversations, turns, calls), TIMING_SCHEMA),
    }
    return {name: pa.Table.from_pylist(list(made), schema=schema) for name, (made, schema) in rows.items()}


def _flat(record: BaseModel, *left_out: str) -> dict[str, Any]:
    """The fields of a record whose other fields are scalars, without the cost of a dump."""
    return {name: value for name, value in record if name not in left_out}


def write_table(table: pa.Table, path: Path) -> None:
    """Write one Parquet file, atomically and durably; several writers of one path do not disturb each other."""
    whole = table.combine_chunks()  # chunks would show in the file's pages
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with part.open("wb") as stream:
        pq.write_table(whole, stream, compression="zstd", row_group_size=ROW_GROUP)
        stream.flush()
        os.fsync(stream.fileno())
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


def column_by_sid(folder: Path, column: str) -> dict[str, Any]:
    """One small column of `simulate/conversations` by the conversation's sid, such as `world_seed` or `split`."""
    table = read_folder(folder, ["sid", column])
    return dict(zip(table["sid"].to_pylist(), table[column].to_pylist(), strict=True))


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
