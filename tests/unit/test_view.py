"""The coloured view: what is trained on is what the trainer's own mask says."""

from pathlib import Path
from typing import Any

import pytest

from agentmill.domains.base import load_domain
from agentmill.runs import RunError
from cluster.view import Part, print_rows, rows_of, show, tokenizer_of
from raytrain.data import tokenise
from simulation.corpora import CorporaSettings
from simulation.corpora.settings import NearSettings
from tests.tiny_llama import write_tiny_llama
from tests.traces import MadeRun


@pytest.fixture
def made(tmp_path: Path) -> MadeRun:
    made = MadeRun(tmp_path / "run", load_domain("automotive"))
    made.conversation("train")
    made.turn("train", "Hi", "Hello!")
    made.call("train", "customer: Hi", "Hello!", output="Hi hi", verdict="edit")
    made.call("train", "intent: opening_hours", "p = opening_hours()", agent="planner")
    made.build(CorporaSettings(near_duplicates=NearSettings(threshold=None)))
    return made


def explainer(made: MadeRun, corpus: str) -> dict[str, Any]:
    [row] = rows_of(made.run, corpus, "train", "explainer", 3)
    return row


def test_trained_tokens_are_those_that_the_loss_counts_with_the_end_of_sequence(made: MadeRun) -> None:
    write_tiny_llama(made.run.path("models", "base"))
    tokenizer = tokenizer_of(made.run)
    assert tokenizer is not None
    rows, report = tokenise("sft", made.run.path("corpora", "sft", "train.parquet"), tokenizer, 4096, "error")
    shown = [show(row, tokenizer) for row in made.rows("sft")]
    assert [row.tokens for row in shown] == [(s, len(t) - s) for t, s in map(rows.row, range(len(rows)))]
    assert sum(row.tokens[1] for row in shown if row.tokens) == report.completion_tokens
    masked, trained = show(explainer(made, "sft"), tokenizer).parts
    assert trained == Part("trained", "Hello!<|end|>")
    assert masked.text.endswith("<|user|>customer: Hi<|end|><|assistant|>")


def test_without_a_tokenizer_the_messages_are_shown(made: MadeRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert tokenizer_of(made.run) is None
    print_rows(made.run, "sft", "train", "planner", 3)
    shown = capsys.readouterr().out
    assert "models/base has no tokenizer here" in shown.replace("\n", " ")
    assert "[assistant] p = opening_hours()" in shown


def test_a_pair_shows_both_sides_and_a_drafters_row_its_gap(made: MadeRun) -> None:
    kinds = [(part.kind, part.text.strip()) for part in show(explainer(made, "dpo"), None).parts[1:]]
    assert kinds == [("trained", "[assistant] Hello!"), ("rejected", "[assistant] Hi hi")]
    assert "the student writes this" in show(explainer(made, "drafter"), None).parts[1].text


def test_a_pair_counts_its_sides_and_says_when_it_does_not_fit(
    made: MadeRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    write_tiny_llama(made.run.path("models", "base"))
    shown = show(explainer(made, "dpo"), tokenizer_of(made.run))
    assert shown.tokens is not None
    assert shown.tokens[1:] == (len("Hello!") + 1, len("Hi hi") + 1)
    for limit in (shown.longest, shown.longest - 1):
        made.run.manifest["config"]["dpo"] = {"max_length": limit, "overflow": "drop"}
        print_rows(made.run, "dpo", "train", "explainer", 1)
        said = capsys.readouterr().out
        assert f"{shown.tokens[0]} masked + 7 trained + 6 rejected tokens" in said
        assert (f"over dpo.max_length={limit}: left out" in said) == (limit < shown.longest)


def test_without_colours_the_kinds_stand_in_words_and_brackets_are_no_markup(
    made: MadeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    print_rows(made.run, "dpo", "train", None, 1)
    shown = capsys.readouterr().out
    places = [
        shown.index(text) for text in ("-- masked:", "-- trained:", "[assistant] Hello!", "-- rejected:", "Hi hi")
    ]
    assert places == sorted(places)


def test_what_is_not_there_is_named(made: MadeRun, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"did you mean sft/train\?"):
        rows_of(made.run, "sftt", "train", None, 1)
    with pytest.raises(RunError, match="no row of the agent judge; it has explainer, planner"):
        rows_of(made.run, "sft", "train", "judge", 1)
    bare = MadeRun(tmp_path / "bare", made.domain)
    with pytest.raises(RunError, match="has no corpora"):
        rows_of(bare.run, "sft", "train", None, 1)
