"""Random models of a few thousand parameters of each family that block expansion knows, as transformers makes them."""

from pathlib import Path
from typing import Any

SHAPE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "bos_token_id": None,
}
OWN: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "mlp_bias": True},  # biases of the output projections too
    "mistral": {"sliding_window": 8, "head_dim": 8},
    "qwen2": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2, "tie_word_embeddings": True},
    "qwen3": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 3, "head_dim": 16},
}


def write_family(folder: Path, family: str, *, layers: int = 4, shard: str = "1GB", **changes: Any) -> Path:
    """Write a model of `family` into `folder`, fp32, in shards of at most `shard`; no tokenizer. Returns `folder`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**SHAPE, **OWN[family], **changes}, num_hidden_layers=layers)
    model = AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.1)
    model.save_pretrained(folder, max_shard_size=shard)
    return folder
