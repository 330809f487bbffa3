"""The EAGLE-3 drafter of a model that was inflated (benchmarks.inflated), drafting what it drafted before.

A drafter has its student's width, and states of it side by side: `fc` reads three of them, its layer the embedding
beside the state; each is padded for itself. Its feed-forward stays as it is: the student has few and wide blocks, and a
block of that shape would be an eighth of it, where the paper's drafter is a fortieth. The blocks that it looks at are
counted as vLLM counts them, state i being what goes into block i, and go with the blocks of the student that was
inflated.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentmill.lineage import usable_cores
from agentmill.runs import atomic_dir, digest_path
from benchmarks.inflated import Shape, read_config
from benchmarks.inflated_weights import AXES, NAME, NORMS, WIDTH, Growth, InflateError, write_told
from raytrain.folders import copy_tokenizer, read_manifest, write_manifest
from raytrain.shards import Weights

LAYER, VERIFIER, LAYER_IDS = "transformer_layer_config", "speculators_config", "eagle_aux_hidden_state_layer_ids"
DRAFTER_AXES = {**AXES, "fc": (WIDTH, WIDTH), "d2t": (None,), "t2d": (None,)}
DRAFTER_NORMS = (*NORMS, "hidden_norm", "fc_norm", "input_norm")
NORMED = ("norm_before_fc", "fc_norm")  # fields that say whether `fc` reads states after a norm


def inflate_drafter(drafter: Path, target: Path, *, student: Path, inflated: Path) -> Path:
    """Inflate the drafter of `student` to one of `inflated`, which `inflate` made of it, into the folder `target`.

    It gets the width and the number of heads of `inflated`, and names that folder as what it drafts for; so `inflated`
    stays where it is. `target` is there whole or not at all; returns `target`.

    Raises:
        InflateError: when `inflated` was not made of `student`, the drafter is not one of EAGLE-3 for it, or it is
            larger than `inflated`.
    """
    config, big = read_config(drafter), read_config(inflated)
    sources = _sources(student, inflated)
    _check_drafter(drafter, config, student)
    layer: dict[str, Any] = config[LAYER]
    shape = Shape(
        big["hidden_size"], layer["num_hidden_layers"], big["num_attention_heads"], layer["intermediate_size"]
    )
    grown = shape.config(layer)
    growth = Growth.of(layer, grown, raw=() if any(config.get(field) for field in NORMED) else ("fc",))
    config[LAYER] = grown
    config[LAYER_IDS] = [state_of(sources, state) for state in config[LAYER_IDS]]
    if config.get("target_hidden_size"):
        config["target_hidden_size"] = shape.width
    config[VERIFIER]["verifier"]["name_or_path"] = str(inflated.resolve())
    entries = [growth.entry(tensor, tensor.name, DRAFTER_AXES, DRAFTER_NORMS) for tensor in Weights(drafter)]
    with atomic_dir(target) as folder:
        write_told(folder, entries)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        copy_tokenizer(drafter, folder)
        for file in drafter.glob("*.py"):  # speculators' class of the configuration, which auto_map names
            shutil.copyfile(file, folder / file.name)
        start = {"model": str(drafter), "digest": digest_path(drafter)}
        write_manifest(folder, {"stage": NAME, "start": start, "student": str(inflated)})
    return target


def quantize_inflated_drafter(drafter: Path, target: Path, *, student: Path) -> Path:
    """An inflated drafter in INT8, by what the stage quantize does, into the folder `target`; returns `target`.

    `student` is the inflated model in INT8 that it then drafts for. Nothing is calibrated, as of that model.
    """
    from raytrain.drafter.model import load_drafter
    from raytrain.hardware import Placement
    from raytrain.quantize.drafter_work import beside, save_in_8_bits

    with atomic_dir(target) as folder:
        loaded = load_drafter(drafter, Placement("cpu", usable_cores(), "bf16"))
        save_in_8_bits(beside(loaded, student), "int8", folder, None)
        copy_tokenizer(drafter, folder)
        write_manifest(folder, {**read_manifest(drafter), "student": str(student), "scheme": "int8"})
    return target


def state_of(sources: Sequence[int], state: int) -> int:
    """The state of the inflated model that is this one of the model: what goes into the same block, or comes out of the
    last one."""
    return sources.index(state) if state in sources else len(sources)


def _sources(student: Path, inflated: Path) -> list[int]:
    """Of which block of the student each block of `inflated` is made."""
    manifest = read_manifest(inflated)
    made_of = manifest.get("start", {}).get("digest") if manifest.get("stage") == NAME else None
    if made_of != digest_path(student):
        raise InflateError(
            f"inflated={inflated} was not made of student={student}, as its manifest says, and its states would be "
            f"others; inflate that student first"
        )
    return list(manifest["sources"])


def _check_drafter(folder: Path, config: Mapping[str, Any], student: Path) -> None:
    kind, states = config.get("speculators_model_type"), config.get(LAYER_IDS)
    if kind != "eagle3" or not states:
        raise InflateError(
            f"{folder}: speculators_model_type={kind} and {LAYER_IDS}={states}; only a drafter of EAGLE-3 that names "
            f"the states which it reads can be inflated: make one with the stage drafter"
        )
    student_config = read_config(student)
    for field in ("hidden_size", "vocab_size"):
        if config[LAYER][field] != student_config[field]:
            raise InflateError(
                f"{folder}: {LAYER}.{field}={config[LAYER][field]} and the student {student} has "
                f"{student_config[field]}; give the student that this drafter was trained for"
            )
