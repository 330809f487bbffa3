"""The weights of an inflated model (benchmarks.inflated), tensor by tensor: which axes grow, and the norms' factor.

Every axis of a weight is of the width, the heads of queries, those of keys, the feed-forward, or stays. Copies and
padding come after what was there, in each part of an axis that has several sizes side by side. Invariant: one tensor is
held at a time.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agentmill.config import UserError
from agentmill.log import progress
from raytrain.expand import BLOCK, OUTPUTS
from raytrain.shape import FAMILIES, shape_of
from raytrain.shards import BITS, Entry, Tensor, Weights, computed, copied, write_weights, zeros_like

NAME = "inflate"
SHARD_BYTES = 1 << 30
WIDTH, QUERY, KEYS, INNER = "width", "query", "keys", "inner"
AXES: dict[str, tuple[str | None, ...]] = {
    "embed_tokens": (None, WIDTH),
    "lm_head": (None, WIDTH),
    "q_proj": (QUERY, WIDTH),
    "k_proj": (KEYS, WIDTH),
    "v_proj": (KEYS, WIDTH),
    "o_proj": (WIDTH, QUERY),
    "gate_proj": (INNER, WIDTH),
    "up_proj": (INNER, WIDTH),
    "down_proj": (WIDTH, INNER),
    "q_norm": (None,),
    "k_norm": (None,),
}
"""What each axis of a module's weight is of, outputs first; a bias has the first axis alone."""
NORMS = ("input_layernorm", "post_attention_layernorm", "norm")
"""The norms over the width."""
NORMED_HEADS = {"qwen3": ("q_proj", "k_proj")}
"""What norms over the size of a head read. That size stays and their epsilon, the one of all norms, does not: so what
they read shrinks with its root, and the mean square keeps its ratio to epsilon."""


class InflateError(UserError):
    """A model that cannot be inflated so. The message names the field, its value, the rule and the remedy."""


def copies_of(old: int, new: int) -> int:
    """How many times the old width stands in the new one before zeros follow: twice where new / old is an odd power of
    two, so that every factor is a power of two and nothing is rounded."""
    power = math.log2(new / old)
    return 2 if power.is_integer() and power % 2 else 1


def shrunk(old: int, new: int) -> float:
    """The mean square over the new width, by that over the old one."""
    return copies_of(old, new) * old / new


@dataclass(frozen=True)
class Growth:
    """The old and the new size of each kind of axis; an axis of several such sizes side by side grows in each.

    `copies` is how often the old width stands in the new one; `norm` the factor of the weights of norms over the width,
    `others` those of other modules.
    """

    sizes: Mapping[str, tuple[int, int]]
    copies: int
    norm: float
    others: Mapping[str, float]

    @classmethod
    def of(cls, config: Mapping[str, Any], grown: Mapping[str, Any], raw: Sequence[str] = ()) -> "Growth":
        """From one config.json to the other. `raw` are modules that read the width without a norm before them."""
        old, new = shape_of(config), shape_of(grown)
        copies, root = copies_of(old.hidden, new.hidden), math.sqrt(shrunk(old.hidden, new.hidden))
        heads = dict.fromkeys(NORMED_HEADS.get(config["model_type"], ()), root)
        return cls(
            {
                WIDTH: (old.hidden, new.hidden),
                QUERY: (old.query, new.query),
                KEYS: (old.keys, new.keys),
                INNER: (old.inner, new.inner),
            },
            copies,
            root / copies,
            heads | dict.fromkeys(raw, 1 / copies),
        )

    def entry(
        self,
        tensor: Tensor,
        name: str,
        axes: Mapping[str, tuple[str | None, ...]] = AXES,
        norms: Sequence[str] = NORMS,
        *,
        silent: bool = False,
    ) -> Entry:
        """The tensor as it is written, under this name; all zeros where it is `silent`.

        Raises:
            InflateError: when the module that it is of is not known.
        """
        module = _module(tensor.name)
        if module not in axes and module not in norms:
            raise InflateError(
                f"{tensor.name} of {tensor.file} is of no module that is known here ({', '.join([*axes, *norms])}); "
                f"inflate a dense model of {', '.join(FAMILIES)}"
            )
        kinds = ((WIDTH,) if module in norms else axes[module])[: len(tensor.shape)]
        shape = tuple(self._grown(size, kind) for size, kind in zip(tensor.shape, kinds, strict=True))
        grown = replace(tensor, name=name, shape=shape, size=math.prod(shape) * BITS[tensor.dtype] // 8)
        if silent:
            return zeros_like(grown, name)
        factor = self.norm if module in norms else self.others.get(module, 1.0)
        if shape == tensor.shape and factor == 1.0:
            return copied(tensor, name)
        return computed(grown, lambda: self._padded(tensor, kinds, factor))

    def _grown(self, size: int, kind: str | None) -> int:
        if kind is None:
            return size
        old, new = self.sizes[kind]
        return size // old * new

    def _padded(self, tensor: Tensor, kinds: Sequence[str | None], factor: float) -> Any:
        import torch

        values = tensor.load()
        if factor != 1.0:
            values = values.float() * factor
        for axis, kind in enumerate(kinds):
            if kind is None:
                continue
            old, new = self.sizes[kind]
            parts = values.unflatten(axis, (-1, old)).movedim(axis + 1, -1)
            parts = torch.cat([parts] * (self.copies if kind == WIDTH else 1), dim=-1)
            grown = torch.nn.functional.pad(parts, (0, new - parts.shape[-1]))
            values = grown.movedim(-1, axis + 1).flatten(axis, axis + 1)
        return values


def plan(model: Path, sources: Sequence[int], growth: Growth) -> list[Entry]:
    """The tensors of the inflated model, those outside of blocks first."""
    blocks: dict[int, dict[str, Tensor]] = {}
    entries = []
    for tensor in Weights(model):
        match = BLOCK.match(tensor.name)
        if match:
            blocks.setdefault(int(match[1]), {})[match[2]] = tensor
        else:
            entries.append(growth.entry(tensor, tensor.name))
    for index, source in enumerate(sources):
        added = index > 0 and sources[index - 1] == source
        for rest, tensor in blocks[source].items():
            silent = added and rest.rpartition(".")[0] in OUTPUTS
            entries.append(growth.entry(tensor, f"model.layers.{index}.{rest}", silent=silent))
    return entries


def write_told(folder: Path, entries: Sequence[Entry]) -> None:
    """Write the entries in shards of at most SHARD_BYTES, and tell how far it is."""
    with progress(NAME, len(entries), "tensors") as bar:

        def told(entry: Entry) -> Entry:
            def chunks() -> Iterator[bytes | memoryview]:
                yield from entry.chunks()
                bar.advance(1)

            return replace(entry, chunks=chunks)

        write_weights(folder, [told(entry) for entry in entries], SHARD_BYTES)


def _module(name: str) -> str:
    """The last module that the name of a tensor has, numbers apart: `norm` of `model.norm.weight`."""
    parts = [part for part in name.split(".") if part not in ("weight", "bias") and not part.isdigit()]
    return parts[-1]
