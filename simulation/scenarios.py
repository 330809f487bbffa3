"""The scenarios of a simulation, written first: one row a conversation, so that what is asked for is fixed on disk.

A conversation's `sid` is the digest of its scenario and of everything else that decides how it goes (`made_with`):
rows of another configuration can never be taken for this one's. Training and held-out scenarios come from the
domain's two splits, which share no world, name or number. Scenarios are drawn and written one by one: memory holds
their ids and one group of rows, however many there are.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from agentmill.agents.settings import TeamSettings
from agentmill.domains.base import Domain, Scenario, ScenarioSource
from agentmill.log import say
from agentmill.runs import digest_json
from simulation.models import ModelSettings

SCENARIO_SCHEMA = pa.schema([("sid", pa.string()), ("split", pa.string()), ("scenario_json", pa.string())])
_DRAWN_KEY = b"agentmill.drawn"
_GROUP_ROWS = 1024


def made_with(
    domain: Domain, system: TeamSettings, teacher: ModelSettings, user: ModelSettings, seed: int
) -> dict[str, Any]:
    """Everything beside the scenario that decides how a conversation goes, as JSON values.

    The prompts are the system texts that are really sent: those of the five agents in the style of `system`, and the
    user simulator's in the style that its model needs.
    """
    agents = {agent: text for agent, text in domain.prompts[system.prompts].items() if agent not in ("user", "judge")}
    return {
        "domain": domain.name,
        "seed": seed,
        "system": system.deciding(),
        "teacher": teacher.identity,
        "user": user.identity,
        "prompts": digest_json({**agents, "user": domain.prompts[user.prompts]["user"]}),
    }


def conversation_sid(scenario: Scenario, variant: str) -> str:
    """The id of the conversation that plays `scenario` under the configuration with the digest `variant`."""
    return digest_json([scenario.sid, variant])[:16]


def heldout_count(conversations: int, share: float) -> int:
    """How many of `conversations` are held out: at least one where a share is asked for."""
    return max(1, round(conversations * share)) if share else 0


def draw_scenarios(source: ScenarioSource, conversations: int, heldout_share: float, seed: int) -> Iterator[Scenario]:
    """Training scenarios, then held-out ones; what the domain drew twice is left out and told."""
    heldout = heldout_count(conversations, heldout_share)
    seen: set[bytes] = set()
    twice = 0
    for count, split in ((conversations - heldout, "train"), (heldout, "heldout")):
        for scenario in source(count, seed, split):
            key = scenario.sid.encode()
            if key in seen:
                twice += 1
            else:
                seen.add(key)
                yield scenario
    if twice:
        say("simulate", f"{twice} scenarios were drawn twice and are played once")


def write_scenarios(path: Path, scenarios: Iterator[Scenario], variant: str, drawn: Mapping[str, Any]) -> None:
    """Write the scenarios' file, atomically; one that was drawn for the same (`drawn`: count, mix, ...) stays."""
    mark = digest_json([variant, dict(drawn)]).encode()
    if path.is_file() and (pq.read_schema(path).metadata or {}).get(_DRAWN_KEY) == mark:
        return
    part = path.with_name(f".{path.name}.part")
    with pq.ParquetWriter(part, SCENARIO_SCHEMA.with_metadata({_DRAWN_KEY: mark}), compression="zstd") as writer:
        group: list[dict[str, str]] = []
        for scenario in scenarios:
            sid = conversation_sid(scenario, variant)
            group.append({"sid": sid, "split": scenario.split, "scenario_json": scenario.model_dump_json()})
            if len(group) == _GROUP_ROWS:
                writer.write_table(pa.Table.from_pylist(group, schema=SCENARIO_SCHEMA))
                group = []
        if group:
            writer.write_table(pa.Table.from_pylist(group, schema=SCENARIO_SCHEMA))
    os.replace(part, path)


def read_sids(path: Path) -> pa.Array:
    """The conversations' ids in the order of the file, as an array of strings."""
    return pq.read_table(path, columns=["sid"])["sid"].combine_chunks()
