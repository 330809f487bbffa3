"""The stage refine on a real local Ray: a judge that goes away half-way, and a simulator that cannot be trusted."""

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from agentmill.agents.settings import TeamSettings
from agentmill.runs import Run
from simulation import refine, simulate
from simulation.fidelity import UnfaithfulSimulator
from simulation.job import JobFailed
from simulation.judging import RefineSettings
from simulation.models import ModelSettings
from simulation.outage import OutageSettings
from simulation.simulate import SimulateSettings
from simulation.tables import read_folder
from tests.judge_endpoint import JudgeEndpoint

pytestmark = pytest.mark.usefixtures("ray_local")
SETTINGS = RefineSettings(actors=1, gold_cases=0, in_flight=8, outage=OutageSettings(failures_in_a_row=2, outage_s=0))


@pytest.fixture(scope="module")
def played(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run.create(tmp_path_factory.mktemp("runs") / "refined", {}, "test")
    settings = SimulateSettings(conversations=8, teacher=ModelSettings(mistake_rate=0.3), actors=1, in_flight=8)
    simulate.run(run, settings, domain="automotive", system=TeamSettings(), seed=3)
    return run


def refined(run: Run, settings: RefineSettings) -> list[bytes]:
    """Refine and give back the files."""
    refine.run(run, settings, domain="automotive", seed=3)
    return [path.read_bytes() for path in sorted(run.path("refine", "calls").glob("*.parquet"))]


def test_a_judge_that_fails_half_way_loses_nothing_and_scores_nothing_by_accident(played: Run) -> None:
    undisturbed = refined(played, SETTINGS)
    rows = read_folder(played.path("refine", "calls")).to_pylist()
    with JudgeEndpoint() as endpoint:
        model = endpoint.settings.model_copy(update={"timeout_s": 60.0})
        settings = SETTINGS.model_copy(update={"judge": model})
        endpoint.break_after, endpoint.mood = 40, "500"
        with pytest.raises(JobFailed, match=r"has answered nothing for .*run the same command again"):
            refined(played, settings)
        first = endpoint.answered.copy()
        assert 0 < len(first) < len(rows)
        kept = list(played.path("refine", ".work", "kept").glob("*.parquet"))
        assert sum(pq.read_metadata(path).num_rows for path in kept) >= len(first)

        assert read_folder(played.path("refine", "calls")).to_pylist() == rows  # what was there stands untouched
        endpoint.mood = "well"
        assert refined(played, settings) == undisturbed
        assert Counter(endpoint.answered).most_common(1)[0][1] == 1  # what was answered is not paid for again
    assert played.figures()["refine.outages"].value == 0
    assert not played.path("refine", ".work").exists()


def test_an_unfaithful_simulator_is_stopped_before_a_judge_is_asked(played: Run, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "spoiled", {}, "test")
    for name in ("calls", "turns", "conversations"):
        run.path("simulate", name).symlink_to(played.path("simulate", name), target_is_directory=True)
    run.path("simulate", "conversations").unlink()
    table = read_folder(played.path("simulate", "conversations"))
    place = table.schema.get_field_index("user_errors_json")
    spoiled = table.set_column(place, "user_errors_json", [['["left_early"]'] * table.num_rows])
    run.path("simulate", "conversations", "x").parent.mkdir(exist_ok=True)
    pq.write_table(
        spoiled.replace_schema_metadata(table.schema.metadata),
        run.path("simulate", "conversations", "part-00000.parquet"),
    )
    with pytest.raises(UnfaithfulSimulator, match=r"in 8 of 8 conversations .* above refine.max_user_errors=0.05"):
        refined(run, SETTINGS)
    assert not run.path("refine", "calls").exists()
