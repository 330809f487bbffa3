"""Our attention gives what torch's own attention gives, forward and backward, and packed documents never meet."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from raytrain.attention import fused, grouped_products

LENGTHS = (5, 1, 9, 2)
Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def tensors(heads: int, groups: int, batch: int, length: int) -> Tensors:
    torch.manual_seed(0)
    query = torch.randn(batch, heads, length, 8, requires_grad=True)
    key, value = (torch.randn(batch, groups, length, 8, requires_grad=True) for _ in range(2))
    return query, key, value


def assert_same(ours: torch.Tensor, theirs: torch.Tensor, inputs: Tensors) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    weight = torch.randn_like(ours)
    for got, want in zip(
        torch.autograd.grad((ours * weight).sum(), inputs),
        torch.autograd.grad((theirs * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", [grouped_products, fused])
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (4, 1)])
def test_padded_rows_agree_with_torch(attention: Callable[..., Any], heads: int, groups: int) -> None:
    inputs = tensors(heads, groups, 3, 17)
    ours, _ = attention(torch.nn.Identity(), *inputs, None, scaling=8**-0.5)
    theirs = functional.scaled_dot_product_attention(*inputs, is_causal=True, enable_gqa=True).transpose(1, 2)
    assert_same(ours, theirs, inputs)


@pytest.mark.parametrize("attention", [grouped_products, fused])
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (4, 1)])
def test_packed_documents_agree_with_a_mask_over_the_row(
    attention: Callable[..., Any], heads: int, groups: int
) -> None:
    inputs = tensors(heads, groups, 1, sum(LENGTHS))
    bounds = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0)], dtype=torch.int32)
    ours, _ = attention(
        torch.nn.Identity(), *inputs, None, scaling=0.3, cu_seq_lens_q=bounds, max_length_q=max(LENGTHS)
    )
    mask = torch.block_diag(*[torch.ones(n, n) for n in LENGTHS]).tril().bool()
    theirs = functional.scaled_dot_product_attention(*inputs, attn_mask=mask, scale=0.3, enable_gqa=True)
    assert_same(ours, theirs.transpose(1, 2), inputs)


@pytest.mark.parametrize("attention", [grouped_products, fused])
def test_a_window_shorter_than_the_row_is_refused(attention: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"window of 4 tokens and a row has 17.*lower max_length"):
        attention(torch.nn.Identity(), *tensors(4, 4, 1, 17), None, scaling=1.0, sliding_window=4)
