"""The scenarios of a simulation, written first: one row a conversation, so that what is asked for is fixed on disk.

A conversation's `sid` is the digest of its scenario and of everything else that decides how it goes (models, system
settings, seed): rows of another configuration can never be taken for this one's. Training and held-out scenarios
come from the domain's two splits, which share no world, name or number.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from agentmill.domains.base import Scenario, ScenarioSource
from agentmill.log import say
from agentmill.runs import digest_json
from simulation.tables import write_table

SCENARIO_SCHEMA = pa.schema([("sid", pa.string()), ("split", pa.string()), ("scenario_json", pa.string())])


def heldout_count(conversations: int, share: float) -> int:
    """How many of `conversations` are held out: at least one where a share is asked for."""
    return max(1, round(conversations * share)) if share else 0


def draw_scenarios(source: ScenarioSource, conversations: int, heldout_share: float, seed: int) -> list[Scenario]:
    """Training scenarios, then held-out ones; what the domain drew twice is left out and told."""
    heldout = heldout_count(conversations, heldout_share)
    drawn = [*source(conversations - heldout, seed, "train"), *source(heldout, seed, "heldout")]
    unique = list({scenario.sid: scenario for scenario in drawn}.values())
    if len(unique) < len(drawn):
        say("simulate", f"{len(drawn) - len(unique)} scenarios were drawn twice and are played once")
    return unique


def conversation_sid(scenario: Scenario, variant: str) -> str:
    """The id of the conversation that plays `scenario` under the configuration with the digest `variant`."""
    return digest_json([scenario.sid, variant])[:16]


def write_scenarios(path: Path, scenarios: list[Scenario], variant: str) -> None:
    """Write the scenarios' file, atomically."""
    rows = [
        {"sid": conversation_sid(s, variant), "split": s.split, "scenario_json": s.model_dump_json()} for s in scenarios
    ]
    write_table(pa.Table.from_pylist(rows, schema=SCENARIO_SCHEMA), path)


def read_sids(path: Path) -> list[str]:
    """The conversations' ids in the order of the file."""
    sids: list[str] = pq.read_table(path, columns=["sid"])["sid"].to_pylist()
    return sids
