"""A drafter that begins by copying: its one layer is written as an induction head before training refines it.

What agents write is mostly copied from their prompts (names, stock numbers, dates), and what must be guessed is the
token after the one that the student has just written. A head that looks where that token stood before and brings what
followed it there (Olsson et al., 2022, "In-context learning and induction heads") needs two layers in a language
model. In EAGLE-3 it needs one, because inputs are shifted against states: at position t the layer sees the state of
token t beside the embedding of token t + 1. So

    query   the embedding half at t: the token whose follower is looked for
    key     the state half at j: which token stood there, as a low layer of the student still knows it
    value   the embedding half at j: the token that followed it

A random start finds this only after thousands of steps. Written for the shipped base: after 200 steps of 2,048 tokens
an MGL of 3.19 where the random start had 2.27 (benchmarks of the stage: docs/inference.md). EAGLE-3 itself starts at
random.
"""

import torch
from transformers import PreTrainedModel

MATCH, WRITE = 3.0, 0.5  # sharpness of queries and keys; how loud the follower is written
STEADY = 0.002  # radians a position: a slower rotary frequency leaves content comparable over a whole prompt
QUIET = 0.1  # what stays of the random projection of the states


@torch.no_grad()
def write_copying(drafter: PreTrainedModel, seed: int) -> None:
    """Write the head into an untrained drafter whose first target layer is a low one.

    Each key-value head matches in a random view of the embedding (its mean taken out, which all tokens share) on those
    dimensions whose rotary frequency is below STEADY, and carries a part of the follower's embedding. A drafter whose
    frequencies are all faster stays as it is.
    """
    config, generator = drafter.config.transformer_layer_config, torch.Generator().manual_seed(seed)
    width, head, heads = config.hidden_size, config.head_dim, config.num_attention_heads
    groups = config.num_key_value_heads
    steady = torch.nonzero(drafter.rotary_emb.inv_freq.float().cpu() < STEADY).flatten()
    if not len(steady):
        return
    slots = torch.cat([steady, steady + head // 2])
    mean = drafter.embed_tokens.weight.float().cpu().mean(dim=0)
    centred = torch.eye(width) - torch.outer(mean, mean) / mean.dot(mean).clamp(min=1e-12)
    drafter.fc.weight.mul_(QUIET)
    drafter.fc.weight[:, :width] += torch.eye(width)
    attention = drafter.layers[0].self_attn
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj):
        projection.weight.zero_()
    share = min(head, -(-width // groups))
    carried = _orthonormal(min(groups * share, width), width, generator).split(share)
    for group in range(groups):
        view = MATCH * _orthonormal(min(len(slots), width), width, generator) @ centred
        places = group * head + slots[: len(view)]
        attention.k_proj.weight[places, width:] = view
        part = carried[group] if group < len(carried) else carried[0][:0]
        attention.v_proj.weight[group * head : group * head + len(part), :width] = part
        for query in range(group * heads // groups, (group + 1) * heads // groups):
            attention.q_proj.weight[query * head + slots[: len(view)], :width] = view
            written = WRITE * groups / heads * part.T
            attention.o_proj.weight[:, query * head : query * head + len(part)] = written


def _orthonormal(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    """[rows, columns] with orthonormal rows."""
    return torch.linalg.qr(torch.randn(columns, rows, generator=generator))[0].T
