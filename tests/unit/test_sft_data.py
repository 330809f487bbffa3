"""Tokenising a corpus and planning its batches: what is trained on, in which order, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from raytrain.batches import IGNORED, Collator, in_order, padded_tokens, plan_batches
from raytrain.data import CorpusError, TokenRows, join, tokenise
from raytrain.settings import LoraSettings, SftSettings

EOS, PROMPT_END = 0, 1


class LetterTokenizer:
    """One token a character; `<` opens an answer and `>` ends it, as a chat template with special tokens would."""

    eos_token = ">"
    eos_token_id = EOS

    def __init__(self, ending: str = ">", rewrites_prompt: bool = False) -> None:
        self._ending, self._rewrites_prompt = ending, rewrites_prompt

    def apply_chat_template(
        self, conversations: list[list[dict[str, str]]], tokenize: bool, add_generation_prompt: bool = False
    ) -> list[str]:
        texts = []
        for messages in conversations:
            answered = messages[-1]["role"] == "assistant"
            text = "".join(m["content"] for m in (messages[:-1] if answered else messages))
            if answered:
                text = ("!" if self._rewrites_prompt else "") + text + "<" + messages[-1]["content"] + self._ending
            texts.append(text + ("<" if add_generation_prompt else ""))
        return texts

    def __call__(self, texts: list[str], add_special_tokens: bool) -> dict[str, list[list[int]]]:
        special = {">": EOS, "<": PROMPT_END}
        return {"input_ids": [[special.get(c, ord(c)) for c in text] for text in texts]}


def corpus(folder: Path, pairs: list[tuple[str, str]], **columns: Any) -> Path:
    rows = [
        {
            "prompt": [{"role": "user", "content": question}],
            "completion": [{"role": "assistant", "content": answer}],
            "agent": "planner",
            "source": "expert",
            **columns,
        }
        for question, answer in pairs
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    return folder / "train.parquet"


def lengths_of(count: int, seed: int = 3) -> Any:
    return np.random.default_rng(seed).integers(5, 200, count)


def test_only_the_completion_and_its_end_count(tmp_path: Path) -> None:
    rows, report = tokenise("sft", corpus(tmp_path, [("ab", "xyz")]), LetterTokenizer(), 64, "error")
    tokens, start = rows.row(0)
    assert tokens.tolist() == [ord("a"), ord("b"), PROMPT_END, ord("x"), ord("y"), ord("z"), EOS]
    assert start == 3
    assert (report.tokens, report.completion_tokens) == (7, 4)
    batch = Collator(rows, 9).tensors([0])
    assert batch["labels"].tolist() == [[IGNORED] * 3 + tokens[3:].tolist()]


def test_text_after_the_end_token_is_not_learned(tmp_path: Path) -> None:
    rows, _ = tokenise("sft", corpus(tmp_path, [("ab", "xyz")]), LetterTokenizer(ending=">\n"), 64, "error")
    assert rows.row(0)[0][-1] == EOS


def test_rows_over_the_limit_are_dropped_and_counted(tmp_path: Path) -> None:
    file = corpus(tmp_path, [("a", "x"), ("a" * 50, "x"), ("b", "y")])
    rows, report = tokenise("sft", file, LetterTokenizer(), 16, "drop")
    assert (len(rows), report.rows, report.over, report.over_by_group) == (2, 3, 1, {"planner": 1})
    assert "over 16: 1 (planner 1)" in report.text()


def test_rows_over_the_limit_stop_the_stage_when_asked(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"1 of 2 rows .* sft.max_length=16 \(longest 53\)"):
        tokenise("sft", corpus(tmp_path, [("a", "x"), ("a" * 50, "x")]), LetterTokenizer(), 16, "error")


def test_no_row_left_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"none of its 1 rows within sft\.max_length=16"):
        tokenise("sft", corpus(tmp_path, [("a" * 50, "x")]), LetterTokenizer(), 16, "drop")


def test_public_rows_are_a_group_of_their_own(tmp_path: Path) -> None:
    rows, _ = tokenise("sft", corpus(tmp_path, [("a", "x")], source="public"), LetterTokenizer(), 64, "drop")
    assert rows.groups == ("public",)


def test_a_template_without_end_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="does not end a completion with '>'"):
        tokenise("sft", corpus(tmp_path, [("a", "x")]), LetterTokenizer(ending=""), 64, "drop")


def test_a_template_that_changes_the_prompt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="does not keep the prompt"):
        tokenise("sft", corpus(tmp_path, [("a", "x")]), LetterTokenizer(rewrites_prompt=True), 64, "drop")


def test_a_missing_corpus_names_the_stage_to_run(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="run the stage corpora first"):
        tokenise("sft", tmp_path / "train.parquet", LetterTokenizer(), 64, "drop")


def test_rows_survive_saving(tmp_path: Path) -> None:
    rows = join([(np.array([1, 2, 3], np.int32), 1, "planner"), (np.array([4, 5], np.int32), 1, "public")])
    rows.save(tmp_path / "rows")
    loaded = TokenRows.load(tmp_path / "rows")
    assert [loaded.row(i)[0].tolist() for i in range(2)] == [[1, 2, 3], [4, 5]]
    assert loaded.groups == ("planner", "public")
    assert loaded.take([1]).row(0)[0].tolist() == [4, 5]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_every_epoch_has_each_row_once_and_ranks_share_evenly(workers: int) -> None:
    lengths = lengths_of(501)
    one = plan_batches(lengths, 512, workers, 1, seed=1)
    two = plan_batches(lengths, 512, workers, 2, seed=1)
    assert sorted(row for batch in one for row in batch) == list(range(501))
    assert two[: len(one)] == one
    assert sorted(row for batch in two[len(one) :] for row in batch) == list(range(501))
    assert two[len(one) :] != one
    assert len(one) % workers == 0


def test_batches_keep_the_budget_and_waste_little() -> None:
    lengths = lengths_of(4000)
    plan = plan_batches(lengths, 1024, 2, 1, seed=1)
    assert max(len(batch) * lengths[batch].max() for batch in plan if batch) <= 1024
    assert padded_tokens(lengths, plan) < 1.05 * lengths.sum()


def test_ranks_get_batches_of_like_length() -> None:
    lengths = lengths_of(4000)
    plan = plan_batches(lengths, 1024, 2, 1, seed=1)
    apart = [abs(int(lengths[a].max()) - int(lengths[b].max())) for a, b in zip(plan[::2], plan[1::2], strict=True)]
    assert np.median(apart) < 20


def test_the_same_seed_gives_the_same_plan() -> None:
    lengths = lengths_of(300)
    assert plan_batches(lengths, 512, 2, 2, seed=1) == plan_batches(lengths, 512, 2, 2, seed=1)
    assert plan_batches(lengths, 512, 2, 2, seed=1) != plan_batches(lengths, 512, 2, 2, seed=2)


def test_fewer_rows_than_workers_gives_an_empty_batch_that_counts_nothing() -> None:
    plan = plan_batches(np.array([7]), 16, 2, 1, seed=1)
    assert plan == [[0], []]
    rows = join([(np.arange(7, dtype=np.int32), 2, "planner")])
    assert (Collator(rows, 0).tensors([])["labels"] == IGNORED).all()


def test_a_row_over_the_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="a row of 40 tokens is over the budget of 32"):
        plan_batches(np.array([5, 40]), 32, 2, 1, seed=1)


def test_evaluation_sees_each_row_once_by_length() -> None:
    lengths = lengths_of(100)
    rows = [row for batch in in_order(lengths, 512) for row in batch]
    assert sorted(rows) == list(range(100))
    assert (np.diff(lengths[rows]) >= 0).all()


def test_settings_refuse_a_budget_that_holds_no_row() -> None:
    with pytest.raises(ValidationError, match="tokens_per_batch=100 is below max_length=512"):
        SftSettings(tokens_per_batch=100)


def test_settings_refuse_an_adapter_on_nothing() -> None:
    with pytest.raises(ValidationError, match="names no module"):
        LoraSettings(targets=())
