"""Causal attention for training: batched products for short rows on the CPU, and documents side by side in one row.

Torch's fused kernel for the CPU spends a quarter of a training step on its backward pass at 128 tokens in bf16. For
short rows the matrix of scores is small, and batched products with a softmax beside them are faster: over a whole step
of LoRA on a 3.5M-parameter Llama, 1.5 times the tokens per CPU second of `sdpa` at 96 and 128 tokens and 1.27 times at
192; transformers' own `eager` (which copies keys and values for every query head and holds scores in fp32) 1.1 less.
Memory grows with the square of the length: not for long rows.

A packed row (see raytrain.packing) names its documents' boundaries, cu_seq_lens_q; no product ever crosses one. On the
CPU each document is computed by itself, on a GPU all of them by torch's own flash attention for varying lengths
(torch.nn.attention.varlen; nothing has to be installed). A mask of the whole row, as `sdpa` would make of position ids,
costs the square of the row instead: on the CPU 13 times as much for eight documents of 256 tokens.
"""

from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

from raytrain.hardware import CPU_ATTENTION, GPU_ATTENTION

HIDDEN = -1e9
FLASH_TYPES = (torch.bfloat16, torch.float16)
FLASH_HEAD_SIZE = 256


def grouped_products(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    cu_seq_lens_q: torch.Tensor | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend causally; rows are right-padded or packed, so that no mask is needed beside the causal one.

    query [batch, heads, length, size]; key and value [batch, groups, length, size], heads a multiple of groups; of a
    packed row, batch is 1 and cu_seq_lens_q [documents + 1]. The heads of a group are folded into the rows of one
    product, so that keys and values are used where they stand. Returns [batch, length, heads, size] and no weights.
    """
    assert attention_mask is None, "grouped_products knows only the causal mask"
    lengths = cu_seq_lens_q.diff().tolist() if cu_seq_lens_q is not None else [query.shape[2]]
    _check_window(sliding_window, max(lengths))
    if cu_seq_lens_q is not None:
        return _Documents.apply(query, key, value, lengths, scaling), None
    batch, heads, length, size = query.shape
    groups = key.shape[1]
    folded = query.reshape(batch * groups, heads // groups * length, size)
    keys, values = key.reshape(batch * groups, length, size), value.reshape(batch * groups, length, size)
    scores = torch.baddbmm(_later(length, heads // groups, query), folded, keys.transpose(1, 2), alpha=scaling)
    mixed = torch.bmm(torch.softmax(scores, dim=-1), values)
    return mixed.reshape(batch, heads, length, size).transpose(1, 2).contiguous(), None


def _later(length: int, copies: int, like: torch.Tensor) -> torch.Tensor:
    """What hides later positions, below one another for each query head of a group: [copies * length, length]."""
    return torch.full((length, length), HIDDEN, dtype=like.dtype, device=like.device).triu(1).repeat(copies, 1)


class _Documents(torch.autograd.Function):
    """The products of `grouped_products`, document by document, with their derivatives written out.

    With P = softmax(S) and S = scale Q K': dV = P' dO, dS = P (dP - sum(dP P)) with dP = dO V', dQ = scale dS K,
    dK = scale dS' Q. Left to autograd, the slices and their sums take a third longer than the products themselves.
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: list[int], scaling: float
    ) -> torch.Tensor:
        """query [1, heads, tokens, size], key and value [1, groups, tokens, size] to [1, tokens, heads, size]."""
        _, heads, tokens, size = query.shape
        groups = key.shape[1]
        ctx.lengths, ctx.scaling, ctx.shape = lengths, scaling, (heads, groups, tokens, size)
        out = query.new_empty(1, tokens, heads, size)
        later = _later(max(lengths), 1, query)
        saved, end = [], 0
        for length in lengths:
            begin, end = end, end + length
            q = query[0, :, begin:end].reshape(groups, -1, size)
            k, v = (x[0, :, begin:end].contiguous() for x in (key, value))
            hidden = later[:length, :length].repeat(heads // groups, 1)
            weights = torch.softmax(torch.baddbmm(hidden, q, k.transpose(1, 2), alpha=scaling), dim=-1)
            out[0, begin:end] = torch.bmm(weights, v).view(heads, length, size).transpose(0, 1)
            saved += [q, k, v, weights]
        ctx.save_for_backward(*saved)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The derivatives of query, key and value, in their shapes."""
        (gradient,) = gradients
        heads, groups, tokens, size = ctx.shape
        d_query = gradient.new_empty(1, tokens, heads, size)
        d_key, d_value = (gradient.new_empty(1, tokens, groups, size) for _ in range(2))
        saved, end = ctx.saved_tensors, 0  # once: gradient checkpointing computes them again when they are asked for
        for index, length in enumerate(ctx.lengths):
            q, k, v, weights = saved[4 * index : 4 * index + 4]
            begin, end = end, end + length
            d_out = gradient[0, begin:end].transpose(0, 1).reshape(groups, -1, size)
            d_weights = torch.bmm(d_out, v.transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            d_value[0, begin:end] = torch.bmm(weights.transpose(1, 2), d_out).transpose(0, 1)
            d_query[0, begin:end] = torch.bmm(d_scores, k).view(heads, length, size).transpose(0, 1)
            d_key[0, begin:end] = torch.bmm(d_scores.transpose(1, 2), q).transpose(0, 1)
        d_query, d_key = d_query.mul_(ctx.scaling), d_key.mul_(ctx.scaling)
        return d_query.transpose(1, 2), d_key.transpose(1, 2), d_value.transpose(1, 2), None, None


def fused(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int = 0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend causally with torch's fused kernels; shapes as in `grouped_products`, max_length_q the longest document.

    Packed rows in half precision go through flash attention for varying lengths; elsewhere (fp32, heads over 256)
    scaled_dot_product_attention computes one document after the other.
    """
    assert attention_mask is None, "fused knows only the causal mask"
    if cu_seq_lens_q is not None and query.is_cuda and query.dtype in FLASH_TYPES and query.shape[3] <= FLASH_HEAD_SIZE:
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        window = (sliding_window - 1 if sliding_window else -1, 0)
        bounds, longest = cu_seq_lens_q, max_length_q
        mixed = varlen_attn(
            q, k, v, bounds, bounds, longest, longest, scale=scaling, window_size=window, enable_gqa=True
        )
        return mixed[None], None
    lengths = cu_seq_lens_q.diff().tolist() if cu_seq_lens_q is not None else [query.shape[2]]
    _check_window(sliding_window, max(lengths))
    parts = [
        functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True).transpose(1, 2)
        for q, k, v in zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True)
    ]
    return (torch.cat(parts, dim=1) if len(parts) > 1 else parts[0].contiguous()), None


def _check_window(window: int | None, length: int) -> None:
    if window is not None and length > window:
        raise ValueError(
            f"the model attends over a window of {window} tokens and a row has {length}; this kernel attends over all "
            f"of a row; lower max_length to {window}"
        )


def register() -> None:
    """Make CPU_ATTENTION and GPU_ATTENTION known to transformers in this process."""
    AttentionInterface.register(CPU_ATTENTION, grouped_products)
    AttentionInterface.register(GPU_ATTENTION, fused)
