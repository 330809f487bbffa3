"""From refined calls to training rows: what is taught, what is left out, and that no split leaks into another."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agentmill.domains.base import Domain, Goal, Scenario, load_domain
from agentmill.records import Conversation
from agentmill.runs import Run, RunError
from simulation import corpora
from simulation.corpora import CorporaSettings
from simulation.public import PublicDataError
from simulation.tables import (
    REFINED_SCHEMA,
    SFT_SCHEMA,
    compact,
    conversation_tables,
    read_table,
    write_table,
)

SETTINGS = CorporaSettings(max_duplicates=2)


@pytest.fixture(scope="module")
def automotive() -> Domain:
    return load_domain("automotive")


class MadeRun:
    """A run directory with conversations, refined calls and turns made by hand."""

    def __init__(self, folder: Path, domain: Domain) -> None:
        self.run = Run.create(folder, {}, "test")
        self.domain = domain
        self.conversations: list[Conversation] = []
        self.calls: list[dict[str, Any]] = []

    def conversation(self, sid: str, split: Any = "train") -> None:
        goal = Goal(intent="small_talk", slots={}, expect={})
        scenario = Scenario(sid=sid, seed=1, world_seed=1, persona="plain", goals=(goal,), split=split)
        self.conversations.append(
            Conversation(
                sid=sid,
                scenario_json=scenario.model_dump_json(),
                status="exit",
                success=True,
                reasons=(),
                turns=1,
                calls=1,
                world_json="{}",
                seconds=0.1,
            )
        )

    def call(self, sid: str, frame: str, refined: str, *, agent: str = "explainer", **fields: Any) -> None:
        number = len(self.calls)
        system = self.domain.prompts["brief"][agent]  # type: ignore[index]
        messages = [{"role": "system", "content": system}, {"role": "user", "content": frame}]
        row = {
            "call_id": f"{sid}-{number}", "sid": sid, "turn": 0, "index": number, "agent": agent,
            "messages_json": compact(messages), "output": refined, "status": "ok", "verdict": "keep",
            "refined": refined, "reason": "", "criteria_json": "{}", "violations_json": "", "judged_as": "x",
        }  # fmt: skip
        self.calls.append({**row, **fields})

    def build(self, settings: CorporaSettings = SETTINGS, **options: Any) -> Path:
        tables = conversation_tables(self.conversations, [], [])
        write_table(tables["conversations"], self.run.path("simulate", "conversations", "part-00000.parquet"))
        table = pa.Table.from_pylist(self.calls, schema=REFINED_SCHEMA)
        write_table(table, self.run.path("refine", "calls", "part-00000.parquet"))
        corpora.run(
            self.run, settings, domain="automotive", seed=0,
            public=options.get("public"), public_share=options.get("public_share", 0.0),
        )  # fmt: skip
        return self.run.path("corpora")

    def figure(self, name: str) -> Any:
        return self.run.figures()[name].value


@pytest.fixture
def made(tmp_path: Path, automotive: Domain) -> MadeRun:
    made = MadeRun(tmp_path / "run", automotive)
    made.conversation("train")
    made.conversation("held", "heldout")
    return made


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(folder / "sft" / f"{name}.parquet").to_pylist()
    return found


def dialogues(folder: Path, count: int) -> Path:
    path = folder / "public.jsonl"
    lines = [
        json.dumps({"messages": [{"role": "user", "content": f"Q{i}"}, {"role": "assistant", "content": f"A{i}"}]})
        for i in range(count)
    ]
    path.write_text("\n".join([*lines, "{broken"]))
    return path


def test_rows_are_conversational_prompts_with_the_refined_output_as_completion(made: MadeRun) -> None:
    made.call("train", "customer: Hi", "Hello!", output="Hi hi", verdict="edit")
    folder = made.build()
    [row] = rows(folder, "train")
    assert [message["role"] for message in row["prompt"]] == ["system", "user"]
    assert row["prompt"][1]["content"] == "customer: Hi"
    assert row["completion"] == [{"role": "assistant", "content": "Hello!"}]
    assert (row["agent"], row["sid"], row["source"]) == ("explainer", "train", "refined")
    assert pq.read_schema(folder / "sft" / "train.parquet").equals(SFT_SCHEMA)


def test_what_was_not_judged_is_not_taught_and_is_counted(made: MadeRun) -> None:
    made.call("train", "customer: Hi", "Hello!")
    made.call("train", "customer: Bye", "", verdict="unjudged")
    assert len(rows(made.build(), "train")) == 1
    assert made.figure("corpora.sft.left_out.unjudged") == 1


def test_no_scenario_is_in_two_splits_and_no_held_out_prompt_is_trained_on(made: MadeRun) -> None:
    made.call("train", "customer: Hi", "Hello!")
    made.call("held", "customer: Hi", "Good day!")
    made.call("held", "customer: Bye", "Good bye!")
    folder = made.build()
    assert [row["sid"] for row in rows(folder, "train")] == ["train"]
    assert [row["completion"][0]["content"] for row in rows(folder, "heldout")] == ["Good bye!"]
    assert made.figure("corpora.sft.left_out.heldout_prompt_in_train") == 1
    assert (made.figure("corpora.sft.train"), made.figure("corpora.sft.heldout")) == (1, 1)


def test_the_same_row_is_taught_at_most_so_often(made: MadeRun) -> None:
    for _ in range(5):
        made.call("train", "customer: Hi", "Hello!")
    made.call("train", "customer: Hi", "Welcome!")
    assert len(rows(made.build(), "train")) == 3
    assert made.figure("corpora.sft.left_out.duplicate") == 3


def test_a_recorded_plan_that_breaks_a_rule_teaches_the_evaluator(made: MadeRun) -> None:
    plan = 'hours = opening_hours(day="monday")'
    frame = "intent: opening_hours\nday: friday\nviolation: X: y\nplan: a = b()\nc = d()"
    made.call("train", frame, plan, agent="planner", violations_json='["GROUNDED_ARGUMENT"]')
    made.call("train", frame, plan, agent="planner", violations_json='["WRONG_TOOL"]')
    verdicts = [row for row in rows(made.build(), "train") if row["agent"] == "evaluator"]
    [row] = verdicts
    assert row["source"] == "rules"
    assert row["prompt"][0]["content"] == made.domain.prompts["brief"]["evaluator"]
    assert row["prompt"][1]["content"] == f"intent: opening_hours\nday: friday\nviolation: X: y\nplan: {plan}"
    assert row["completion"][0]["content"] == '{"ok":false,"violations":["GROUNDED_ARGUMENT"]}'
    assert made.figure("corpora.sft.agent.planner") == 2
    assert not [r for r in rows(made.build(CorporaSettings(rule_verdicts=False)), "train") if r["agent"] == "evaluator"]


@pytest.mark.parametrize(("share", "count"), [(0.2, 5), (0.5, 20), (0.0, 0)])
def test_real_dialogues_have_their_share_of_the_training_rows(
    made: MadeRun, tmp_path: Path, share: float, count: int
) -> None:
    for i in range(20):
        made.call("train", f"customer: {i}", f"Reply {i}")
    folder = made.build(public=dialogues(tmp_path, 60), public_share=share)
    train, heldout = rows(folder, "train"), rows(folder, "public_heldout")
    public = [row for row in train if row["source"] == "public"]
    assert (len(public), len(train)) == (count, 20 + count)
    assert len(heldout) == 3
    assert not {row["call_id"] for row in public} & {row["call_id"] for row in heldout}
    assert {row["agent"] for row in heldout} == {"public"}
    assert (made.figure("data.public.read"), made.figure("data.public.skipped")) == (60, 1)


def test_a_broken_line_is_told_with_its_number(
    made: MadeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made.call("train", "customer: Hi", "Hello!")
    made.build(public=dialogues(tmp_path, 10), public_share=0.5)
    assert "public.jsonl, line 11: not JSON" in capsys.readouterr().err


def test_too_few_real_dialogues_are_said_aloud(
    made: MadeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(20):
        made.call("train", f"customer: {i}", f"Reply {i}")
    made.build(public=dialogues(tmp_path, 5), public_share=0.5)
    assert "its share is 16.7%" in capsys.readouterr().err
    assert made.figure("corpora.sft.public_share") == pytest.approx(4 / 24)


def test_a_run_that_fails_leaves_the_older_corpora(made: MadeRun, tmp_path: Path) -> None:
    made.call("train", "customer: Hi", "Hello!")
    folder = made.build()
    with pytest.raises(PublicDataError):
        made.build(public=dialogues(tmp_path, 0), public_share=0.5)
    assert len(rows(folder, "train")) == 1


def test_a_person_can_read_the_card_and_samples(made: MadeRun) -> None:
    made.call("train", "customer: Hi", "Hello!")
    folder = made.build()
    assert "| train | 1 |" in (folder / "README.md").read_text()
    [sample] = json.loads((folder / "samples.json").read_text())
    assert sample["completion"][0]["content"] == "Hello!"


def test_building_twice_gives_the_same_files(made: MadeRun) -> None:
    for i in range(30):
        made.call("train", f"customer: {i}", f"Reply {i}")
    first = (made.build() / "sft" / "train.parquet").read_bytes()
    assert (made.build() / "sft" / "train.parquet").read_bytes() == first


def test_files_of_another_schema_version_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"sid": ["a"]}), tmp_path / "part-00000.parquet")
    with pytest.raises(RunError, match="schema version none"):
        read_table(tmp_path / "part-00000.parquet")
    with pytest.raises(RunError, match="run the stage that makes it first"):
        read_table(tmp_path / "part-00001.parquet")
