"""From traces to corpora: what is taught, what is left out, the mixture, and that no split leaks into another."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agentmill.domains.base import Domain, load_domain
from agentmill.runs import RunError
from simulation.corpora import CorporaSettings
from simulation.corpora.public import PublicDataError
from simulation.corpora.rows import SFT_SCHEMA
from simulation.corpora.settings import CptShares, Mixture, NearSettings, WithPublic
from simulation.tables import read_table
from tests.traces import MadeRun, learnt, write_dialogues

EXACT = NearSettings(threshold=None)
SETTINGS = CorporaSettings(max_duplicates=2, near_duplicates=EXACT)
WORDS = "amber basil cedar daisy ebony fern ginger hazel iris jade kelp lotus maple nettle olive pine".split()


@pytest.fixture(scope="module")
def automotive() -> Domain:
    return load_domain("automotive")


@pytest.fixture
def made(tmp_path: Path, automotive: Domain) -> MadeRun:
    made = MadeRun(tmp_path / "run", automotive)
    made.conversation("train")
    made.conversation("held", "heldout")
    return made


def test_rows_are_conversational_prompts_with_the_refined_output_as_completion(made: MadeRun) -> None:
    made.call("train", "customer: Hi", "Hello!", output="Hi hi", verdict="edit")
    folder = made.build(SETTINGS)
    [row] = made.rows("sft")
    assert [message["role"] for message in row["prompt"]] == ["system", "user"]
    assert row["prompt"][1]["content"] == "customer: Hi"
    assert row["completion"] == [{"role": "assistant", "content": "Hello!"}]
    assert (row["agent"], row["sid"], row["source"], row["run"]) == ("explainer", "train", "refined", "run")
    assert pq.read_schema(folder / "sft" / "train.parquet").equals(SFT_SCHEMA)


def test_what_was_not_judged_is_not_taught_and_is_counted(made: MadeRun) -> None:
    made.call("train", "customer: Hi", "Hello!")
    made.call("train", "customer: Bye", "", verdict="unjudged")
    made.build(SETTINGS)
    assert len(made.rows("sft")) == 1
    assert made.figure("corpora.sft.left_out.unjudged") == 1


def test_no_scenario_is_in_two_splits_and_no_held_out_prompt_is_trained_on(made: MadeRun) -> None:
    made.call("train", "customer: Hi", "Hello!")
    made.call("held", "customer: Hi", "Good day!")
    made.call("held", "customer: Bye", "Good bye!")
    made.build(SETTINGS)
    assert [row["sid"] for row in made.rows("sft")] == ["train"]
    assert [learnt(row) for row in made.rows("sft", "heldout")] == ["Good bye!"]
    assert made.figure("corpora.sft.left_out.heldout_prompt_in_train") == 1
    assert (made.figure("corpora.sft.train"), made.figure("corpora.sft.heldout")) == (1, 1)
    assert [row["sid"] for row in made.rows("eval", "heldout")] == ["held"]


def test_a_held_out_row_that_is_near_to_a_training_row_is_left_out(made: MadeRun) -> None:
    text = " ".join(f"{a} {b}" for a in WORDS for b in WORDS[:6])
    made.call("train", f"customer: {text} today", "Hello!")
    made.call("held", f"customer: {text} tonight", "Hello!")
    made.call("held", "customer: something else", "Hello!")
    made.build(CorporaSettings())
    assert len(made.rows("sft", "heldout")) == 1
    assert made.figure("corpora.sft.left_out.near_a_training_row.explainer") == 1


def test_of_near_duplicates_so_many_are_kept_as_is_said_and_they_are_counted_by_agent(made: MadeRun) -> None:
    text = " ".join(f"{a} {b}" for a in WORDS for b in WORDS[:6])
    for i in range(6):
        made.call("train", f"customer: {text} {i}", "Hello!")
    made.build(CorporaSettings(near_duplicates=NearSettings(threshold=0.9, keep=2)))
    assert len(made.rows("sft")) == 2
    assert made.figure("corpora.sft.left_out.near_duplicate.explainer") == 4


def test_the_same_row_is_taught_at_most_so_often_and_drafted_once(made: MadeRun) -> None:
    for _ in range(5):
        made.call("train", "customer: Hi", "Hello!")
    made.call("train", "customer: Hi", "Welcome!")
    made.build(SETTINGS)
    assert len(made.rows("sft")) == 3
    assert made.figure("corpora.sft.left_out.duplicate") == 3
    [prompt] = made.rows("drafter")
    assert (prompt["completion"], prompt["status"]) == ([], "open")


def test_a_recorded_plan_that_breaks_a_rule_teaches_the_evaluator(made: MadeRun) -> None:
    plan = 'hours = opening_hours(day="monday")'
    frame = "intent: opening_hours\nday: friday\nviolation: X: y\nplan: a = b()\nc = d()"
    made.call("train", frame, plan, agent="planner", violations_json='["GROUNDED_ARGUMENT"]')
    made.call("train", frame, plan, agent="planner", violations_json='["WRONG_TOOL"]')
    made.build(SETTINGS)
    [row] = [row for row in made.rows("sft") if row["agent"] == "evaluator"]
    assert row["source"] == "rules"
    assert row["prompt"][0]["content"] == made.domain.prompts["brief"]["evaluator"]
    assert row["prompt"][1]["content"] == f"intent: opening_hours\nday: friday\nviolation: X: y\nplan: {plan}"
    assert learnt(row) == '{"ok":false,"violations":["GROUNDED_ARGUMENT"]}'
    assert made.figure("corpora.sft.agent.planner") == 2
    made.build(CorporaSettings(rule_verdicts=False))
    assert not [row for row in made.rows("sft") if row["agent"] == "evaluator"]


def test_a_conversation_whose_simulated_customer_went_wrong_is_in_no_corpus(made: MadeRun) -> None:
    made.conversation("spoilt", user_errors=("left_early",))
    for sid in ("train", "spoilt"):
        made.call(sid, f"customer: {sid}", f"Hello {sid}!")
        made.turn(sid, sid, f"Hello {sid}!")
    made.build(SETTINGS)
    for corpus in ("sft", "cpt", "drafter"):
        assert "spoilt" not in {row["sid"] for row in made.rows(corpus)}
    assert made.figure("corpora.left_out.user_error") == 1


@pytest.mark.parametrize(("share", "count"), [(0.2, 5), (0.5, 20), (0.0, 0)])
def test_real_dialogues_have_their_share_of_the_training_rows(
    made: MadeRun, tmp_path: Path, share: float, count: int
) -> None:
    for i in range(20):
        made.call("train", f"customer: {i}", f"Reply {i}")
    settings = SETTINGS.model_copy(update={"mixture": Mixture(sft=WithPublic(public=share))})
    made.build(settings, write_dialogues(tmp_path, 60, broken=True))
    train, heldout = made.rows("sft"), made.rows("sft", "public_heldout")
    public = [row for row in train if row["source"] == "public"]
    assert (len(public), len(train)) == (count, 20 + count)
    assert made.figure("corpora.sft.share.public") == share
    assert heldout
    assert not {row["sid"] for row in public} & {row["sid"] for row in heldout}
    assert {row["agent"] for row in heldout} == {"public"}
    assert (made.figure("data.public.read"), made.figure("data.public.skipped")) == (60, 1)


def test_one_specification_mixes_every_corpus_and_shares_may_be_of_characters(made: MadeRun, tmp_path: Path) -> None:
    for i in range(20):
        made.call("train", f"customer: {i}", f"Reply {i}")
    made.turn("train", "Hi", "Hello!")
    mixture = Mixture(by="characters", cpt=CptShares(documents=0.5, public=0.2), drafter=WithPublic(public=0.4))
    made.build(SETTINGS.model_copy(update={"mixture": mixture}), write_dialogues(tmp_path, 200))
    rows = made.rows("drafter")
    lengths = {True: 0, False: 0}
    for row in rows:
        lengths[row["source"] == "public"] += sum(len(message["content"]) for message in row["prompt"])
    assert 0.35 < lengths[True] / sum(lengths.values()) <= 0.4
    shares = {name: made.figure(f"corpora.cpt.share.{name}") for name in ("documents", "public", "traces")}
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares["documents"] <= 0.55  # there is hardly any dialogue: whole rows, never more than asked for


def test_documents_are_taken_whole_where_no_share_is_given(made: MadeRun) -> None:
    made.build(SETTINGS)
    found = {learnt(row) for row in made.rows("cpt") if row["agent"] == "document"}
    assert found == {row["document"] for row in made.domain.documents()}


def test_a_broken_line_is_told_with_its_number(
    made: MadeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made.call("train", "customer: Hi", "Hello!")
    made.build(SETTINGS, write_dialogues(tmp_path, 10, broken=True))
    assert "public.jsonl, line 11: not JSON" in capsys.readouterr().err


def test_too_few_real_dialogues_are_said_aloud(
    made: MadeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(20):
        made.call("train", f"customer: {i}", f"Reply {i}")
    settings = {"mixture": Mixture(sft=WithPublic(public=0.5)), "public_heldout_share": 0.0}
    made.build(SETTINGS.model_copy(update=settings), write_dialogues(tmp_path, 4))
    assert "sft: public gives 4 where 20 are wanted: its share is 16.7%" in capsys.readouterr().err
    assert made.figure("corpora.sft.share.public") == pytest.approx(4 / 24)


def test_a_stage_that_fails_leaves_the_older_corpora(made: MadeRun, tmp_path: Path) -> None:
    made.call("train", "customer: Hi", "Hello!")
    made.build(SETTINGS)
    with pytest.raises(PublicDataError):
        made.build(SETTINGS, write_dialogues(tmp_path, 0, broken=True))
    assert len(made.rows("sft")) == 1
    assert [path.name for path in made.run.root.glob(".corpora*")] == []


def test_calls_of_no_conversation_are_an_error_and_never_lost(made: MadeRun) -> None:
    made.call("train", "customer: Hi", "Hello!")
    made.write()
    part = made.run.path("refine", "calls", "part-00000.parquet")
    table = pq.read_table(part)
    stray = table.set_column(table.column_names.index("sid"), "sid", pa.array(["nobody"]))
    pq.write_table(pa.concat_tables([table, stray]).cast(table.schema), part)
    from simulation.corpora.traces import Traces

    with pytest.raises(RunError, match="conversation nobody"):
        list(Traces(made.run).talks())


def test_what_is_drawn_and_its_order_hang_on_the_rows_and_not_on_how_many_are_held_at_once(
    made: MadeRun, tmp_path: Path
) -> None:
    for i in range(60):
        made.call("train", f"customer: {i}", f"Reply {i}")
    public = write_dialogues(tmp_path, 40)
    file = made.run.path("corpora", "sft", "train.parquet")
    made.build(SETTINGS, public)
    once, bytes_once = made.rows("sft"), file.read_bytes()
    made.build(SETTINGS, public)
    assert file.read_bytes() == bytes_once
    made.build(SETTINGS.model_copy(update={"bucket_rows": 16}), public)
    assert made.rows("sft") == once
    places = [int(row["call_id"].rsplit("-", 1)[1]) for row in once if row["source"] == "teacher"]
    assert places != sorted(places)


def test_the_evaluation_split_lists_scenarios_with_their_cells(made: MadeRun) -> None:
    made.build(SETTINGS)
    [row] = made.rows("eval", "heldout")
    assert (row["sid"], row["persona"], row["switches"]) == ("held", "plain", "none")
    assert row["cell"] == "small_talk | plain | easy | none"
    assert json.loads(row["scenario_json"])["split"] == "heldout"
    assert made.figure("corpora.eval.heldout") == 1


def test_files_of_another_schema_version_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"sid": ["a"]}), tmp_path / "part-00000.parquet")
    with pytest.raises(RunError, match="schema version none"):
        read_table(tmp_path / "part-00000.parquet")
    with pytest.raises(RunError, match="run the stage that makes it first"):
        read_table(tmp_path / "part-00001.parquet")
