"""Continual pretraining before a worker starts: phases, pieces, texts without their context, and what is refused."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from raytrain.curriculum import assign, in_phases
from raytrain.data import TokenRows, join
from raytrain.pieces import split_row
from raytrain.positions import bucket_of, without_context
from raytrain.settings import CptSettings, LoraSettings, PhaseSettings, SftSettings, WorkerSettings

PHASES = (PhaseSettings(length=32), PhaseSettings(length=64), PhaseSettings(length=128, share=2))


def rows_of(sizes: list[tuple[int, int]]) -> TokenRows:
    """Rows of (context, text) tokens; every token of a text is unlike all others."""
    rows, number = [], 1000
    for context, text in sizes:
        tokens = np.concatenate([np.full(context, 7), np.arange(number, number + text)]).astype(np.int32)
        rows.append((tokens, context, "document"))
        number += text
    return join(rows)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 40), st.integers(1, 400), st.integers(8, 64))
def test_pieces_make_up_the_text_and_each_has_the_context(context: int, text: int, limit: int) -> None:
    tokens, start = rows_of([(context, text)]).row(0)
    pieces = split_row(tokens, start, "document", limit)
    if len(tokens) > limit and 4 * (limit - context) < limit:
        assert pieces == []
        return
    assert [group for _, _, group in pieces] == ["document"] * len(pieces)
    assert all(len(piece) <= limit and (piece[:begin] == 7).all() and begin == context for piece, begin, _ in pieces)
    assert np.concatenate([piece[begin:] for piece, begin, _ in pieces]).tolist() == tokens[start:].tolist()
    sizes = [len(piece) for piece, _, _ in pieces]
    assert max(sizes) - min(sizes) <= 1


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 98)), min_size=1, max_size=60), st.integers(0, 9))
def test_phases_have_every_text_once_and_no_row_over_their_length(sizes: list[tuple[int, int]], seed: int) -> None:
    rows = rows_of(sizes)
    phased, lines = in_phases(rows, PHASES, seed)
    texts = [phased.row(i)[0][phased.row(i)[1] :] for i in range(len(phased))]
    assert sorted(np.concatenate(texts).tolist()) == list(range(1000, 1000 + sum(text for _, text in sizes)))
    assert all(n <= PHASES[phase].length for n, phase in zip(phased.lengths, phased.phases, strict=True))
    assert phased.phases == in_phases(rows, PHASES, seed)[0].phases
    assert len(lines) == len(PHASES)


def test_phases_get_their_shares_and_long_documents_a_phase_that_holds_them() -> None:
    lengths = np.random.default_rng(1).integers(8, 128, 3000)
    chosen = assign(lengths, np.array([32, 64, 128]), np.array([1.0, 1.0, 3.0]), seed=3)
    shares = [lengths[chosen == phase].sum() / lengths.sum() for phase in range(3)]
    assert shares == pytest.approx([0.2, 0.2, 0.6], abs=0.01)
    split = lengths > np.array([32, 64, 128])[chosen]
    at_random = 0.2 * (lengths > 32) + 0.2 * (lengths > 64)
    assert lengths[split].sum() < 0.7 * (at_random * lengths).sum()


class Words:
    """One token a character; the role stands before a message, `<` opens an answer."""

    def apply_chat_template(self, messages: list[dict[str, str]], tokenize: bool, add_generation_prompt: bool) -> str:
        return "".join(m["role"][0] + m["content"] for m in messages) + "<"

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [ord(c) for c in text]}


def test_without_context_the_same_text_stands_after_an_empty_message() -> None:
    bare = without_context(rows_of([(5, 3), (2, 1)]), Words())
    assert [bare.row(i)[0].tolist() for i in range(2)] == [[117, 60, 1000, 1001, 1002], [117, 60, 1003]]
    assert bare.starts.tolist() == [2, 2]


def test_buckets_double_from_the_first_token_on() -> None:
    assert bucket_of(9).tolist() == [0, 1, 1, 2, 2, 2, 2, 3, 3]
    assert bucket_of(1 << 14)[-2:].tolist() == [13, 14]


def test_a_constant_step_sets_the_accumulation() -> None:
    paper = CptSettings(
        worker=WorkerSettings(workers=16), max_length=16384, tokens_per_batch=16384, tokens_per_step=4 * 2**20
    )
    assert paper.step_batches(16) == 256
    assert SftSettings(accumulate=4).step_batches(2) == 8


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tokens_per_step": 3000}, r"tokens_per_step=3000 is no multiple of .* 2 x 1024 = 2048; use 2048 or 4096"),
        ({"tokens_per_step": 4096, "accumulate": 2}, "leave out accumulate"),
        ({"curriculum": [{"length": 512}, {"length": 256}]}, "each must be longer than the one before"),
        ({"curriculum": [{"length": 128}, {"length": 256}]}, "ends with length 256 and max_length=512"),
        ({"curriculum": [{"length": 512}], "packing": False}, "curriculum needs packing=true"),
        ({"curriculum": [{"length": 512}], "overflow": "drop"}, "curriculum needs overflow=split"),
        ({"train": "new_blocks", "lora": LoraSettings()}, "set lora to null"),
    ],
)
def test_settings_that_cannot_be_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CptSettings.model_validate(values)


def test_an_agents_answers_are_never_split() -> None:
    with pytest.raises(ValidationError, match="split is for the documents of cpt"):
        SftSettings(overflow="split")
