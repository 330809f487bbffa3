"""A model folder beside its weights: tokenizer, manifest, how it is read, 8 bits included, and how it comes into place.

manifest.json says where a model comes from: the stage, the digest of what decided it, the model that it started from,
settings and versions. Invariant: a folder under models/ is there whole or not at all.
"""

import json
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentmill.runs import atomic_dir, atomic_write_text

MANIFEST = "manifest.json"
TOKENIZER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template*", "generation_config.json")


def copy_tokenizer(base: Path, out: Path) -> None:
    """Copy the tokenizer, chat template and generation configuration of `base`, byte for byte."""
    for pattern in TOKENIZER:
        for file in base.glob(pattern):
            shutil.copyfile(file, out / file.name)


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write manifest.json into a model folder."""
    text = json.dumps(dict(manifest), indent=2, ensure_ascii=False, default=str)
    atomic_write_text(folder / MANIFEST, text + "\n")


def read_manifest(folder: Path) -> dict[str, Any]:
    """What manifest.json of a model folder says; empty where there is none (a base from elsewhere)."""
    file = folder / MANIFEST
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def from_folder(kind: Any, folder: Path, **options: Any) -> Any:
    """What `kind.from_pretrained` makes of a folder on this machine.

    Of one in 8 bits, weights are numbers again and inputs are rounded to 8 bits on their way: what it computes is what
    an engine computes, on any machine.
    """
    if json.loads((folder / "config.json").read_text(encoding="utf-8")).get("quantization_config") is None:
        return kind.from_pretrained(str(folder), local_files_only=True, **options)
    from transformers import CompressedTensorsConfig

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You passed `quantization_config`")  # transformers says what we want
        whole = CompressedTensorsConfig(run_compressed=False)
        return kind.from_pretrained(str(folder), local_files_only=True, quantization_config=whole, **options)


def publish(model: Path, target: Path, manifest: Mapping[str, Any]) -> None:
    """Put a finished model folder at `target` with its manifest; `target` is there whole or not at all.

    Files are linked where the file system can, since nothing changes a published file in place; else copied.
    """
    with atomic_dir(target) as folder:
        for file in sorted(model.iterdir()):
            _link(file, folder / file.name)
        write_manifest(folder, manifest)


def _link(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)
