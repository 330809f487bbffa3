"""From a base and a trained adapter to one plain model folder that transformers and vLLM load.

W' = W + alpha / rank * B A (LoRA, arXiv 2106.09685), computed in fp32 and written in the base's own type. The folder
holds weights, configuration, generation configuration and tokenizer, and a manifest of where it comes from.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentmill.config import UserError
from agentmill.runs import atomic_dir, atomic_write_text

MANIFEST = "manifest.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
NOT_ADAPTED = ("lm_head", "embed_tokens")


class MergeError(UserError):
    """A model folder or adapter that cannot be merged. The message names the folder, the reason and the remedy."""


def linear_modules(base: Path) -> dict[str, int]:
    """Names of the linear modules that an adapter can sit on (q_proj, ...) and how many there are of each.

    Read from the headers of the weights; nothing is loaded. The output head is left out, as PEFT's all-linear does.

    Raises:
        MergeError: when the folder has no safetensors weights.
    """
    from safetensors import safe_open

    files = sorted(base.glob("*.safetensors"))
    if not files:
        raise MergeError(f"{base} has no *.safetensors weights; run the stages before this one first")
    found: dict[str, int] = {}
    for file in files:
        with safe_open(file, framework="numpy") as weights:
            for key in weights.keys():  # noqa: SIM118 - not a mapping
                parts = key.split(".")
                if parts[-1] != "weight" or len(weights.get_slice(key).get_shape()) != 2 or parts[-2] in NOT_ADAPTED:
                    continue
                found[parts[-2]] = found.get(parts[-2], 0) + 1
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


def merge_adapter(base: Path, adapter: Path, out: Path) -> None:
    """Merge `adapter` into `base` and write the plain model into `out`, an existing folder.

    Raises:
        MergeError: when the adapter has no weights, or holds a tensor that did not find its module.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    if not (adapter / ADAPTER_WEIGHTS).is_file():
        raise MergeError(f"{adapter} has no {ADAPTER_WEIGHTS}; it is no adapter")
    stored = AutoModelForCausalLM.from_pretrained(base, dtype="auto", local_files_only=True)
    dtype = stored.dtype
    model = PeftModel.from_pretrained(stored.to(torch.float32), adapter, autocast_adapter_dtype=False)
    _check_all_loaded(model, adapter)
    merged = model.to(torch.float32).merge_and_unload(safe_merge=True).to(dtype)
    merged.save_pretrained(out)
    copy_tokenizer(base, out)


def copy_tokenizer(base: Path, out: Path) -> None:
    """Copy the tokenizer, chat template and generation configuration of `base`, byte for byte."""
    for pattern in ("tokenizer*", "special_tokens_map.json", "chat_template*", "generation_config.json"):
        for file in base.glob(pattern):
            shutil.copyfile(file, out / file.name)


def publish(model: Path, target: Path, manifest: Mapping[str, Any]) -> None:
    """Copy a finished model folder to `target` with its manifest; `target` is there whole or not at all."""
    with atomic_dir(target) as folder:
        for file in sorted(model.iterdir()):
            shutil.copyfile(file, folder / file.name)
        text = json.dumps(dict(manifest), indent=2, ensure_ascii=False, default=str)
        atomic_write_text(folder / MANIFEST, text + "\n")


def _check_all_loaded(model: Any, adapter: Path) -> None:
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file

    loaded, stored = get_peft_model_state_dict(model), load_file(adapter / ADAPTER_WEIGHTS)
    lost = sorted(set(stored) - set(loaded))
    if lost:
        raise MergeError(
            f"{adapter}: {len(lost)} tensors of the adapter have no module in the base, first {lost[0]}; "
            f"it was trained on another base"
        )
