"""The judging worker in process: one row for each call, nothing asked twice, and what is done stays when it stops."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from agentmill.agents.settings import TeamSettings
from agentmill.agents.team import Team
from agentmill.domains.base import load_domain
from agentmill.plans.sandbox import Sandbox
from agentmill.runs import Run
from simulation.judge import TRAINABLE
from simulation.judging import Refiner, RefineSettings, SecondLook, unpacked
from simulation.models import ModelSettings
from simulation.outage import OutageSettings
from simulation.refine import write_chunks
from simulation.rolled import Rolled
from simulation.rollout import converse
from simulation.tables import conversation_tables, read_folder, write_table
from simulation.worker import JobStopped
from tests.judge_endpoint import JudgeEndpoint

SETTINGS = RefineSettings(actors=1, in_flight=4, outage=OutageSettings(failures_in_a_row=1, outage_s=0))


async def conversations(count: int) -> list[Rolled]:
    domain = load_domain("automotive")
    assert domain.expert is not None
    erring, customer = domain.expert(0.3), domain.expert(0.0)
    async with Sandbox(1) as sandbox:
        team = Team.local(domain, erring, sandbox, TeamSettings())
        scenarios = domain.source("core")(count, 5, "train")
        playing = (converse(team, customer, s, sid=s.sid, seed=0, speaker=ModelSettings()) for s in scenarios)
        return list(await asyncio.gather(*playing))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with six simulated conversations, written as `simulate` does."""
    made = Run.create(tmp_path_factory.mktemp("runs") / "run", {}, "test")
    done = asyncio.run(conversations(6))
    tables = conversation_tables(
        [one.conversation for one in done],
        [turn for one in done for turn in one.turns],
        [call for one in done for call in one.calls],
    )
    for name, table in tables.items():
        write_table(table, made.path("simulate", name, "part-00000.parquet"))
    return made


@pytest.fixture
def row(run: Run, tmp_path: Path) -> dict[str, Any]:
    """The run's only chunk."""
    write_chunks(run, tmp_path / "rows.parquet", "variant")
    rows: list[dict[str, Any]] = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    assert len(rows) == 1
    return rows[0]


@pytest.fixture
def endpoint() -> Iterator[JudgeEndpoint]:
    with JudgeEndpoint() as server:
        yield server


def refined(run: Run, row: dict[str, Any], work: Path, settings: RefineSettings) -> dict[str, Any]:
    async def work_on() -> dict[str, Any]:
        refiner = Refiner("automotive", settings, 3, str(run.path("simulate")), str(work), str(work / "stop"))
        return await refiner(row)

    return asyncio.run(work_on())


def at(endpoint: JudgeEndpoint) -> RefineSettings:
    return SETTINGS.model_copy(update={"judge": endpoint.settings.model_copy(update={"timeout_s": 60.0})})


def test_every_call_has_its_verdict_in_order_and_calls_that_are_alike_are_asked_once(
    run: Run, row: dict[str, Any], tmp_path: Path
) -> None:
    calls = [one for one in read_folder(run.path("simulate", "calls")).to_pylist() if one["agent"] in TRAINABLE]
    done = refined(run, row, tmp_path, SETTINGS.model_copy(update={"second_look": SecondLook(share=1.0)}))
    verdicts = unpacked(done["verdicts"]).to_pylist()
    assert [one["call_id"] for one in verdicts] == [call["call_id"] for call in calls]
    assert (done["failed"], done["error"], done["outages"]) == (0, "", 0)
    words = Counter(one["verdict"] for one in verdicts)
    assert words["keep"] > words["edit"] > 0
    digests = {one["judged_as"] for one in verdicts}
    assert sum(one["asked"] for one in verdicts) == len(digests) <= len(calls)
    assert all((one["severity"] != "none") == (one["verdict"] == "edit") for one in verdicts)
    assert all((one["verdict"] == "unjudged") == bool(one["unjudged_because"]) for one in verdicts)
    assert all(one["second_verdict"] in ("keep", "edit") for one in verdicts)
    assert all(json.loads(one["criteria_json"]) for one in verdicts)


def test_a_judge_that_goes_away_half_way_stops_the_work_and_only_the_rest_is_asked_later(
    run: Run, row: dict[str, Any], tmp_path: Path, endpoint: JudgeEndpoint
) -> None:
    undisturbed = refined(run, row, tmp_path / "other", SETTINGS)
    endpoint.mood, endpoint.break_after = "500", 20
    with pytest.raises(JobStopped):
        refined(run, row, tmp_path, at(endpoint))
    assert "has answered nothing" in (tmp_path / "stop").read_text()
    kept = pq.read_table(tmp_path / "kept" / f"{row['chunk']}.parquet").to_pylist()
    assert len(kept) > 0
    assert {one["verdict"] for one in kept} <= {"keep", "edit", "unjudged"}
    assert not any(one["failed"] for one in kept)
    (tmp_path / "stop").unlink()
    endpoint.mood = "well"
    done = refined(run, row, tmp_path, at(endpoint))
    assert without_costs(done) == without_costs(undisturbed)
    assert Counter(endpoint.answered).most_common(1)[0][1] == 1  # what was answered is not paid for again


def test_a_judge_that_talks_nonsense_scores_nothing_and_what_stands_is_kept(
    run: Run, row: dict[str, Any], tmp_path: Path, endpoint: JudgeEndpoint
) -> None:
    endpoint.mood, endpoint.break_after = "garbage", 20
    done = refined(run, row, tmp_path, at(endpoint))
    verdicts = unpacked(done["verdicts"]).to_pylist()
    spoiled = [one for one in verdicts if one["failed"]]
    assert done["failed"] == len(spoiled) > 0
    said = {(one["verdict"], one["refined"], one["unjudged_because"]) for one in spoiled}
    assert said == {("unjudged", "", "unreadable")}
    endpoint.mood = "well"
    again = refined(run, row, tmp_path, at(endpoint))
    assert again["failed"] == 0
    assert without_costs(again) == without_costs(refined(run, row, tmp_path / "other", SETTINGS))
    assert Counter(endpoint.answered).most_common(1)[0][1] == 1


def without_costs(done: dict[str, Any]) -> list[dict[str, Any]]:
    costs = ("asked", "prompt_tokens", "completion_tokens")
    return [{k: v for k, v in one.items() if k not in costs} for one in unpacked(done["verdicts"]).to_pylist()]
