"""What a finished evaluation leaves, for tests of those who read it."""

import json
from collections.abc import Mapping

import pyarrow as pa

from agentmill.records import CONVERSATION_SCHEMA
from agentmill.runs import Run
from simulation.agent_tests import RESULT_SCHEMA
from simulation.tables import write_table


def evaluated(run: Run, model: str, successes: Mapping[str, bool], plans: Mapping[str, bool]) -> None:
    """Write an evaluation with these scenarios, completed or not, and these Planner's calls, equivalent or not."""
    talks = [
        {"sid": f"{model}-{name}", "scenario": name, "success": won, "scenario_json": "{}", "status": "exit"}
        for name, won in successes.items()
    ]
    calls = [
        {"call_id": name, "agent": "planner", "marks_json": json.dumps({"equivalent": right}), "right": right}
        for name, right in plans.items()
    ]
    folder = run.path("evaluate", model, "x").parent
    table = pa.Table.from_pylist(talks, schema=CONVERSATION_SCHEMA)
    write_table(table, folder / "conversations" / "part-00000.parquet")
    write_table(pa.Table.from_pylist(calls, schema=RESULT_SCHEMA), folder / "agents.parquet")
