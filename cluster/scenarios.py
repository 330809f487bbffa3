"""The report's section on the scenarios: what was covered, how diverse the customers talk, one of each to read.

Read from `simulate/coverage.json` and the recorded conversations; a run that has neither has an empty section.
"""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from agentmill.domains.base import Json
from agentmill.runs import Run
from simulation.diversity import read_coverage
from simulation.tables import iter_parts

LOOKED_AT = 2000  # conversations among which one of each persona is looked for
SHARES = ("distinct_1", "distinct_2", "distinct_3", "duplicates", "openings_repeated")


@dataclass
class ShownScenario:
    """A simulated conversation as a person reads it. `changes` are the business's, before the turn of that number."""

    sid: str
    persona: str
    topic: str
    difficulty: str
    wants: list[str]
    changes: dict[int, list[str]]
    turns: list[tuple[str, str]] = field(default_factory=list)


def section(run: Run) -> dict[str, Any] | None:
    """What the template shows, None for a run that has not simulated."""
    found = read_coverage(run)
    if found is None:
        return None
    return {
        "coverage": found if "table" in found else None,
        "missing": _missing(found),
        "diversity": found["diversity"],
        "shares": SHARES,
        "shown": one_of_each(run),
    }


def _missing(found: Json) -> list[tuple[str, str]]:
    """Pairs of axes with the combinations that no scenario is in."""
    return [
        (" x ".join(pair["axes"]), ", ".join(" x ".join(values) for values in pair["missing"]))
        for pair in found.get("pairs", ())
        if pair["missing"]
    ]


def one_of_each(run: Run) -> list[ShownScenario]:
    """The first successful conversation of each persona, in the order in which they were played."""
    chosen: dict[str, ShownScenario] = {}
    seen = 0
    for part in iter_parts(run.path("simulate", "conversations"), ["sid", "success", "scenario_json"]):
        for row in part.slice(0, LOOKED_AT - seen).to_pylist():
            scenario = json.loads(row["scenario_json"])
            if row["success"]:
                chosen.setdefault(scenario["persona"], _shown(row["sid"], scenario))
        seen += part.num_rows
        if seen >= LOOKED_AT:
            break
    _add_turns(run, {shown.sid: shown for shown in chosen.values()})
    return list(chosen.values())


def _shown(sid: str, scenario: Json) -> ShownScenario:
    changes: dict[int, list[str]] = defaultdict(list)
    for planned in scenario.get("switches", ()):
        changes[int(planned["turn"])].append(str(planned["name"]))
    wants = [" + ".join((goal["intent"], *goal.get("also", ()))) for goal in scenario["goals"]]
    topic, difficulty = str(scenario.get("topic", "")), str(scenario.get("difficulty", ""))
    return ShownScenario(sid, str(scenario["persona"]), topic, difficulty, wants, dict(changes))


def _add_turns(run: Run, wanted: dict[str, ShownScenario]) -> None:
    """Turns stand in the order of the conversations: after a part without any, all of them are there."""
    begun: set[str] = set()
    for part in iter_parts(run.path("simulate", "turns"), ["sid", "utterance", "reply"]):
        here = {sid for sid in part["sid"].unique().to_pylist() if sid in wanted}
        if begun == wanted.keys() and not here:
            return
        begun |= here
        for row in part.to_pylist() if here else ():
            if row["sid"] in here:
                wanted[row["sid"]].turns.append((row["utterance"], row["reply"]))
