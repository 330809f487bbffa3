"""A finished conversation as records, and many of them as one Arrow table.

A packed table has a row for each conversation: `sid`, `error`, and the rows of its tables (`simulation.tables`) as a
list of structs in columns of their names. Invariant: packing and unpacking keep every value and the order, and nobody
who unpacks parses text, so that a hundred thousand calls become Parquet in the time that it takes to write them.
"""

from collections.abc import Sequence
from itertools import accumulate

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from agentmill.records import CALL_SCHEMA, CONVERSATION_SCHEMA, TIMING_SCHEMA, TURN_SCHEMA, Call, Conversation, Turn
from simulation.tables import conversation_tables, timing_rows

SCHEMAS = {"conversations": CONVERSATION_SCHEMA, "turns": TURN_SCHEMA, "calls": CALL_SCHEMA, "timings": TIMING_SCHEMA}


class Rolled(BaseModel):
    """A finished conversation as records."""

    model_config = ConfigDict(frozen=True)

    conversation: Conversation
    turns: tuple[Turn, ...]
    calls: tuple[Call, ...]


def pack(done: Sequence[Rolled]) -> pa.Table:
    """Finished conversations as a packed table."""
    conversations = [one.conversation for one in done]
    tables = conversation_tables(
        conversations, [turn for one in done for turn in one.turns], [call for one in done for call in one.calls]
    )
    timed = [list(timing_rows([one.conversation], one.turns, one.calls)) for one in done]
    tables["timings"] = pa.Table.from_pylist([row for rows in timed for row in rows], schema=TIMING_SCHEMA)
    sizes = {
        "conversations": [1] * len(done),
        "turns": [len(one.turns) for one in done],
        "calls": [len(one.calls) for one in done],
        "timings": [len(rows) for rows in timed],
    }
    columns = {"sid": pa.array([c.sid for c in conversations]), "error": pa.array([c.error for c in conversations])}
    return pa.table({**columns, **{name: _lists(tables[name], counts) for name, counts in sizes.items()}})


def unpack(packed: pa.Table) -> dict[str, pa.Table]:
    """The flat tables of a packed one, by name, in the order of its rows."""
    return {name: _flat(packed[name].combine_chunks(), schema) for name, schema in SCHEMAS.items()}


def _lists(table: pa.Table, counts: Sequence[int]) -> pa.ListArray:
    """The rows of a table as lists: the first `counts[0]` rows, then the next `counts[1]`."""
    offsets = pa.array([0, *accumulate(counts)], pa.int32())
    return pa.ListArray.from_arrays(offsets, table.to_struct_array().combine_chunks())


def _flat(lists: pa.ListArray, schema: pa.Schema) -> pa.Table:
    table = pa.Table.from_struct_array(lists.flatten())
    return table.select(schema.names).cast(schema)
