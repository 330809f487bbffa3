"""A random Llama of a few thousand parameters with a tokenizer and chat template, made in a second."""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

SPECIAL = ("<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def write_tiny_llama(
    folder: Path, *, layers: int = 2, hidden: int = 64, seed: int = 0, positions: int = 512, tied: bool = True
) -> Path:
    """Write model and byte tokenizer (one token a byte and SPECIAL) into `folder`, bf16; returns `folder`.

    With tied embeddings it says its last token again and again; a head of its own (`tied=False`) answers each prompt
    otherwise.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate([*SPECIAL, *letters])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=list(SPECIAL[1:4]),
    )
    wrapped.chat_template = TEMPLATE
    wrapped.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(SPECIAL) + len(letters),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=wrapped.eos_token_id,
        pad_token_id=wrapped.pad_token_id,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def write_tiny_drafter(folder: Path, verifier: Path, *, tokens: int = 3) -> Path:
    """Write an EAGLE-3 drafter of random weights for a model of `write_tiny_llama`, in speculators' format."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    layer = json.loads((verifier / "config.json").read_text()) | {"num_hidden_layers": 1}
    proposal = {
        "proposal_type": "greedy",
        "speculative_tokens": tokens,
        "accept_tolerance": 0.0,
        "verifier_accept_k": 1,
    }
    config = {
        "architectures": ["Eagle3DraftModel"],
        "speculators_model_type": "eagle3",
        "speculators_version": "0.9.0",
        "draft_vocab_size": layer["vocab_size"],
        "eagle_aux_hidden_state_layer_ids": [0, 1, 2],
        "norm_before_residual": False,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
        "transformer_layer_config": layer,
        "speculators_config": {
            "algorithm": "eagle3",
            "default_proposal_method": "greedy",
            "proposal_methods": [proposal],
            "verifier": {"name_or_path": str(verifier), "architectures": layer["architectures"]},
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    wide, inner, vocabulary = layer["hidden_size"], layer["intermediate_size"], layer["vocab_size"]
    keys = wide // layer["num_attention_heads"] * layer["num_key_value_heads"]
    shapes = {
        "embed_tokens": (vocabulary, wide),
        "fc": (wide, 3 * wide),
        "layers.0.hidden_norm": (wide,),
        "layers.0.input_layernorm": (wide,),
        "layers.0.post_attention_layernorm": (wide,),
        "layers.0.mlp.gate_proj": (inner, wide),
        "layers.0.mlp.up_proj": (inner, wide),
        "layers.0.mlp.down_proj": (wide, inner),
        "layers.0.self_attn.q_proj": (wide, 2 * wide),
        "layers.0.self_attn.k_proj": (keys, 2 * wide),
        "layers.0.self_attn.v_proj": (keys, 2 * wide),
        "layers.0.self_attn.o_proj": (wide, wide),
        "norm": (wide,),
        "lm_head": (vocabulary, wide),
    }
    torch.manual_seed(1)
    weights = {f"{name}.weight": (torch.randn(shape) * 0.02).to(torch.bfloat16) for name, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors")
    return folder
