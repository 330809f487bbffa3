"""Starts the base with heads that already copy: a previous-token head and, above it, induction heads.

Copying in a transformer is a circuit of two layers (Olsson et al., 2022, "In-context learning and induction heads"):
a head in one layer notes at each position which token came before; heads in the next look for the position whose
note equals the current token and bring what stands there. A model of a few million parameters finds the circuit only
after many thousands of batches, or never; here it is written into the initial weights and training refines it.

The residual stream of width d is parted into one constant dimension, the token's identity, and NOTE dimensions
for the note; all other weights keep their random start.
"""

import math

import torch
from transformers import LlamaForCausalLM

NOTE = 64  # dimensions of the note, at the end of the residual stream
TOKEN_STD, CONSTANT = 0.02, 0.5  # of the identity in the embedding, and of its constant dimension
OFFSET_SHARPNESS = 60.0  # squared length of the previous-token head's query per frequency
MATCH_SHARPNESS = 10.0  # of the induction heads' queries and keys
WRITE_NOTE, WRITE_TOKEN = 0.1, 1.5  # how loud the heads write into the residual stream
STEADY = 0.002  # radians a position: a slower rotary frequency leaves content comparable over a whole prompt
QUIET = 0.1  # factor on what all other sublayers write, so that the circuit is heard


def _orthonormal(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    """[rows, columns] with orthonormal rows."""
    return torch.linalg.qr(torch.randn(columns, rows, generator=generator))[0].T


@torch.no_grad()
def write_induction(model: LlamaForCausalLM, seed: int) -> None:
    """Write the circuit into layers 0 and 1 of a freshly initialised Llama with full key-value heads."""
    config, generator = model.config, torch.Generator().manual_seed(seed)
    width, head = config.hidden_size, config.head_dim
    identity = slice(1, width - NOTE)
    sizes = identity.stop - identity.start
    inverse = model.model.rotary_emb.inv_freq  # [head / 2], radians a position
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight *= QUIET
        layer.mlp.down_proj.weight *= QUIET
    table = model.model.embed_tokens.weight
    table.zero_()
    table[:, 0] = CONSTANT
    table[:, identity] = TOKEN_STD * torch.randn(table.shape[0], sizes, generator=generator)

    rms = math.sqrt((CONSTANT**2 + sizes * TOKEN_STD**2) / width)
    note = _orthonormal(NOTE, sizes, generator)  # identity -> note
    first, second = model.model.layers[0].self_attn, model.model.layers[1].self_attn

    # Layer 0, head 0: constant query and key whose rotary angles agree exactly one position back.
    amplitude = math.sqrt(OFFSET_SHARPNESS) / (CONSTANT / rms)
    for projection in (first.q_proj, first.k_proj, first.v_proj):
        projection.weight[:head] = 0.0
    first.q_proj.weight[: head // 2, 0] = amplitude
    first.k_proj.weight[: head // 2, 0] = amplitude * torch.cos(inverse)
    first.k_proj.weight[head // 2 : head, 0] = amplitude * torch.sin(inverse)
    first.v_proj.weight[:NOTE, identity] = note
    first.o_proj.weight[:, :head] = 0.0
    first.o_proj.weight[width - NOTE :, :NOTE] = WRITE_NOTE * torch.eye(NOTE)

    # Layer 1, every head: query = note of the current token, key = the note at a position, value = a share of identity.
    steady = torch.nonzero(inverse < STEADY).flatten()
    slots = torch.cat([steady, steady + head // 2])
    heads = config.num_attention_heads
    shares = torch.arange(sizes).chunk(heads)
    second.o_proj.weight[:, : heads * head] = 0.0
    for index, share in enumerate(shares):
        rows = slice(index * head, (index + 1) * head)
        view = _orthonormal(len(slots), NOTE, generator)
        query, key = torch.zeros(head, width), torch.zeros(head, width)
        query[slots, identity] = MATCH_SHARPNESS * view @ note
        key[slots, width - NOTE :] = MATCH_SHARPNESS * view
        second.q_proj.weight[rows], second.k_proj.weight[rows] = query, key
        value = torch.zeros(head, width)
        value[torch.arange(len(share)), share + 1] = 1.0
        second.v_proj.weight[rows] = value
        second.o_proj.weight[share + 1, index * head + torch.arange(len(share))] = WRITE_TOKEN
