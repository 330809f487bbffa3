"""What a worker judges at a time, and what it must know beside: a chunk of recorded calls, and their conversations.

Invariants: the chunks of a folder cover every call once, in order; what is held in memory is bounded: the row groups
that were read last, and the conversations of the parts that they are in.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from agentmill.domains.base import Domain, Scenario
from agentmill.runs import RunError
from simulation.judge import TRAINABLE
from simulation.remembered import Remembered
from simulation.tables import read_table
from simulation.verify import Place, changing

CHUNK = 256  # so many calls are one row of the job; what a killed worker loses at most of each chunk in flight
CALL_COLUMNS = ("call_id", "sid", "turn", "index", "agent", "messages_json", "output", "status")
GROUPS = 2  # row groups that are kept, because several chunks are in one
_PARTS = 2


@dataclass(frozen=True)
class Chunk:
    """`count` calls of row group `group` of a part of simulate/calls, from row `offset` of it."""

    part: str
    group: int
    offset: int
    count: int

    def read(self, folder: Path, groups: "Groups") -> pa.Table:
        """The chunk's calls of trained agents, in order; `groups` holds the row groups that were read last."""
        table = groups.get((self.part, self.group))
        if table is None:
            file = pq.ParquetFile(folder / "calls" / self.part)
            table = groups.put((self.part, self.group), file.read_row_group(self.group, columns=list(CALL_COLUMNS)))
        table = table.slice(self.offset, self.count)
        return table.filter(pa.array([agent in TRAINABLE for agent in table["agent"].to_pylist()]))


Groups = Remembered[pa.Table]
Deed = tuple[str, str, tuple[str, ...]]  # requests, plan, switches in force: see Place


class Conversations:
    """The scenarios of conversations and what their turns changed, read part by part."""

    def __init__(self, folder: Path, domain: Domain) -> None:
        self.folder = folder
        self.domain = domain
        self._parts = Remembered[dict[str, tuple[str, list[tuple[int, Deed]]]]](_PARTS)
        self._scenarios = Remembered[Scenario](64)

    def place(self, part: str, sid: str, turn: int) -> Place:
        """Where turn `turn` of a conversation, whose calls are in `part`, found the world.

        Raises:
            RunError: when the conversation is not in the part of the same name.
        """
        known = self._parts.get(part) or self._parts.put(part, self._read(part))
        if sid not in known:
            raise RunError(f"{self.folder}: conversation {sid} is not in conversations/{part}; simulate again")
        text, changes = known[sid]
        scenario = self._scenarios.get(sid) or self._scenarios.put(sid, Scenario.model_validate_json(text))
        before = tuple(deed for number, deed in changes if number < turn)
        return Place(scenario.world_seed, scenario, before)

    def _read(self, part: str) -> dict[str, tuple[str, list[tuple[int, Deed]]]]:
        table = read_table(self.folder / "conversations" / part, ["sid", "scenario_json"])
        found: dict[str, tuple[str, list[tuple[int, Deed]]]] = {
            row["sid"]: (row["scenario_json"], []) for row in table.to_pylist()
        }
        columns = ["sid", "turn", "status", "intent", "plan", "switches_json"]
        switches: dict[str, tuple[str, ...]] = {}
        for row in read_table(self.folder / "turns" / part, columns).to_pylist():
            sid, plan = row["sid"], row["plan"]
            switches[sid] = (*switches.get(sid, ()), *json.loads(row["switches_json"]))
            if row["status"] == "answered" and plan and changing(self.domain.under(switches[sid]), plan):
                found[sid][1].append((row["turn"], (row["intent"], plan, switches[sid])))
        return found
