"""The evaluation split: the held-out scenarios by conversation, each with its cell of the coverage.

Invariant: no conversation that is listed here gave a row to a training split.
"""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from agentmill.domains.base import Scenario
from agentmill.records import CALL_SCHEMA
from simulation.corpora.traces import Talk

NONE = "none"
EVAL_SCHEMA = pa.schema(
    [
        *[(name, pa.string()) for name in ("sid", "scenario", "cell", "intents", "persona", "difficulty", "switches")],
        ("turns", pa.int32()),
        ("calls", pa.int32()),
        ("status", pa.string()),
        ("success", pa.bool_()),
        ("scenario_json", pa.string()),
        ("run", pa.string()),
    ],
    metadata=CALL_SCHEMA.metadata,
)
_AT_ONCE = 1024


def cell(scenario: Scenario) -> dict[str, str]:
    """Where a scenario stands in the coverage: intents, persona, difficulty and switches, and all of them in one."""
    intents = dict.fromkeys(intent for goal in scenario.goals for intent in (goal.intent, *goal.also))
    parts = {
        "intents": "+".join(intents),
        "persona": scenario.persona,
        "difficulty": scenario.difficulty,
        "switches": "+".join(switch.name for switch in scenario.switches) or NONE,
    }
    return {"cell": " | ".join(parts.values()), **parts}


class Heldout:
    """Writes the list while the traces go by."""

    def __init__(self, folder: Path, run: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.count = 0
        self._run = run
        self._rows: list[dict[str, Any]] = []
        self._writer = pq.ParquetWriter(folder / "heldout.parquet", EVAL_SCHEMA, compression="zstd")

    def add(self, talk: Talk) -> None:
        """List a held-out conversation; others are passed over."""
        if talk.split != "heldout":
            return
        self.count += 1
        self._rows.append(
            {
                "sid": talk.sid,
                "scenario": talk.scenario.sid,
                **cell(talk.scenario),
                "turns": len(talk.turns),
                "calls": len(talk.calls),
                "status": talk.status,
                "success": talk.success,
                "scenario_json": talk.scenario.model_dump_json(),
                "run": self._run,
            }
        )
        if len(self._rows) >= _AT_ONCE:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=EVAL_SCHEMA))
        self._rows = []
