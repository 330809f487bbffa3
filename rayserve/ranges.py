"""Counting in vLLM's worker process: what share of the linear layers' inputs lies outside the calibrated ranges.

vLLM gives its worker the methods of `Ranges` (`worker_extension_cls`), and `collective_rpc` calls them. Layers are told
by the names that transformers gives them, as ranges.json has them: what vLLM fuses (q_proj, k_proj and v_proj, which
read the same input) counts for each of its parts, so that a rate is comparable with raytrain.quantize.clip's.
Invariant: a step that is not looked at runs one hook, that of the whole model; those of the layers are there in the
others alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch


class Ranges:
    """What vLLM's worker can do beside its own work."""

    _range_watch: "RangeWatch"

    def watch_ranges(self: Any, ranges: dict[str, float], share: float) -> list[str]:
        """Look at `share` of the steps from now on and count anew; returns the layers of `ranges` that are there."""
        if hasattr(self, "_range_watch"):
            self._range_watch.close()
        self._range_watch = RangeWatch(self.get_model(), ranges, share)
        return sorted(self._range_watch.layers())

    def clipped_inputs(self: Any) -> dict[str, list[int]]:
        """By layer, [values outside of its range, values looked at]."""
        counts: dict[str, list[int]] = self._range_watch.counts()
        return counts


class RangeWatch:
    """Looks at the inputs of a model's linear layers in some of its forward passes.

    Where a model is cut over several workers, an input that each of them has whole is counted by the first alone.
    """

    def __init__(self, model: torch.nn.Module, ranges: Mapping[str, float], share: float) -> None:
        modules = dict(model.named_modules())
        self._parts = parts_of(modules, getattr(model, "packed_modules_mapping", {}), ranges)
        self._modules = [modules[name] for name in self._parts]
        device = next(model.parameters()).device
        # Tensors of one value and not numbers: a number would be rounded to the input's bf16 before it is compared.
        largest = [max(ranges[part] for part in parts) for parts in self._parts.values()]
        self._limits = [torch.tensor([limit], dtype=torch.float32, device=device) for limit in largest]
        self._outside = [torch.zeros(1, dtype=torch.int64, device=device) for _ in largest]
        self._total = [0] * len(largest)
        self._share, self._step = share, 0
        self._looking: list[Any] = []
        self._hooks = [model.register_forward_pre_hook(self._begin), model.register_forward_hook(self._end)]

    def layers(self) -> set[str]:
        """The layers that are watched, by their names in `ranges`."""
        return {part for parts in self._parts.values() for part in parts}

    def counts(self) -> dict[str, list[int]]:
        """By layer, [values outside of its range, values looked at]. Waits for the device."""
        counted = zip(self._parts.values(), self._modules, self._outside, self._total, strict=True)
        return {
            part: [int(outside), total]
            for parts, module, outside, total in counted
            if _counts_here(module)
            for part in parts
        }

    def close(self) -> None:
        """Leave the model as it was."""
        for hook in self._hooks:
            hook.remove()

    def _begin(self, *_: Any) -> None:
        self._step += 1
        if is_looked_at(self._step, self._share):
            for place, module in enumerate(self._modules):
                self._looking.append(module.register_forward_pre_hook(self._hook_of(place)))

    def _end(self, *_: Any) -> None:
        while self._looking:
            self._looking.pop().remove()

    def _hook_of(self, place: int) -> Any:
        def look(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            inputs = arguments[0]
            self._outside[place] += (inputs.abs() > self._limits[place]).sum()
            self._total[place] += inputs.numel()

        return look


def is_looked_at(step: int, share: float) -> bool:
    """Whether this step, of 1, 2, 3, ..., is one of `share` of them: evenly spread, and the same in every run."""
    return int(step * share) > int((step - 1) * share)


def parts_of(
    modules: Iterable[str], fused: Mapping[str, Sequence[str]], ranges: Mapping[str, float]
) -> dict[str, list[str]]:
    """For each of vLLM's modules that has ranges, the layers that it stands for; `fused` is vLLM's own table of those
    that stand for several, by the last part of their name."""
    found = {}
    for name in modules:
        prefix, _, last = name.rpartition(".")
        parts = [f"{prefix}.{part}".lstrip(".") for part in fused.get(last, [last])]
        if there := [part for part in parts if part in ranges]:
            found[name] = there
    return found


def _counts_here(module: torch.nn.Module) -> bool:
    """Whether this worker counts the module's inputs: its own share of them, or the whole on the first worker."""
    return bool(getattr(module, "input_is_parallel", False)) or getattr(module, "tp_rank", 0) == 0
