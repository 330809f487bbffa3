"""The range of each linear layer's inputs in a saved FP8 folder, and ranges.json, which tells it to the engine.

A static scale s lets through what is at most s times the largest E4M3 number, 448; what is larger becomes that. INT8
with a scale for each token has no ranges.
"""

import json
from pathlib import Path

from agentmill.runs import atomic_write_text
from raytrain.quantize.clip import Ranges

RANGES = "ranges.json"
E4M3_MAX = 448.0
_SCALE = ".input_scale"


def saved_ranges(folder: Path) -> Ranges:
    """The largest magnitude that each layer's input scale lets through, as the weights' files have it."""
    import torch
    from safetensors import safe_open

    ranges: Ranges = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - a file of tensors, no dictionary
                if name.endswith(_SCALE):
                    scale = tensors.get_tensor(name).to(torch.float32)
                    assert scale.numel() == 1, f"{name}: the recipe asks for one scale a tensor"
                    ranges[name.removesuffix(_SCALE)] = float(scale) * E4M3_MAX
    return ranges


def write_ranges(folder: Path, ranges: Ranges) -> None:
    """Write ranges.json into a model folder: {"model.layers.0.self_attn.q_proj": largest magnitude, ...}."""
    atomic_write_text(folder / RANGES, json.dumps(ranges, indent=2) + "\n")
