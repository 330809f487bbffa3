"""A drafter's attention while it is trained, on the CPU: packed documents, and the steps of training-time test.

EAGLE-3 trains on its own outputs (arXiv 2503.01840, section 3.2): after the first step over a whole row, step s sees at
position t the keys of the first step up to t, and of each later step only its own position. As a dense mask over a
packed row that is quadratic in the row, for each step again; here each document's first keys are one product, and each
later step adds one number a query.
"""

from typing import Any

import torch
from transformers import AttentionInterface

from raytrain.attention import HIDDEN

CPU_ATTENTION, GPU_ATTENTION = "agentmill_draft", "simple_flex_attention"


def draft_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    cu_seq_lens_q: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """query [1, heads, tokens, size]; key and value [1, groups, steps * tokens, size], the steps one after the other;
    cu_seq_lens_q [documents + 1], without it the row is one document. Returns [1, tokens, heads, size] and no weights.

    What speculators gives as mask says the same and is not looked at.
    """
    _, heads, tokens, size = query.shape
    groups, steps = key.shape[1], key.shape[2] // tokens
    lengths = cu_seq_lens_q.diff().tolist() if cu_seq_lens_q is not None else [tokens]
    folded = query[0].view(groups, heads // groups, tokens, size)
    keys, values = (x[0].view(groups, steps, tokens, size) for x in (key, value))
    own = torch.einsum("grts,gnts->grtn", folded, keys[:, 1:]) * scaling
    parts, end = [], 0
    for length in lengths:
        begin, end = end, end + length
        q, k, v = folded[:, :, begin:end], keys[:, :1, begin:end], values[:, :1, begin:end]
        later = torch.full((length, length), HIDDEN, dtype=query.dtype, device=query.device).triu(1)
        scores = torch.cat([q @ k.transpose(2, 3) * scaling + later, own[:, :, begin:end]], dim=-1)
        weights = torch.softmax(scores, dim=-1)
        mixed = weights[..., :length] @ v
        parts.append(mixed + torch.einsum("grtn,gnts->grts", weights[..., length:], values[:, 1:, begin:end]))
    out = torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]
    return out.reshape(1, heads, tokens, size).transpose(1, 2).contiguous(), None


def register() -> None:
    """Make CPU_ATTENTION known to transformers in this process."""
    AttentionInterface.register(CPU_ATTENTION, draft_attention)
