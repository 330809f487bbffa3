"""Which 8-bit scheme, and the recipe for it.

FP8: E4M3 weights and activations with one scale a tensor, the activations' fixed beforehand from the largest magnitude
of the calibration rows (static min-max), the key-value cache likewise: what the paper serves, on Hopper. INT8: weights
with a scale for each output channel, activations with one for each token, taken as they come, so that nothing is
calibrated: it runs on AVX512-VNNI and on Ampere, where FP8 would be emulated.

Every observer is named: llm-compressor gives a hand-written scheme one that remembers the last batch alone.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentmill.errors import UserError
from raytrain.settings import QuantizeSettings, Scheme

STATIC = "static_minmax"
WEIGHTS = "memoryless_minmax"  # weights are seen once, whole
FP8_CAPABILITY = (8, 9)  # Ada; Hopper is 9.0
HEAD = "lm_head"
LEFT_OUT = (HEAD,)


class WrongScheme(UserError):
    """A quantised folder that is not what was asked for. The message names the file, the field and both values."""


def choose(settings: QuantizeSettings, capability: tuple[int, int] | None) -> tuple[Scheme, str]:
    """The scheme and why; `capability` is the GPU's CUDA compute capability, None without a GPU."""
    if settings.scheme != "auto":
        return settings.scheme, "as it is set"
    if capability is None:
        return "int8", "this machine has no GPU, and CPUs have 8-bit products of integers alone"
    if capability < FP8_CAPABILITY:
        return "int8", f"this GPU (compute capability {capability[0]}.{capability[1]}) has no FP8"
    return "fp8", f"this GPU (compute capability {capability[0]}.{capability[1]}) has FP8"


def recipe(scheme: Scheme, *, kv_cache: bool, left_out: Sequence[str] = LEFT_OUT) -> Any:
    """llm-compressor's modifier: all linear layers but those left out; for FP8 the key-value cache too, where asked."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from llmcompressor.modifiers.quantization import QuantizationModifier

    if scheme == "int8":
        weights = QuantizationArgs(num_bits=8, type="int", strategy="channel", symmetric=True, observer=WEIGHTS)
        activations = QuantizationArgs(
            num_bits=8, type="int", strategy="token", symmetric=True, dynamic=True, observer=None
        )
    else:
        weights = QuantizationArgs(num_bits=8, type="float", strategy="tensor", symmetric=True, observer=WEIGHTS)
        activations = _static()
    group = QuantizationScheme(targets=["Linear"], weights=weights, input_activations=activations)
    cached = _static() if scheme == "fp8" and kv_cache else None
    return QuantizationModifier(config_groups={"group_0": group}, ignore=list(left_out), kv_cache_scheme=cached)


def _static() -> Any:
    from compressed_tensors.quantization import QuantizationArgs

    return QuantizationArgs(num_bits=8, type="float", strategy="tensor", symmetric=True, dynamic=False, observer=STATIC)


def check_saved(folder: Path, scheme: Scheme, *, kv_cache: bool, left_out: Sequence[str] = LEFT_OUT) -> None:
    """Look that the saved configuration says what the recipe said.

    Raises:
        WrongScheme: when a field differs.
    """
    saved = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("quantization_config", {})
    group: dict[str, Any] = next(iter(saved.get("config_groups", {}).values()), {})
    found = {
        "weights.type": (group.get("weights") or {}).get("type"),
        "weights.num_bits": (group.get("weights") or {}).get("num_bits"),
        "input_activations.dynamic": (group.get("input_activations") or {}).get("dynamic"),
        "input_activations.observer": (group.get("input_activations") or {}).get("observer"),
        "kv_cache_scheme.observer": (saved.get("kv_cache_scheme") or {}).get("observer"),
        "ignore": saved.get("ignore"),
    }
    static = scheme == "fp8"
    wanted = {
        "weights.type": "float" if static else "int",
        "weights.num_bits": 8,
        "input_activations.dynamic": not static,
        "input_activations.observer": STATIC if static else None,
        "kv_cache_scheme.observer": STATIC if static and kv_cache else None,
        "ignore": list(left_out),
    }
    for name, value in wanted.items():
        if found[name] != value:
            raise WrongScheme(
                f"{folder}/config.json: quantization_config.{name}={found[name]}, and the recipe says {value}; "
                f"this version of llm-compressor writes something else than it was told"
            )
