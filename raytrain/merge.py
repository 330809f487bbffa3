"""From a base and a trained adapter to one plain model folder that transformers and vLLM load.

W' = W + alpha / rank * B A (LoRA, arXiv 2106.09685, section 4.1), computed in fp32 and written in the base's own type,
tensor by tensor: no more of the model is held than the one that is being merged. The folder holds weights,
configuration, generation configuration and tokenizer. Values are those of PEFT's merge_and_unload on a model in fp32.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from agentmill.config import UserError
from raytrain.folders import copy_tokenizer
from raytrain.shards import SHARD_BYTES, Entry, Tensor, Weights, computed, copied, read_header, write_weights

ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
NOT_ADAPTED = ("lm_head", "embed_tokens")
PREFIX = "base_model.model."
A, B = ".lora_A.weight", ".lora_B.weight"
NO_EFFECT_ON_MERGING = frozenset(
    "task_type peft_type auto_mapping peft_version base_model_name_or_path revision inference_mode r lora_alpha "
    "lora_dropout target_modules exclude_modules layers_to_transform layers_pattern runtime_config".split()
)


class MergeError(UserError):
    """A model folder or adapter that cannot be merged. The message names the folder, the reason and the remedy."""


def linear_modules(base: Path) -> dict[str, int]:
    """Names of the linear modules that an adapter can sit on (q_proj, ...) and how many there are of each.

    Read from the headers of the weights; nothing is loaded. The output head is left out, as PEFT's all-linear does.

    Raises:
        WeightsError: when the folder has no safetensors weights.
    """
    found: dict[str, int] = {}
    for tensor in Weights(base):
        module, _, kind = tensor.name.rpartition(".")
        name = module.rpartition(".")[2]
        if kind == "weight" and len(tensor.shape) == 2 and name not in NOT_ADAPTED:
            found[name] = found.get(name, 0) + 1
    return found


def check_targets(base: Path, targets: str | tuple[str, ...]) -> tuple[str, ...]:
    """The modules that `targets` names in `base`; `all-linear` names all.

    Raises:
        MergeError: when a name matches no linear module of the base.
    """
    known = linear_modules(base)
    if isinstance(targets, str):
        return tuple(sorted(known))
    unknown = [name for name in targets if name not in known]
    if unknown:
        raise MergeError(
            f"lora.targets: {', '.join(unknown)} matches no linear module of {base}; "
            f"it has {', '.join(sorted(known))}; name some of these or all-linear"
        )
    return targets


def merge_adapter(base: Path, adapter: Path, out: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Merge `adapter` into `base` and write the plain model into `out`, an existing folder.

    Raises:
        MergeError: when the adapter has no weights, changes the model in a way that is not B A, or holds a tensor that
            does not fit its module.
    """
    weights, updates = Weights(base), adapter_updates(adapter)
    scale = _scale(adapter)
    _check_all_fit(weights, updates, adapter)

    def entry(tensor: Tensor) -> Entry:
        pair = updates.get(tensor.name)
        return computed(tensor, lambda: _merged(tensor, *pair, scale)) if pair else copied(tensor)

    write_weights(out, [entry(tensor) for tensor in weights], shard_bytes)
    shutil.copyfile(base / "config.json", out / "config.json")
    copy_tokenizer(base, out)


def adapter_updates(adapter: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """For each weight of the base that the adapter changes its A [rank, in] and B [out, rank].

    Raises:
        MergeError: when there are no weights, or tensors beside pairs of A and B.
    """
    if not (adapter / ADAPTER_WEIGHTS).is_file():
        raise MergeError(f"{adapter} has no {ADAPTER_WEIGHTS}; it is no adapter")
    stored = {tensor.name.removeprefix(PREFIX): tensor for tensor in read_header(adapter / ADAPTER_WEIGHTS)}
    modules = {name.removesuffix(A) for name in stored if name.endswith(A)}
    pairs = {f"{module}.weight": (stored.pop(module + A), stored.pop(module + B, None)) for module in sorted(modules)}
    alone = [module for module, (_, right) in pairs.items() if right is None]
    if stored or alone:
        raise MergeError(
            f"{adapter}: {sorted([*stored, *alone])[0]} is no pair of lora_A and lora_B, and nothing else can be "
            f"merged; train the adapter on linear modules alone"
        )
    return {name: (left, right) for name, (left, right) in pairs.items() if right is not None}


def _scale(adapter: Path) -> float:
    """alpha / rank, after a look that this is all there is to the adapter.

    Every field that could change what an adapter means must have the default of this PEFT: an option that is not known
    here is refused, not merged wrongly.
    """
    from peft import LoraConfig

    config: dict[str, Any] = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    if config.get("peft_type") != "LORA":
        raise MergeError(f"{adapter}: peft_type={config.get('peft_type')} is no LORA, and nothing else can be merged")
    plain = LoraConfig().to_dict()
    for name, value in config.items():
        if name not in NO_EFFECT_ON_MERGING and (value or None) != (plain.get(name) or None):
            raise MergeError(
                f"{adapter}: {name}={value} in {ADAPTER_CONFIG} changes more than W + alpha / rank B A, which is what "
                f"can be merged; train without it"
            )
    return float(config["lora_alpha"]) / int(config["r"])


def _merged(weight: Tensor, left: Tensor, right: Tensor, scale: float) -> Any:
    """W + scale B A in fp32, in PEFT's order of operations."""
    return weight.load().float() + (right.load().float() @ left.load().float()) * scale


def _check_all_fit(weights: Weights, updates: dict[str, tuple[Tensor, Tensor]], adapter: Path) -> None:
    lost = [name for name in sorted(updates) if name not in weights]
    if lost:
        raise MergeError(
            f"{adapter}: {len(lost)} modules of the adapter are none of the base's, first {lost[0]}; it was trained on "
            f"another base"
        )
    for name, (left, right) in updates.items():
        want, got = weights[name].shape, (right.shape[0], left.shape[1])
        if want != got:
            raise MergeError(
                f"{adapter}: {name} is {list(want)} in the base and {list(got)} in the adapter; it was trained on "
                f"another base"
            )
