"""The stage expand (stage 0 of the paper): a deeper model that computes what the shallower one does.

After every `every` blocks comes a new one, a copy of the block before it whose output projections, `o_proj` and
`down_proj` with their biases, are zero (LLaMA Pro, arXiv 2401.02415, section 3.2). A block adds its two outputs to the
residual stream, so the new one adds nothing and the logits stay as they are, to the last bit. The output projections
get a gradient in the first step, and what feeds them from the second on; with *every* projection at zero all gradients
would be products with a zero, and the block would never learn.

Weights are copied as bytes, one chunk at a time (see `raytrain.shards`), so memory does not grow with the model.
Known families are those whose blocks are of this form in transformers' own classes. Which blocks are new stands in the
manifest of models/expanded, not in config.json, which stays what transformers and vLLM know.
"""

import json
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentmill.config import UserError
from agentmill.lineage import package_versions
from agentmill.log import duration, progress, say
from agentmill.runs import Run, atomic_dir, digest_json, digest_path
from raytrain.folders import copy_tokenizer, read_manifest, write_manifest
from raytrain.memory import peak_rise
from raytrain.settings import ExpandSettings
from raytrain.shards import SHARD_BYTES, Entry, Tensor, Weights, copied, write_weights, zeros_like

NAME, FOLDER = "expand", "expanded"
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
BLOCK = re.compile(r"^model\.layers\.(\d+)\.(.+)$")
OUTPUTS = ("self_attn.o_proj", "mlp.down_proj")
POLL_S = 0.5
Blocks = list[dict[str, Tensor]]


class ExpandError(UserError):
    """A model that cannot be expanded, or was not. The message names the field, the rule and the remedy."""


def run(run: Run, settings: ExpandSettings, *, start: str = "base") -> None:
    """Make models/expanded from models/<start>. Ray must be initialised.

    Records train.expand.{start.parameters, parameters, mib, seconds, peak_mib}; peak_mib is by how much the resident
    size of the process that copies rose above what it was before.

    Raises:
        UserError: when the model cannot be expanded so, or the disk has no room.
    """
    base, target = run.root / "models" / start, run.path("models", FOLDER)
    code = [digest_path(Path(__file__).parent / name) for name in ("expand.py", "shards.py")]
    digest = digest_json({"start": digest_path(base), "settings": settings.deciding(), "code": code})[:16]
    if read_manifest(target).get("digest") == digest:
        say(NAME, f"models/{FOLDER} is the result of this model and these settings already; remove it to redo it")
        return
    began = time.monotonic()
    with atomic_dir(target) as folder:
        grown = expand_folder(base, folder, settings.every)
        start_of = {"model": start, "digest": digest_path(base)}
        manifest = {"stage": NAME, "digest": digest, "start": start_of, "settings": settings.model_dump(mode="json")}
        write_manifest(folder, {**manifest, **grown, "versions": package_versions()})
    seconds = time.monotonic() - began
    run.record("train.expand.start.parameters", grown["start_parameters"], unit="parameters")
    run.record("train.expand.parameters", grown["parameters"], unit="parameters")
    run.record("train.expand.mib", grown["mib"], unit="MiB")
    run.record("train.expand.seconds", seconds, unit="s")
    run.record("train.expand.peak_mib", grown["peak_mib"], unit="MiB")
    say(
        NAME,
        f"{grown['blocks']} blocks, {len(grown['new_blocks'])} of them new: {grown['start_parameters']:,} -> "
        f"{grown['parameters']:,} parameters in {duration(seconds)}, {grown['peak_mib']:.0f} MiB of memory at most",
    )


def expand_folder(base: Path, out: Path, every: int, shard_bytes: int = SHARD_BYTES) -> dict[str, Any]:
    """Expand the model in `base` into `out`, an existing folder, in a Ray task of one CPU.

    Returns what is to be known of it: blocks, new_blocks, start_parameters, parameters, mib, peak_mib.

    Raises:
        ExpandError: when the family is unknown, the weights are quantised or not of that family's form, `every` does
            not divide the number of blocks, or the disk has no room.
    """
    sources = block_sources(_blocks(base, check_family(base)), every)
    new = tuple(i for i, source in enumerate(sources) if i and sources[i - 1] == source)
    config = expanded_config(base, sources)
    before, entries = Weights(base), plan(base, sources)
    size, free = sum(entry.size for entry in entries), shutil.disk_usage(out).free
    if size > free:
        raise ExpandError(
            f"the expanded model takes {size / 2**30:.1f} GiB and {out.parent} has {free / 2**30:.1f} GiB free; make "
            f"room or put the run elsewhere"
        )
    peak = _write_in_task(base, out, sources, shard_bytes, size)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    copy_tokenizer(base, out)
    return {
        "blocks": len(sources),
        "new_blocks": list(new),
        "start_parameters": before.parameters,
        "parameters": sum(entry.parameters for entry in entries),
        "mib": size / 2**20,
        "peak_mib": peak,
    }


def new_blocks(folder: Path) -> tuple[int, ...]:
    """The indices of the blocks that expansion added to the model in `folder`, in rising order.

    Raises:
        ExpandError: when it was not expanded.
    """
    found = read_manifest(folder).get("new_blocks")
    if not found:
        raise ExpandError(
            f"{folder} has no new blocks, and cpt.train=new_blocks trains nothing else; give expand settings, so that "
            f"the stage starts from models/{FOLDER}, or set cpt.train=all"
        )
    return tuple(found)


def check_family(base: Path) -> dict[str, Any]:
    """config.json of a model that can be expanded.

    Raises:
        ExpandError: when the folder has none, its family is unknown or its weights are quantised.
    """
    file = base / "config.json"
    if not file.is_file():
        raise ExpandError(f"{base} has no config.json; run the stages before this one first")
    config = dict(json.loads(file.read_text(encoding="utf-8")))
    if config.get("model_type") not in FAMILIES:
        raise ExpandError(
            f"expand: {base} is of the family model_type={config.get('model_type')}, and the blocks of "
            f"{', '.join(FAMILIES)} are known; start from one of these or leave expand out"
        )
    if config.get("quantization_config"):
        raise ExpandError(
            f"expand: {base} is quantised (quantization_config in config.json), and training needs plain weights; "
            f"start from the model before it was quantised"
        )
    return config


def block_sources(blocks: int, every: int) -> list[int]:
    """For each block of the expanded model the block that it is copied from; a new one has that of the block before.

    Raises:
        ExpandError: when `every` does not divide the number of blocks.
    """
    if blocks % every:
        divisors = ", ".join(str(n) for n in range(1, blocks + 1) if blocks % n == 0)
        raise ExpandError(
            f"expand.every={every} does not divide the model's num_hidden_layers={blocks}, so the last blocks would "
            f"get no new one; use {divisors}"
        )
    return [i for source in range(blocks) for i in ([source, source] if (source + 1) % every == 0 else [source])]


def expanded_config(base: Path, sources: Sequence[int]) -> dict[str, Any]:
    """config.json of the expanded model: the base's, with what is said of each block repeated as the blocks are.

    What the base's file leaves to defaults (`layer_types` derived from `max_window_layers`) is taken from
    transformers' own configuration class, since a default need not fit the new number of blocks.
    """
    from transformers import AutoConfig

    config: dict[str, Any] = json.loads((base / "config.json").read_text(encoding="utf-8"))
    known = AutoConfig.from_pretrained(base, local_files_only=True)
    blocks = max(sources) + 1
    config["num_hidden_layers"] = len(sources)
    types, windowed = getattr(known, "layer_types", None), getattr(known, "max_window_layers", None)
    if types is not None:
        config["layer_types"] = [types[source] for source in sources]
    if windowed is not None:  # the first block with a sliding window; at least their number where none has
        within = sum(source < windowed for source in sources)
        config["max_window_layers"] = within + max(0, windowed - blocks)
    return config


def plan(base: Path, sources: Sequence[int]) -> list[Entry]:
    """The tensors of the expanded model in the order in which they are written: those outside of blocks first."""
    outside, blocks = _split(Weights(base))
    entries = [copied(tensor) for tensor in outside]
    for index, source in enumerate(sources):
        new = index > 0 and sources[index - 1] == source
        for rest, tensor in blocks[source].items():
            name = f"model.layers.{index}.{rest}"
            silent = new and rest.rpartition(".")[0] in OUTPUTS
            entries.append(zeros_like(tensor, name) if silent else copied(tensor, name))
    return entries


def _split(weights: Weights) -> tuple[list[Tensor], Blocks]:
    outside: list[Tensor] = []
    found: dict[int, dict[str, Tensor]] = {}
    for tensor in weights:
        match = BLOCK.match(tensor.name)
        if match is None:
            outside.append(tensor)
        else:
            found.setdefault(int(match[1]), {})[match[2]] = tensor
    return outside, [found[index] for index in sorted(found)]


def _blocks(base: Path, config: Mapping[str, Any]) -> int:
    """The number of blocks, after a look whether the weights are those that the configuration promises."""
    _, blocks = _split(Weights(base))
    promised = int(config["num_hidden_layers"])
    if len(blocks) != promised:
        raise ExpandError(
            f"expand: {base} has the weights of {len(blocks)} blocks (model.layers.N) and config.json says "
            f"num_hidden_layers={promised}; the folder is not whole or not in transformers' form; save it again"
        )
    needed = {f"{output}.weight" for output in OUTPUTS}
    for index, block in enumerate(blocks):
        lost = sorted((needed | blocks[0].keys()) - block.keys())
        if lost:
            raise ExpandError(
                f"expand: block {index} of {base} has no {lost[0]}; the folder is not whole or not in transformers' "
                f"form; save it again"
            )
    return promised


def _write_in_task(base: Path, out: Path, sources: Sequence[int], shard_bytes: int, size: int) -> float:
    """Write the weights in a Ray task while their growth is shown here; returns the task's peak in MiB."""
    import ray

    task = ray.remote(_write).options(num_cpus=1)
    done = task.remote(base, out, list(sources), shard_bytes)
    with progress(NAME, size >> 20, "MiB") as bar:
        while True:
            ready, _ = ray.wait([done], timeout=POLL_S)
            written = sum(file.stat().st_size for file in out.glob("*.safetensors")) >> 20
            bar.advance(min(written, bar.total) - bar.done)
            if ready:
                return float(ray.get(done))


def _write(base: Path, out: Path, sources: Sequence[int], shard_bytes: int) -> float:
    with peak_rise() as rise:
        write_weights(out, plan(base, sources), shard_bytes)
        return rise()
