"""Attention in plain products gives what torch's own attention gives, forward and backward."""

import pytest
import torch
from torch.nn import functional

from raytrain.attention import grouped_products


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (4, 1)])
def test_grouped_products_agree_with_torch(heads: int, groups: int) -> None:
    torch.manual_seed(0)
    query = torch.randn(3, heads, 17, 8, requires_grad=True)
    key, value = (torch.randn(3, groups, 17, 8, requires_grad=True) for _ in range(2))
    inputs = (query, key, value)
    ours, _ = grouped_products(torch.nn.Identity(), query, key, value, None, scaling=8**-0.5)
    theirs = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True).transpose(1, 2)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    weight = torch.randn_like(ours)
    for got, want in zip(
        torch.autograd.grad((ours * weight).sum(), inputs),
        torch.autograd.grad((theirs * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
