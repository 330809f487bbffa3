"""Upkeep without walks: the same modes and gradients as with them."""

import torch

from raytrain.upkeep import lighten


def wrapped() -> tuple[torch.nn.Module, torch.nn.Module]:
    """(a wrapper as DeepSpeed's engine is one, the model inside), of one frozen and one trained layer."""
    inner = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.5), torch.nn.Linear(2, 2)).eval()
    inner[0].requires_grad_(False)
    inner.training = True  # a wrapper of a loaded model says so although what it wraps is in evaluation mode
    outer = torch.nn.Module()
    outer.module = inner
    return outer, inner


def test_every_module_is_put_into_training_mode_although_the_outermost_already_says_so() -> None:
    outer, inner = wrapped()
    lighten(outer)
    assert all(module.training for module in inner.modules())


def test_evaluation_in_between_is_seen() -> None:
    outer, inner = wrapped()
    lighten(outer)
    outer.eval()
    assert not any(module.training for module in inner.modules())
    assert outer.train() is outer
    assert all(module.training for module in inner.modules())


def test_a_step_in_the_same_mode_walks_over_nothing() -> None:
    outer, inner = wrapped()
    lighten(outer)
    inner[1].training = False
    outer.train()
    assert not inner[1].training


def test_gradients_of_what_is_trained_are_cleared() -> None:
    outer, inner = wrapped()
    lighten(outer)
    inner(torch.ones(1, 2)).sum().backward()
    assert inner[2].weight.grad is not None
    outer.zero_grad()
    assert all(parameter.grad is None for parameter in inner.parameters())
