"""Simulation, refinement, corpora and evaluation on a real local Ray, small; and the resumable job beneath them."""

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agentmill.agents.settings import TeamSettings
from agentmill.domains.base import load_domain
from agentmill.runs import Run
from simulation import corpora, evaluate, refine, simulate
from simulation.claim import OtherWork, claim
from simulation.corpora import CorporaSettings
from simulation.evaluate import EvaluateSettings, EvaluationFailed
from simulation.job import JobFailed, read_state, run_job
from simulation.judging import RefineSettings, SecondLook
from simulation.models import ModelSettings
from simulation.scenarios import made_with
from simulation.simulate import SimulateSettings
from simulation.tables import read_folder, read_table
from simulation.work import ActorRange, Job, Pool
from simulation.worker import heed

pytestmark = pytest.mark.usefixtures("ray_local")
SYSTEM = TeamSettings()
SIMULATE = SimulateSettings(
    conversations=24, heldout_share=0.25, teacher=ModelSettings(mistake_rate=0.3), in_flight=16, block_rows=4
)
REFINE = RefineSettings(actors=1, second_look=SecondLook(share=0.5))
ROWS = 40


class Worker:
    """Fails, dies or stops as the files in `folder` say, and writes down every row that it was given."""

    def __init__(self, folder: str, stop: str) -> None:
        self.folder, self.stop = Path(folder), stop

    async def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        heed(self.stop)
        with (self.folder / "seen.txt").open("a") as stream:
            stream.write(f"{row['sid']}\n")
        if (self.folder / "crash").exists() and row["sid"] == "s025":
            raise RuntimeError("the worker has a fault")
        await asyncio.sleep(0.2)
        broken = (self.folder / "broken").exists() and row["sid"] < "s012"
        return {"sid": row["sid"], "error": "no answer" if broken else ""}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    import ray.cloudpickle

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import the tests
    rows = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"sid": [f"s{i:03d}" for i in range(ROWS)]}), rows)
    return Job("work", "rows", rows, tmp_path / "work", "sid", 0.1, _errors, ("error",))


def _errors(table: pa.Table) -> list[str]:
    return [error for error in table["error"].to_pylist() if error]


def results(job: Job) -> list[str]:
    return sorted(sid for path in job.out.glob("*.parquet") for sid in pq.read_table(path)["sid"].to_pylist())


def test_a_job_that_broke_off_goes_on_with_the_rest_and_repeats_nothing_finished(job: Job, tmp_path: Path) -> None:
    arguments, pool = {"folder": str(tmp_path)}, Pool(actors=1, block_rows=4, calls=2)
    (tmp_path / "crash").touch()
    with pytest.raises(Exception, match="the worker has a fault"):
        run_job(job, Worker, arguments, pool)
    finished = results(job)
    assert 0 < len(finished) < ROWS
    half_written = job.out / ".0000.parquet.1234.part"  # as a kill leaves it
    half_written.write_bytes(b"half a file")
    (tmp_path / "crash").unlink()
    done = run_job(job, Worker, arguments, Pool(actors=ActorRange(min=1, max=2), block_rows=4, calls=2))
    assert results(job) == [f"s{i:03d}" for i in range(ROWS)]
    seen = Counter((tmp_path / "seen.txt").read_text().split())
    assert all(seen[sid] == 1 for sid in finished)
    assert not half_written.exists()
    assert (done.rows, done.failed) == (ROWS, 0)
    assert done.worker_peak_mib > 20
    state = read_state(job.work)
    assert state is not None
    assert state["total"] == ROWS


def test_too_many_failed_rows_end_the_job_early_and_are_done_again_next_time(job: Job, tmp_path: Path) -> None:
    arguments, pool = {"folder": str(tmp_path)}, Pool(actors=1, block_rows=4, calls=1)
    (tmp_path / "broken").touch()
    with pytest.raises(JobFailed, match=r"max_error_share=0.1 allows; the first: no answer"):
        run_job(job, Worker, arguments, pool)
    kept = results(job)
    assert not any(sid < "s012" for sid in kept)
    (tmp_path / "broken").unlink()
    run_job(job, Worker, arguments, pool)
    assert results(job) == [f"s{i:03d}" for i in range(ROWS)]
    seen = Counter((tmp_path / "seen.txt").read_text().split())
    assert all(seen[sid] == 1 for sid in kept)
    run_job(job, Worker, arguments, pool)  # nothing is left to do
    assert len(results(job)) == ROWS


@pytest.fixture(scope="module")
def simulated(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with the stages simulate, refine and corpora done."""
    run = Run.create(tmp_path_factory.mktemp("runs") / "small", {}, "test")
    simulate.run(run, SIMULATE, domain="automotive", system=SYSTEM, seed=3)
    refine.run(run, REFINE, domain="automotive", seed=3)
    corpora.run(run, CorporaSettings(), domain="automotive", seed=3)
    return run


def value(run: Run, name: str) -> Any:
    return run.figures()[name].value


def test_every_scenario_has_one_conversation_in_order_with_its_turns_and_calls(simulated: Run) -> None:
    scenarios = pq.read_table(simulated.path("simulate", "scenarios.parquet"))
    conversations = read_folder(simulated.path("simulate", "conversations")).to_pylist()
    turns = read_folder(simulated.path("simulate", "turns")).to_pylist()
    calls = read_folder(simulated.path("simulate", "calls")).to_pylist()
    sids = [row["sid"] for row in conversations]
    assert sids == scenarios["sid"].to_pylist()
    assert scenarios["split"].to_pylist().count("heldout") == 6
    assert Counter(row["sid"] for row in turns) == {row["sid"]: row["turns"] for row in conversations}
    assert Counter(row["sid"] for row in calls) == {row["sid"]: row["calls"] for row in conversations}
    assert len({row["call_id"] for row in calls}) == len(calls)
    places = [(sids.index(row["sid"]), row["turn"], row["index"]) for row in calls]
    assert places == sorted(places)
    assert value(simulated, "simulate.conversations") == 24
    assert value(simulated, "simulate.calls") == len(calls)
    assert not simulated.path("simulate", ".work").exists()


def test_a_finished_simulation_is_not_played_again(simulated: Run) -> None:
    part = simulated.path("simulate", "calls", "part-00000.parquet")
    before = part.stat().st_mtime_ns
    simulate.run(simulated, SIMULATE, domain="automotive", system=SYSTEM, seed=3)
    assert part.stat().st_mtime_ns == before


def test_unfinished_work_of_another_configuration_is_refused(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "other", {}, "test")
    out = run.path("simulate", ".work", "out", "x").parent
    deciding = made_with(load_domain("automotive"), SYSTEM, SIMULATE.teacher, SIMULATE.user, seed=3)
    drawn = {"mix": "core", "conversations": 24, "heldout_share": 0.25}
    claim(out.parent, {**deciding, **drawn}, "simulate")
    pq.write_table(pa.table({"sid": ["a"], "error": [""]}), out / "block.parquet")
    changed = SIMULATE.model_copy(update={"conversations": 30, "actors": 1})
    with pytest.raises(OtherWork, match=r"conversations 24 -> 30; seed 3 -> 4; the two are not mixed.*--fresh"):
        simulate.run(run, changed, domain="automotive", system=SYSTEM, seed=4, mix="core")


def test_every_call_of_a_trained_agent_is_judged_and_the_teachers_mistakes_are_mended(simulated: Run) -> None:
    calls = [
        row["call_id"]
        for row in read_folder(simulated.path("simulate", "calls")).to_pylist()
        if row["agent"] in {"understander", "planner", "evaluator", "explainer"}
    ]
    refined = read_folder(simulated.path("refine", "calls")).to_pylist()
    assert [row["call_id"] for row in refined] == calls
    verdicts = Counter(row["verdict"] for row in refined)
    assert verdicts["edit"] > 10
    assert verdicts["keep"] > verdicts["edit"]
    assert all(row["refined"] for row in refined if row["verdict"] != "unjudged")
    assert all(row["refined"] != row["output"] for row in refined if row["verdict"] == "edit")
    figures = [value(simulated, f"refine.{name}") for name in ("kept", "edited", "unjudged")]
    assert figures == [verdicts["keep"], verdicts["edit"], verdicts["unjudged"]]
    assert value(simulated, "refine.judge.gold") > 200
    assert value(simulated, "refine.judge.agreement") == value(simulated, "refine.second_look.agreement") == 1.0
    assert 0.5 < value(simulated, "refine.cost.calls_per_accepted") <= 1.1
    assert value(simulated, "simulate.user_errors") == 0.0  # the expert makes no errors of its own
    assert value(simulated, "simulate.user_errors.unreachable") == 0.0
    assert value(simulated, "refine.asked") < len(calls)  # calls that are alike are paid for once


def test_the_corpora_hold_every_agent(simulated: Run) -> None:
    train = read_table(simulated.path("corpora", "sft", "train.parquet")).to_pylist()
    heldout = read_table(simulated.path("corpora", "sft", "heldout.parquet")).to_pylist()
    assert {row["agent"] for row in train} == {"understander", "planner", "evaluator", "explainer"}
    assert not {row["sid"] for row in train} & {row["sid"] for row in heldout}


def test_every_corpus_is_built_and_no_conversation_is_in_two_splits_of_any(simulated: Run) -> None:
    sids: dict[str, set[str]] = {"train": set(), "heldout": set()}
    counts = {}
    for file in sorted(simulated.path("corpora", "x").parent.glob("*/*.parquet")):
        rows = pq.read_table(file, columns=["sid"])["sid"].to_pylist()
        counts[f"{file.parent.name}/{file.stem}"] = len(rows)
        sids["train" if file.stem in {"train", "in_domain"} else "heldout"] |= set(rows) - {""}
    assert all(counts[name] > 0 for name in counts if name != "dpo/heldout"), counts
    assert {name.split("/")[0] for name in counts} == {"cpt", "sft", "dpo", "drafter", "calibration", "eval"}
    assert not sids["train"] & sids["heldout"]
    assert value(simulated, "corpora.dpo.train") <= value(simulated, "refine.edited")


def test_the_teacher_is_evaluated_on_other_held_out_scenarios(simulated: Run) -> None:
    settings = EvaluateSettings(scenarios=8, agent_calls=10)
    teacher = ModelSettings(mistake_rate=0.3)
    evaluate.run_teacher(simulated, settings, domain="automotive", system=SYSTEM, seed=3, teacher=teacher)
    conversations = read_folder(simulated.path("evaluate", "teacher", "conversations")).to_pylist()
    played = {json.loads(row["scenario_json"])["sid"] for row in conversations}
    simulated_too = read_folder(simulated.path("simulate", "conversations"), ["scenario_json"]).to_pylist()
    assert len(played) == 8
    assert not played & {json.loads(row["scenario_json"])["sid"] for row in simulated_too}
    figures = simulated.figures("evaluate.teacher")
    success = figures["evaluate.teacher.success"]
    assert success.n == 8
    assert success.interval is not None
    for name in (
        "understander.intent", "understander.entities", "planner.equivalent", "planner.executable",
        "explainer.grounded", "evaluator.agreement",
    ):  # fmt: skip
        figure = figures[f"evaluate.teacher.{name}"]
        assert 0.3 < float(figure.value) <= 1.0
        assert figure.interval is not None
    assert figures["evaluate.teacher.understander.intent"].n == 10
    assert pq.read_table(simulated.path("evaluate", "teacher", "agents.parquet")).num_rows == 40


def test_a_system_that_does_not_work_is_no_result(simulated: Run) -> None:
    dead = ModelSettings(kind="endpoint", url="http://127.0.0.1:9/v1", name="none", timeout_s=0.1)
    settings = EvaluateSettings(scenarios=2, agent_calls=1, conversation_timeout_s=1.0)
    simulated.forget("evaluate.teacher")
    with pytest.raises(EvaluationFailed, match="2 of 2 conversations failed technically"):
        evaluate.run_teacher(simulated, settings, domain="automotive", system=SYSTEM, seed=3, teacher=dead)
    assert not simulated.figures("evaluate.teacher")


def test_a_perfect_teacher_gets_everything_right(simulated: Run) -> None:
    settings = EvaluateSettings(scenarios=8, agent_calls=20)
    evaluate.run_teacher(simulated, settings, domain="automotive", system=SYSTEM, seed=3, teacher=ModelSettings())
    for name in ("success", "understander.entities", "planner.equivalent", "planner.executable", "explainer.grounded"):
        assert value(simulated, f"evaluate.teacher.{name}") == 1.0, name
