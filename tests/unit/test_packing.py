"""Packed rows: every document once and whole, and a loss that is the documents' own, whatever stands beside them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from raytrain import attention
from raytrain.batches import IGNORED, padded_tokens, plan_batches
from raytrain.data import TokenRows, join
from raytrain.hardware import CPU_ATTENTION, GPU_ATTENTION
from raytrain.packing import PackedCollator, best_fit, plan_packs
from raytrain.trainer import completion_losses
from tests.tiny_llama import write_tiny_llama

BUDGET = 64


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(2, BUDGET), st.integers(0, 2)), min_size=1, max_size=60),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(0, 99),
)
def test_a_plan_has_every_document_once_an_epoch_and_no_row_over_the_budget(
    documents: list[tuple[int, int]], workers: int, epochs: int, seed: int
) -> None:
    lengths, phases = np.array([n for n, _ in documents]), [phase for _, phase in documents]
    plan = plan_packs(lengths, BUDGET, workers, epochs, seed, phases)
    order = [row for batch in plan for row in batch]
    assert sorted(order) == sorted(list(range(len(documents))) * epochs)
    assert all(lengths[batch].sum() <= BUDGET for batch in plan if batch)
    assert len(plan) % workers == 0
    assert [phases[row] for row in order] == sorted(phases[row] for row in order)
    assert plan == plan_packs(lengths, BUDGET, workers, epochs, seed, phases)


def test_batches_are_nearly_full_and_change_from_epoch_to_epoch() -> None:
    lengths = np.random.default_rng(0).integers(20, 400, 2000)
    plan = plan_packs(lengths, 1024, 2, 2, seed=5)
    assert lengths[[row for batch in plan for row in batch]].sum() > 0.98 * 1024 * len(plan)
    half = len(plan) // 2
    assert {tuple(sorted(batch)) for batch in plan[:half]} != {tuple(sorted(batch)) for batch in plan[half:]}
    padded = plan_batches(lengths, 1024, 2, 2, seed=5)
    assert len(plan) * 1024 < padded_tokens(lengths, padded)


def test_best_fit_puts_a_document_where_it_leaves_the_least_room() -> None:
    lengths = np.array([60, 50, 13, 4, 1])
    assert best_fit(lengths, np.arange(5), 64) == [[0, 3], [1, 2, 4]]


def test_a_document_over_the_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="65 tokens is over the budget of 64"):
        plan_packs(np.array([3, 65]), BUDGET, 1, 1, 0)


def documents(seed: int = 0) -> TokenRows:
    draw = np.random.default_rng(seed)
    rows = [(draw.integers(5, 200, n).astype(np.int32), start, "document") for n, start in ((9, 3), (30, 1), (2, 1))]
    return join([*rows, (draw.integers(5, 200, 17).astype(np.int32), 16, "document")])


def test_a_packed_row_names_its_documents() -> None:
    batch = PackedCollator(documents(), 0).tensors([3, 0])
    assert batch["position_ids"].tolist() == [[*range(17), *range(9)]]
    assert batch["cu_seq_lens_q"].tolist() == [0, 17, 26]
    assert batch["max_length_q"] == 17
    counted = (batch["labels"] != IGNORED)[0].nonzero().flatten().tolist()
    assert counted == [16, *range(20, 26)]


def test_a_batch_without_documents_counts_for_nothing() -> None:
    assert (PackedCollator(documents(), 0).tensors([])["labels"] == IGNORED).all()


def model(folder: Path, implementation: str) -> Any:
    attention.register()
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=implementation)


def alone(model: Any, rows: TokenRows, index: int) -> torch.Tensor:
    """The document's losses as transformers' own forward pass gives them, with its own attention."""
    tokens, start = rows.row(index)
    ids = torch.tensor(tokens.tolist())
    logits = model(ids[None]).logits[0, start - 1 : -1]
    return torch.nn.functional.cross_entropy(logits, ids[start:], reduction="none")


@pytest.mark.parametrize("implementation", [CPU_ATTENTION, GPU_ATTENTION, "sdpa"])
def test_packed_losses_and_gradients_are_those_of_the_documents_one_by_one(tmp_path: Path, implementation: str) -> None:
    rows, folder = documents(), write_tiny_llama(tmp_path / "model")
    packed, single = model(folder, implementation), model(folder, "eager")
    losses = completion_losses(packed, **PackedCollator(rows, 0).tensors([2, 0, 1, 3]))
    want = torch.cat([alone(single, rows, index) for index in (2, 0, 1, 3)])
    torch.testing.assert_close(losses, want, rtol=1e-5, atol=1e-5)
    losses.sum().backward()
    want.sum().backward()
    for (name, ours), theirs in zip(packed.named_parameters(), single.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("implementation", [CPU_ATTENTION, GPU_ATTENTION])
def test_a_document_does_not_feel_its_neighbour(tmp_path: Path, implementation: str) -> None:
    packed = model(write_tiny_llama(tmp_path / "model"), implementation)
    rows = documents()
    changed = TokenRows(rows.tokens.copy(), rows.offsets, rows.starts, rows.groups)
    changed.tokens[: rows.lengths[0]] = 7  # document 0
    before, after = (completion_losses(packed, **PackedCollator(r, 0).tensors([0, 1])) for r in (rows, changed))
    own = int(rows.lengths[0] - rows.starts[0])
    assert not torch.equal(before[:own], after[:own])
    assert torch.equal(before[own:], after[own:])


def test_gradient_checkpointing_changes_nothing(tmp_path: Path) -> None:
    folder, batch = write_tiny_llama(tmp_path / "model"), PackedCollator(documents(), 0).tensors([0, 1, 3])
    gradients = []
    for checkpointing in (False, True):
        packed = model(folder, CPU_ATTENTION).train()
        if checkpointing:
            packed.gradient_checkpointing_enable()
        completion_losses(packed, **batch).sum().backward()
        gradients.append([parameter.grad for parameter in packed.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)
