"""What a drafter sees and learns from: hidden states of the frozen student, computed online for a packed row.

Layers are counted as vLLM counts them: state i is what goes into layer i, so that 0 is the embedding. The student's own
next-token distribution, which the drafter learns, follows from the state before its last norm.

Positions: at t the drafter gets the student's states of token t and the token t + 1, and guesses token t + 2; so inputs
are shifted by one against states, and a row loses its last position. The loss counts guesses of tokens that the student
wrote itself after its first one: a drafter is asked only after the student has begun to answer.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from raytrain.batches import IGNORED


@dataclass(frozen=True)
class States:
    """Of a row of `tokens`: `hidden` [1, tokens, layers * width] of the chosen layers side by side, and `last`
    [1, tokens, width] before the last norm."""

    hidden: torch.Tensor
    last: torch.Tensor


@torch.no_grad()
def student_states(student: PreTrainedModel, layers: Sequence[int], row: dict[str, Any]) -> States:
    """One forward pass of the student over a packed row (raytrain.packing), its head left out."""
    with _watched(student, layers) as seen:
        student.base_model(use_cache=False, **{name: value for name, value in row.items() if name != "labels"})
    return States(torch.cat([seen[layer] for layer in layers], dim=-1), seen[_LAST])


def draft_inputs(row: dict[str, Any], states: States) -> dict[str, Any]:
    """The inputs of speculators' Eagle3DraftModel for a packed row, one position shorter than it: hidden_states,
    input_ids, document_ids, position_ids, loss_mask, verifier_last_hidden_states, and cu_seq_lens_q for attention."""
    ids, labels = row["input_ids"], row["labels"]
    lengths = row["cu_seq_lens_q"].diff()
    documents = torch.repeat_interleave(torch.arange(len(lengths), device=ids.device), lengths.to(ids.device))[None]
    # a guess at t is of token t + 2; the student wrote t + 1, and both are of one document
    counted = torch.zeros_like(ids[:, :-1], dtype=torch.bool)
    counted[:, :-1] = (labels[:, 1:-1] != IGNORED) & (documents[:, 1:-1] == documents[:, 2:])
    bounds = row["cu_seq_lens_q"].clone()
    bounds[-1] -= 1
    return {
        "hidden_states": states.hidden[:, :-1],
        "input_ids": ids[:, 1:],
        "document_ids": documents[:, :-1],
        "position_ids": row["position_ids"][:, :-1],
        "loss_mask": counted,
        "verifier_last_hidden_states": states.last[:, 1:],
        "cu_seq_lens_q": bounds,
    }


_LAST = -1


@contextmanager
def _watched(student: PreTrainedModel, layers: Sequence[int]) -> Iterator[dict[int, torch.Tensor]]:
    """Gather the inputs of these layers and of the last norm while the block runs."""
    seen: dict[int, torch.Tensor] = {}
    inner = student.base_model
    places = {layer: inner.layers[layer] for layer in layers} | {_LAST: inner.norm}

    def keep(place: int) -> Any:
        def hook(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...], named: dict[str, Any]) -> None:
            seen[place] = arguments[0] if arguments else named["hidden_states"]

        return hook

    hooks = [module.register_forward_pre_hook(keep(place), with_kwargs=True) for place, module in places.items()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
