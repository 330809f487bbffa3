"""The shape of a dense decoder, read from its folder without torch: parameters, adapters, FLOPs.

From config.json come the dimensions, from the headers of the weights the number of parameters; a folder with a
config.json alone, or a model that is still to be expanded, is counted from the dimensions. Known are the families whose
layers look alike: grouped attention, a gated feed-forward and RMS norms.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agentmill.config import UserError
from raytrain.folders import read_manifest

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
_BIASED_KEYS = ("qwen2",)  # biases on the projections of queries, keys and values
_NORMED_HEADS = ("qwen3",)  # norms on queries and keys


class ShapeError(UserError):
    """A model folder whose shape is not known. The message names the folder, the reason and the remedy."""


@dataclass(frozen=True)
class ModelShape:
    """`hidden` is the width, `query` heads x size of a head, `keys` groups x size of a head, `inner` the feed-forward's
    width; `parameters` counts tied embeddings once."""

    layers: int
    hidden: int
    heads: int
    query: int
    keys: int
    inner: int
    vocabulary: int
    tied: bool
    small: int
    """Parameters of one layer that are in no matrix: norms and biases."""
    counted: int | None = None
    """Parameters as the weights' headers say; None where there are no weights to read."""
    added: int = 0
    """Layers that block expansion added."""
    drafted: int | None = None
    """Tokens in the vocabulary of a drafter for this model; None where it was not made yet."""

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of the linear modules of one layer, by name."""
        into = {name: (self.hidden, width) for name, width in self._fed_by_hidden().items()}
        return {**into, "o_proj": (self.query, self.hidden), "down_proj": (self.inner, self.hidden)}

    def _fed_by_hidden(self) -> dict[str, int]:
        keys = {"k_proj": self.keys, "v_proj": self.keys}
        return {"q_proj": self.query, **keys, "gate_proj": self.inner, "up_proj": self.inner}

    @property
    def layer_matrix(self) -> int:
        """Parameters in the matrices of one layer."""
        return sum(inputs * outputs for inputs, outputs in self.linears.values())

    @property
    def embedding(self) -> int:
        """Parameters of the embeddings, and as many of the output head."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        if self.counted is not None:
            return self.counted
        tables = self.embedding * (1 if self.tied else 2)
        return self.layers * (self.layer_matrix + self.small) + tables + self.hidden

    def adapters(self, rank: int, targets: str | tuple[str, ...]) -> int:
        """Parameters of LoRA adapters of this rank on `targets` (`all-linear`, or names of modules) in every layer."""
        sizes = [sum(size) for name, size in self.linears.items() if isinstance(targets, str) or name in targets]
        return self.layers * rank * sum(sizes)

    @property
    def drafter(self) -> int:
        """Parameters that are trained of an EAGLE-3 drafter for this model: the projection of three states, one layer
        whose attention reads twice the width, and its norms."""
        wider = self.hidden * (self.query + 2 * self.keys)
        return 3 * self.hidden**2 + self.layer_matrix + wider + 4 * self.hidden

    def expanded(self, every: int) -> "ModelShape":
        """The shape after block expansion: one new layer after every `every`."""
        more = self.layers // every
        counted = None if self.counted is None else self.counted + more * (self.layer_matrix + self.small)
        return replace(self, layers=self.layers + more, counted=counted, added=self.added + more)

    def matrices(self, counted: float) -> float:
        """Parameters in the products that one token takes part in, where the share `counted` of tokens has a loss."""
        return self.layers * self.layer_matrix + counted * self.embedding

    def attention_flops(self, length: float) -> float:
        """FLOPs of attention for one token in a forward pass over a row of `length` tokens: queries with keys, weights
        with values, over the whole square, causal or not (PaLM, arXiv 2204.02311, appendix B)."""
        return 4.0 * self.layers * self.query * length


def read_shape(folder: Path) -> ModelShape:
    """The shape of the model in `folder`: from config.json, and the headers of the weights where there are any.

    Raises:
        ShapeError: when there is no config.json, or it describes a family that is not known here.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise ShapeError(f"{folder} has no config.json, so its shape is not known; give a Hugging Face model folder")
    config = json.loads(file.read_text(encoding="utf-8"))
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ShapeError(
            f"{file}: model_type={family} is none of {', '.join(FAMILIES)}, whose memory can be computed; train it "
            f"without this check"
        )
    added = len(read_manifest(folder).get("new_blocks") or ())
    return replace(shape_of(config), counted=_count(folder), added=added)


def shape_of(config: Mapping[str, Any]) -> ModelShape:
    """The shape that a config.json of one of FAMILIES describes."""
    heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
    size = int(config.get("head_dim") or hidden // heads)
    groups = int(config.get("num_key_value_heads") or heads)
    small = 2 * hidden
    if config.get("attention_bias") or config["model_type"] in _BIASED_KEYS:
        small += (heads + 2 * groups) * size
    if config["model_type"] in _NORMED_HEADS:
        small += 2 * size
    return ModelShape(
        layers=int(config["num_hidden_layers"]),
        hidden=hidden,
        heads=heads,
        query=heads * size,
        keys=groups * size,
        inner=int(config["intermediate_size"]),
        vocabulary=int(config["vocab_size"]),
        tied=bool(config.get("tie_word_embeddings", False)),
        small=small,
    )


def _count(folder: Path) -> int | None:
    sizes = [math.prod(shape) for file in sorted(folder.glob("*.safetensors")) for shape in _tensor_shapes(file)]
    return sum(sizes) if sizes else None


def _tensor_shapes(file: Path) -> Iterator[list[int]]:
    """The shapes in one file: its first 8 bytes are the length of a JSON header (the safetensors format)."""
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return (entry["shape"] for name, entry in header.items() if name != "__metadata__")
