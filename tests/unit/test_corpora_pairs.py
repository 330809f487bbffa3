"""Z_DPO: judged pairs that really differ, pairs made by hand, and the commands for them; what a drafter learns from."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from agentmill.domains.base import Domain, load_domain
from agentmill.errors import UserError
from agentmill.models.chat import ChatRequest, ModelError, Sampling
from agentmill.records import CALL_SCHEMA, Call
from cluster.cli import app
from simulation.agent_tests import RESULT_SCHEMA
from simulation.corpora import CorporaSettings
from simulation.corpora.dpo import differ
from simulation.corpora.drafter import regenerate
from simulation.corpora.pairs import PairError, check_pairs
from simulation.corpora.settings import DpoSettings, DpoShares, Mixture, NearSettings
from simulation.tables import call_row, write_table
from tests.fakes import ScriptedModel
from tests.traces import MadeRun

EXACT = NearSettings(threshold=None)
PLAN = 'hours = opening_hours(day="friday")'
WRONG = 'hours = opening_hours(day="monday")'
FRAME = "intent: opening_hours\nday: friday"


@pytest.fixture(scope="module")
def automotive() -> Domain:
    return load_domain("automotive")


@pytest.fixture
def made(tmp_path: Path, automotive: Domain) -> MadeRun:
    made = MadeRun(tmp_path / "run", automotive)
    made.conversation("train")
    made.conversation("held", "heldout")
    return made


def run_command(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if isinstance(result.exception, UserError):
        return str(result.exception)
    assert result.exit_code == 0, result.output
    return result.output


def recorded(made: MadeRun, *calls: dict[str, Any]) -> None:
    """Write calls as the simulation records them."""
    common = {
        "messages": [],
        "status": "ok",
        "model": "m",
        "prompt_tokens": 1,
        "completion_tokens": 1,
        "latency_s": 0.0,
    }
    rows = [call_row(Call.model_validate({**common, "turn": 0, "index": 0, **call})) for call in calls]
    table = pa.Table.from_pylist(rows, schema=CALL_SCHEMA)
    write_table(table, made.run.path("simulate", "calls", "part-00000.parquet"))


def planner_call(made: MadeRun, sid: str) -> dict[str, Any]:
    system = made.domain.prompts["brief"]["planner"]
    messages = [{"role": "system", "content": system}, {"role": "user", "content": FRAME}]
    return {"call_id": f"{sid}-0-1", "sid": sid, "agent": "planner", "output": WRONG, "messages": messages}


def fill(file: Path, chosen: str) -> None:
    """What a person does with a file of pairs."""
    records = YAML(typ="safe").load(file.read_text())
    for record in records:
        record["chosen"] = chosen
    with file.open("w") as stream:
        YAML().dump(records, stream)


@pytest.mark.parametrize(
    ("agent", "better", "worse", "really"),
    [
        ("planner", PLAN, 'x = opening_hours(day="friday")', False),
        ("planner", PLAN, WRONG, True),
        ("planner", PLAN, "no plan at all", True),
        (
            "understander",
            '{"intent":"a","entities":{"x":1,"y":2}}',
            '{"entities": {"y": 2, "x": 1}, "intent": "a"}',
            False,
        ),
        ("understander", '{"intent":"a","entities":{"x":1}}', '{"intent":"a","entities":{"x":true}}', True),
        ("understander", '{"intent":"a"}', "{broken", True),
        ("evaluator", '{"ok":false,"violations":["A","B"]}', '{"violations":["B","A"],"ok":false}', False),
        ("evaluator", '{"ok":true,"violations":[]}', '{"ok":false,"violations":["A"]}', True),
        ("explainer", "We open at nine.", " We open  at nine.\n", False),
        ("explainer", "We open at nine.", "We open at ten.", True),
    ],
)
def test_outputs_are_compared_by_what_they_mean(agent: str, better: str, worse: str, really: bool) -> None:
    assert differ(agent, better, worse) is really


def test_judged_pairs_are_kept_only_where_they_really_differ(made: MadeRun) -> None:
    edit = {"agent": "planner", "verdict": "edit"}
    made.call("train", FRAME, PLAN, output=WRONG, **edit)
    made.call("train", f"{FRAME}\nname: x", PLAN, output='other = opening_hours(day="friday")', **edit)
    made.call("train", f"{FRAME}\nname: y", PLAN, agent="planner")
    made.call("train", f"{FRAME}\nname: z", PLAN, output=WRONG, second_verdict="keep", **edit)
    made.build(CorporaSettings(near_duplicates=EXACT))
    [pair] = made.rows("dpo")
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) == (PLAN, WRONG)
    assert (pair["source"], pair["call_id"]) == ("judge", "train-0-0")
    assert made.figure("corpora.dpo.left_out.no_real_difference") == 1
    assert made.figure("corpora.dpo.left_out.the_second_judge_kept_it") == 1


def test_a_pair_by_hand_goes_from_a_recorded_call_through_a_person_into_the_corpus(
    made: MadeRun, tmp_path: Path
) -> None:
    recorded(made, planner_call(made, "train"), planner_call(made, "held"))
    made.call("held", "customer: Hi", "Hello!")
    made.call("train", "customer: Hello", "Hello!")
    made.write()
    file = tmp_path / "pairs.yaml"
    told = run_command("pairs", "new", made.run.root, "--call", "held-0-1", "--out", file)
    assert "1 of their conversations are held out" in told
    assert "chosen is empty" in run_command("pairs", "check", file)
    fill(file, WRONG)
    assert "mean the same" in run_command("pairs", "check", file)
    fill(file, 'hours = opening_hours(day="tuesday")')
    assert "GROUNDED_ARGUMENT" in run_command("pairs", "check", file)
    fill(file, PLAN)
    assert "1 pairs are right" in run_command("pairs", "check", file)
    made.build(CorporaSettings(dpo=DpoSettings(hand=file), near_duplicates=EXACT))
    [pair] = made.rows("dpo")
    assert (pair["source"], pair["sid"], pair["chosen"][0]["content"]) == ("hand", "held", PLAN)
    assert made.rows("sft", "heldout") == made.rows("eval", "heldout") == []
    assert made.figure("corpora.left_out.a_pair_made_by_hand_trains_on_it") == 1


def test_pairs_are_started_from_what_an_evaluation_found_wrong(made: MadeRun, tmp_path: Path) -> None:
    made.write()
    call = planner_call(made, "train")
    row = {"call_id": "train-0-1", "agent": "planner", "prompt_json": json.dumps(call["messages"]), "reference": PLAN,
           "output": WRONG, "error": "", "right": False}  # fmt: skip
    table = pa.Table.from_pylist([row, {**row, "right": True}], schema=RESULT_SCHEMA)
    write_table(table, made.run.path("evaluate", "sft", "agents.parquet"))
    file = tmp_path / "pairs.jsonl"
    run_command("pairs", "new", made.run.root, "--evaluation", "sft", "--out", file)
    [pair] = [json.loads(line) for line in file.read_text().splitlines()]
    assert (pair["rejected"], pair["chosen"], pair["sid"]) == (WRONG, "", "train")
    assert PLAN in pair["note"]
    assert "no such evaluation; there are: sft" in run_command(
        "pairs", "new", made.run.root, "--evaluation", "dpo", "--out", file
    )
    assert "has no call nobody" in run_command("pairs", "new", made.run.root, "--call", "nobody", "--out", file)
    assert "nothing to make a pair of" in run_command("pairs", "new", made.run.root, "--out", file)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"agent": "planner", "prompt": [], "rejected": "a"}', "pair 1: prompt"),
        ('{"agent": "boss", "prompt": [{"role": "user", "content": "a"}], "rejected": "a"}', "pair 1: agent"),
        ('{"agent": "planner", "promt": [], "rejected": "a"}', "pair 1: promt"),
        ("{broken", "line 1: not JSON"),
        ("", "there is no pair in it"),
        (
            '{"agent": "user", "prompt": [{"role": "user", "content": "a"}], "rejected": "a"}',
            "agent=user is not trained",
        ),
    ],
)
def test_a_file_of_pairs_that_is_wrong_says_where(tmp_path: Path, automotive: Domain, text: str, told: str) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(text)
    with pytest.raises(PairError, match=told):
        check_pairs(file, automotive)


def test_hand_made_pairs_may_be_drawn_down_to_a_share(made: MadeRun, tmp_path: Path) -> None:
    pairs = []
    for i in range(6):
        made.call("train", f"{FRAME}\nname: {i}", PLAN, output=WRONG, agent="planner", verdict="edit")
        prompt = [{"role": "system", "content": "Plan."}, {"role": "user", "content": f"{FRAME}\nname: {i}"}]
        pairs.append({"agent": "planner", "prompt": prompt, "rejected": WRONG, "chosen": PLAN})
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, pairs)))
    settings = {"dpo": DpoSettings(hand=file), "near_duplicates": EXACT}
    made.build(CorporaSettings.model_validate({**settings, "mixture": Mixture(dpo=DpoShares(hand=0.25))}))
    assert Counter(row["source"] for row in made.rows("dpo")) == {"judge": 6, "hand": 2}
    made.build(CorporaSettings.model_validate(settings))
    assert Counter(row["source"] for row in made.rows("dpo")) == {"judge": 6, "hand": 6}


async def test_the_student_writes_the_responses_that_a_drafter_learns_from() -> None:
    def answer(request: ChatRequest) -> str:
        if "fail" in request.messages[-1].content:
            raise ModelError("down", retryable=False)
        return f"re: {request.messages[-1].content}"

    model = ScriptedModel(planner=answer, explainer=answer)
    rows = []
    for i, agent in enumerate(["planner"] * 20 + ["public"] * 5):
        prompt = [{"role": "user", "content": f"{'fail' if i == 3 else 'ask'} {i}"}]
        rows.append({"prompt": prompt, "completion": [], "agent": agent, "call_id": str(i), "status": "open"})
    done = [row async for row in regenerate(rows, model, sampling=Sampling(seed=1), in_flight=4)]
    assert [row["call_id"] for row in done] == [str(i) for i in range(25)]
    assert [row["status"] for row in done].count("ok") == 24
    assert (done[3]["status"], done[3]["error"], done[3]["completion"]) == ("error", "down", [])
    assert done[24]["completion"] == [{"role": "assistant", "content": "re: ask 24"}]
    assert done[24]["model"] == "scripted"


async def test_the_expert_regenerates_the_prompts_of_a_drafter_corpus(made: MadeRun, automotive: Domain) -> None:
    made.call(
        "train", "intent: none\nassistant: none\ncustomer: What are your hours on friday?", "{}", agent="understander"
    )
    made.call("train", FRAME, PLAN, agent="planner")
    made.build(CorporaSettings())
    assert automotive.expert is not None
    model = automotive.expert(0.0)
    done = [row async for row in regenerate(made.rows("drafter"), model, sampling=Sampling())]
    assert {row["agent"]: row["status"] for row in done} == {"understander": "ok", "planner": "ok"}
    assert {row["completion"][0]["content"] for row in done if row["agent"] == "planner"} == {PLAN}
