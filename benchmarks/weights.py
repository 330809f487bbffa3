"""How much memory expanding and merging take beside the size of the model: `agentmill bench expand`.

A model of Llama 3's shape with random weights (Llama 3.1 8B at hidden 4096 and 32 blocks) is written in shards, put
through the stage expand, and merged with itself; all of it streams, so nothing here ever holds the model. Recorded:
train.expand.{start.mib, mib, peak_mib, seconds} and merge.{peak_mib, seconds}, peaks above what the process had before.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path

from agentmill.log import duration, say
from agentmill.runs import Run, bench_run
from raytrain import expand
from raytrain.settings import ExpandSettings, MergeSettings
from raytrain.shards import Entry, Weights, write_weights

VOCABULARY, HEAD, KEYS = 128_256, 128, 8
FEED_FORWARD = 3.5  # times hidden
SPREAD = 0.02
SHARD_BYTES = 1 << 30
BYTES = 2  # bf16


def bench_expand(folder: Path, hidden: int, blocks: int, every: int) -> Run:
    """Make the model below `folder`, expand it, merge it, and record size, peak and seconds of both. Needs Ray."""
    made = Run.create(folder / "expand", {}, "agentmill bench expand")
    start = made.path("models", "base", "x").parent
    start.mkdir(parents=True, exist_ok=True)
    write_model(start, hidden, blocks)
    run, size = bench_run(), Weights(start).size / 2**20
    say("bench", f"a model of {size:,.0f} MiB is in {start}")
    expand.run(made, ExpandSettings(every=every))
    began = time.monotonic()
    peak = _merge_in_task(start, start, made.path("models", "merged"))
    seconds = time.monotonic() - began
    run.record("train.expand.start.mib", size, unit="MiB")
    for name in ("mib", "peak_mib", "seconds"):
        figure = made.figures()[f"train.expand.{name}"]
        run.record(f"train.expand.{name}", figure.value, unit=figure.unit)
    run.record("merge.peak_mib", peak, unit="MiB")
    run.record("merge.seconds", seconds, unit="s")
    say("bench", f"merged {size:,.0f} MiB in {duration(seconds)}, {peak:,.0f} MiB of memory at most")
    return run


def write_model(folder: Path, hidden: int, blocks: int) -> None:
    """A Llama of that shape with random weights in bf16, in shards; no tokenizer."""
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=int(FEED_FORWARD * hidden),
        num_hidden_layers=blocks,
        num_attention_heads=hidden // HEAD,
        num_key_value_heads=KEYS,
        architectures=["LlamaForCausalLM"],
    )
    (folder / "config.json").write_text(json.dumps(config.to_dict(), default=str), encoding="utf-8")
    write_weights(folder, [_random(name, shape) for name, shape in _shapes(hidden, blocks).items()], SHARD_BYTES)


def _shapes(hidden: int, blocks: int) -> dict[str, tuple[int, ...]]:
    inner, keys = int(FEED_FORWARD * hidden), KEYS * HEAD
    block = {
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, hidden)}
    for index in range(blocks):
        shapes |= {f"model.layers.{index}.{name}.weight": shape for name, shape in block.items()}
    return {**shapes, "model.norm.weight": (hidden,), "lm_head.weight": (VOCABULARY, hidden)}


def _random(name: str, shape: tuple[int, ...]) -> Entry:
    def chunks() -> Iterator[memoryview]:
        import torch

        rows = torch.empty(shape[-1]).normal_(std=SPREAD).bfloat16()  # the same for every row: made in no time
        data = memoryview(rows.view(torch.uint8).numpy())
        for _ in range(shape[0] if len(shape) > 1 else 1):
            yield data

    size = BYTES * shape[-1] * (shape[0] if len(shape) > 1 else 1)
    return Entry(name, "BF16", shape, size, chunks)


def _merge_in_task(start: Path, trained: Path, out: Path) -> float:
    import ray

    out.mkdir(parents=True, exist_ok=True)
    return float(ray.get(ray.remote(_merge).options(num_cpus=1).remote(start, trained, out)))


def _merge(start: Path, trained: Path, out: Path) -> float:
    import torch

    from raytrain.blend import blend_folder
    from raytrain.memory import peak_rise

    torch.zeros(1)  # what torch itself takes is no part of the merge
    with peak_rise() as rise:
        blend_folder(start, trained, out, MergeSettings(method="linear", weight=0.5))
        return rise()
