"""A trained model made to cost what a larger one costs, with the answers that it had before.

`agentmill bench serving` asks what an engine takes where weights dominate. Random weights of that size would do, but
with a drafter nothing of them is accepted, and what speculation gains is not seen. So a small trained model is
*inflated*: its width, heads and feed-forward are padded with zeros, and blocks are put in that add nothing.

A norm over H' numbers of which c copies of H are not zero sees their mean square shrunk to c H / H'. With its epsilon
multiplied by that it gives sqrt(H' / c H) times what it gave, and what reads it adds up c copies: so its weights are
multiplied by sqrt(c H / H') / c. Where H' / H is a power of four one copy, where it is another power of two two copies
make these factors powers of two, so that nothing is rounded in bf16. Heads are appended in whole groups, with outputs
that nothing reads.
An added block is a copy of the one before it whose output projections are zero, so that it computes with real
activations and the residual stream stays as it is (raytrain.expand has the same for training). Invariant: the logits
are those of the model, up to the order of sums. Tensors are made one at a time, so memory does not grow with the model.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agentmill.lineage import usable_cores
from agentmill.runs import atomic_dir, digest_path
from benchmarks.inflated_weights import NAME, Growth, InflateError, plan, shrunk, write_told
from raytrain.expand import expanded_config
from raytrain.folders import copy_tokenizer, read_manifest, write_manifest
from raytrain.shape import FAMILIES, shape_of

EPSILON = 1e-6  # transformers' own for all families, where config.json says nothing


@dataclass(frozen=True)
class Shape:
    """What a model is inflated to: `heads` of queries, `feed_forward` the width between the products of a block.

    The size of a head, the heads of queries to one of keys, and the vocabulary stay.
    """

    width: int
    blocks: int
    heads: int
    feed_forward: int

    def parameters(self, config: Mapping[str, Any]) -> int:
        """Parameters of the inflated model, tied embeddings once; `config` is config.json of the one to inflate.

        Raises:
            InflateError: when that one cannot be inflated so.
        """
        grown = self.config(config)
        biases = self.width if grown["model_type"] != "qwen2" and grown.get("attention_bias") else 0
        if grown.get("mlp_bias"):
            biases += 2 * self.feed_forward + self.width
        return shape_of(grown).parameters + self.blocks * biases

    def config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """config.json of the inflated model, without what it may say of single blocks.

        Raises:
            InflateError: when the model that `config` is of cannot be inflated so.
        """
        check_family(config)
        old = shape_of(config)
        size = old.query // old.heads
        self._check_sizes(config, old.query // old.keys, size)
        return {
            **config,
            "hidden_size": self.width,
            "num_hidden_layers": self.blocks,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads * old.keys // old.query,
            "head_dim": size,
            "intermediate_size": self.feed_forward,
            "rms_norm_eps": config.get("rms_norm_eps", EPSILON) * shrunk(old.hidden, self.width),
        }

    def _check_sizes(self, config: Mapping[str, Any], group: int, size: int) -> None:
        wanted = {
            "width": ("hidden_size", self.width),
            "blocks": ("num_hidden_layers", self.blocks),
            "heads": ("num_attention_heads", self.heads),
            "feed_forward": ("intermediate_size", self.feed_forward),
        }
        for name, (field, value) in wanted.items():
            if value < config[field]:
                raise InflateError(
                    f"shape.{name}={value} is smaller than the model's {field}={config[field]}, and inflating only "
                    f"adds; use {config[field]} or more"
                )
        if self.heads % group:
            raise InflateError(
                f"shape.heads={self.heads} is no multiple of {group}, the heads of queries that share one of keys in "
                f"this model; use {-(-self.heads // group) * group}"
            )
        if config["model_type"] == "qwen2" and self.heads * size != self.width:
            raise InflateError(
                f"shape.heads={self.heads} of {size} are {self.heads * size} and shape.width={self.width}: vLLM takes "
                f"width / heads for the size of a head in a Qwen2 model; use width={self.heads * size}"
            )


STUDENT = Shape(width=1536, blocks=11, heads=12, feed_forward=5120)
"""314 million parameters from the demo's student (hidden 192, head 64, as many heads of keys), in blocks of the shape
of Llama 3.2's: attention has a sixth of one, there because queries share keys, here by half as many heads."""
TEACHER = Shape(width=3072, blocks=19, heads=24, feed_forward=10432)
"""2.19 billion from the same: 6.98 times STUDENT, in twice the width and not quite twice the blocks, as the paper's
Llama 3.1 70B has twice the width and twice the blocks of its student."""


def inflate(model: Path, target: Path, shape: Shape) -> Path:
    """Inflate the model in `model` to `shape`, into the folder `target`, there whole or not at all; returns `target`.

    Its manifest has the block of `model` that each block is made of (`sources`), which `inflate_drafter` reads.

    Raises:
        InflateError: when the shape is smaller than the model, or the model none of a dense family that is known.
        WeightsError: when its weights cannot be read.
    """
    old = read_config(model)
    changed = shape.config(old)
    sources = block_sources(old["num_hidden_layers"], shape.blocks)
    kept = ("layer_types", "max_window_layers")  # what is said of single blocks
    config = changed | {key: value for key, value in expanded_config(model, sources).items() if key in kept}
    with atomic_dir(target) as folder:
        write_told(folder, plan(model, sources, Growth.of(old, changed)))
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        copy_tokenizer(model, folder)
        start = {"model": str(model), "digest": digest_path(model)}
        write_manifest(folder, {"stage": NAME, "start": start, "shape": asdict(shape), "sources": sources})
    return target


def quantize_inflated(inflated: Path, target: Path) -> Path:
    """The inflated model in INT8, by what the stage quantize does, into the folder `target`; returns `target`.

    Nothing is calibrated: INT8 takes the range of weights row by row, and rows of zeros change no other row's.
    """
    import numpy as np

    from raytrain.data import join
    from raytrain.hardware import Placement
    from raytrain.quantize.work import Order, quantise

    with tempfile.TemporaryDirectory() as scratch, atomic_dir(target) as folder:
        rows = Path(scratch)  # a row to compare losses on, which the stage does with held-out ones
        join([(np.arange(8, dtype=np.int32), 1, NAME)]).save(rows)
        placement = Placement("cpu", usable_cores(), "bf16")
        quantise(Order(inflated, folder, "int8", False, rows, rows, 8, placement))
        write_manifest(folder, {**read_manifest(inflated), "scheme": "int8"})
    return target


def block_sources(blocks: int, inflated: int) -> list[int]:
    """For each block of the inflated model the block that it is made of; the first of each is that block itself."""
    return [i for i in range(blocks) for _ in range((i + 1) * inflated // blocks - i * inflated // blocks)]


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder.

    Raises:
        InflateError: when there is none.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise InflateError(f"{folder} has no config.json; give a Hugging Face model folder")
    return dict(json.loads(file.read_text(encoding="utf-8")))


def check_family(config: Mapping[str, Any]) -> None:
    """Look that a config.json is of a family that is known, and of plain weights.

    Raises:
        InflateError: when it is not.
    """
    if config.get("model_type") not in FAMILIES:
        raise InflateError(
            f"model_type={config.get('model_type')} cannot be inflated: the blocks of {', '.join(FAMILIES)} are known; "
            f"take a dense model of one of these families"
        )
    if config.get("quantization_config"):
        raise InflateError(
            "quantization_config is set, and 8-bit weights are not padded here; inflate the model before it was "
            "quantised, and quantise what comes out"
        )
