"""Grows a trained base: more blocks that change nothing at first.

Each new block is a copy of the one before it whose outputs into the residual stream are zero, so that the grown model
says exactly what the old one said, and gradients reach the zero matrices at once (LLaMA Pro, Wu et al., 2024,
arXiv 2401.02415, section 3.2; there one block follows every group of blocks too). `raytrain.expand` does the same
to folders of any size; here the model is in memory and the number of blocks is what is asked for.
"""

import copy

import torch
from transformers import LlamaForCausalLM


@torch.no_grad()
def deepen(model: LlamaForCausalLM, blocks: int) -> None:
    """Bring `model` to `blocks` blocks, new ones spread evenly behind the old ones.

    Raises:
        ValueError: when it has more blocks already.
    """
    old = list(model.model.layers)
    new = blocks - len(old)
    if new < 0:
        raise ValueError(f"blocks={blocks} is less than the {len(old)} blocks of the model; a base only grows")
    after = [(index + 1) * len(old) // new - 1 for index in range(new)]
    grown = torch.nn.ModuleList()
    for index, block in enumerate(old):
        grown.append(block)
        for _ in range(after.count(index)):
            fresh = copy.deepcopy(block)
            fresh.self_attn.o_proj.weight.zero_()
            fresh.mlp.down_proj.weight.zero_()
            grown.append(fresh)
    for index, block in enumerate(grown):
        block.self_attn.layer_idx = index
    model.model.layers = grown
    model.config.num_hidden_layers = blocks
