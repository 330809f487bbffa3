"""What both sides of `agentmill bench training` train on: the same rows of a run's corpora, and the same model.

Invariant: the rows that a bench folder holds are those that both sides train on, each once: rows over the limit of
tokens are left out before, so that neither side has to cut or drop one.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from agentmill.config import UserError
from agentmill.log import say
from agentmill.runs import Run
from raytrain.data import tokenise_rows
from raytrain.settings import StageSettings

CONVERSATIONS = 1000
HELDOUT_ROWS = 32
READ_AT_ONCE = 512
SHIPPED = "shipped"
SHAPES: Mapping[str, Mapping[str, int]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 2048, "max_position_embeddings": 2048},
    "llama-8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
                 "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192},
}  # fmt: skip


class BenchFailed(UserError):
    """A side of the bench could not be made ready, or failed. The message has the cause."""


def make_corpora(folder: Path, conversations: int, prompts: str, seed: int) -> Run:
    """A run of its own up to the stage base, by the command `agentmill run`: what a bench without --run trains on.

    `prompts` is system.prompts: full gives rows of the length that a large model works with, brief those of a small
    one.

    Raises:
        BenchFailed: when the run fails; the message has the end of its log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config, log = folder / "corpora.yaml", folder / "corpora.log"
    settings = {
        "name": "corpora",
        "seed": seed,
        "mix": "core" if prompts == "brief" else "all",
        "system": {"prompts": prompts},
        "simulate": {"conversations": conversations},
    }
    config.write_text(json.dumps(settings), encoding="utf-8")
    say("bench", f"corpora of {conversations:,} conversations, {prompts} prompts")
    with log.open("wb") as stream:
        done = subprocess.run(
            [sys.executable, "-m", "cluster", "run", str(config), "--until", "base"],
            cwd=folder, env={**python_path(), "TERM": "dumb"}, stdout=stream, stderr=stream, check=False,
        )  # fmt: skip
    if done.returncode != 0:
        raise BenchFailed(f"the corpora could not be made; the end of {log}: {log.read_text(errors='replace')[-1500:]}")
    return Run.open(folder / "runs" / "corpora")


def python_path() -> dict[str, str]:
    """This process's environment, with these sources first on Python's path: what a process beside it is given."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}


def put_model(model: str, source: Run, target: Path, seed: int) -> None:
    """Put the model that is trained into `target`: the run's base, a named shape with random weights, or a folder.

    A shape gets the tokenizer of the run's base; its vocabulary is larger, as a real one would be.

    Raises:
        BenchFailed: when `model` is neither.
    """
    base = source.root / "models" / "base"
    if model == SHIPPED:
        shutil.copytree(base, target)
    elif model in SHAPES:
        _random_model(SHAPES[model], base, target, seed)
    elif (Path(model) / "config.json").is_file():
        shutil.copytree(model, target)
    else:
        known = ", ".join((SHIPPED, *SHAPES))
        raise BenchFailed(f"--model {model} is no model folder and no shape; give a folder or one of {known}")


def _random_model(shape: Mapping[str, int], base: Path, target: Path, seed: int) -> None:
    """A Llama of this shape with random weights in bf16; made on the GPU where there is one, which takes seconds."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from raytrain.merge import copy_tokenizer

    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    config = LlamaConfig(
        **shape, bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    target.mkdir(parents=True)
    model.save_pretrained(target)
    copy_tokenizer(base, target)
    del model
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def put_rows(stage: str, settings: StageSettings, source: Run, run: Run, model: Path, *, steps: int, seed: int) -> int:
    """Write corpora/<stage> of `run`: rows of `source` for about `steps` steps, drawn at random, none over the limit.

    Returns how many.

    Raises:
        BenchFailed: when the corpus has fewer rows than that.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    file = source.root / "corpora" / stage / "train.parquet"
    table = pq.read_table(file)
    order = np.random.default_rng(seed).permutation(len(table))
    budget = steps * settings.worker.workers * settings.accumulate * settings.tokens_per_batch
    kept, tokens = list[int](), 0
    for start in range(0, len(order), READ_AT_ONCE):
        part = order[start : start + READ_AT_ONCE]
        for row, lengths in zip(part, _lengths(table.take(part).to_pylist(), tokenizer, file), strict=True):
            if max(lengths) <= settings.max_length and tokens < budget:
                kept.append(int(row))
                tokens += sum(lengths)
    if tokens < budget:
        raise BenchFailed(
            f"{steps} steps of {stage} take {budget:,} tokens and the run has {tokens:,} in rows of at most "
            f"{stage}.max_length={settings.max_length}; give --steps fewer, or a run with more conversations"
        )
    pq.write_table(table.take(kept), run.path("corpora", stage, "train.parquet"))
    heldout = pq.read_table(file.with_name("heldout.parquet"))
    pq.write_table(heldout.slice(0, HELDOUT_ROWS), run.path("corpora", stage, "heldout.parquet"))
    return len(kept)


def _lengths(rows: list[dict[str, Any]], tokenizer: Any, file: Path) -> list[list[int]]:
    """The tokens of each answer of each row, with its prompt: one of a completion, two of a pair."""
    sides = [name for name in ("completion", "chosen", "rejected") if name in rows[0]]
    each = [tokenise_rows([{**row, "completion": row[side]} for row in rows], tokenizer, file) for side in sides]
    return [[len(ids) for ids, _, _ in answers] for answers in zip(*each, strict=True)]
