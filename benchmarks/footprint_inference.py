"""`agentmill bench memory`, the cases of inference: a drafter is trained, or a model brought to 8 bits, on the CPU.

Runs in a process of its own, with the stage's own trainer or work, for a student of random weights and rows of random
tokens. Rows differ in length as agents' calls do: each length has products of its own, whose compiled code stays
(raytrain.footprint), so that a drafter is trained for so many steps that it does not grow much more.
"""

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from raytrain.data import TokenRows
from raytrain.hardware import Placement
from raytrain.settings import DrafterSettings, QuantizeSettings, WorkerSettings

DRAFTER, QUANTIZE = "drafter", "quantize"
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "demo": {
        "vocab_size": 1536, "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 10,
        "num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": True,
    },
    "200m": {
        "vocab_size": 32000, "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 14,
        "num_attention_heads": 16, "num_key_value_heads": 8, "tie_word_embeddings": True,
    },
}  # fmt: skip
STEPS: Mapping[str, int] = {"demo": 120, "200m": 40}
ROWS, QUANTIZE_ROWS = 600, 48
CASES = {f"{what}_{shape}": (what, shape) for shape in SHAPES for what in (DRAFTER, QUANTIZE)}
PLACEMENT = Placement("cpu", 1, "bf16")


def random_rows(count: int, vocabulary: int) -> TokenRows:
    """Rows of 60 to 400 tokens, a third of them the answer; few tokens are frequent, as in a text."""
    draw = np.random.default_rng(0)
    lengths = draw.integers(60, 400, size=count)
    tokens = np.minimum(draw.zipf(1.3, size=int(lengths.sum())), vocabulary) - 1
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return TokenRows(tokens.astype(np.int32), offsets, (lengths * 2 // 3).astype(np.int32), ("row",) * count)


def _student(folder: Path, shape: Mapping[str, Any]) -> Path:
    """A Llama of this shape in a process of its own, so that making it leaves nothing here."""
    import subprocess

    code = (
        "import sys, json, torch; from transformers import LlamaConfig, LlamaForCausalLM\n"
        "LlamaForCausalLM(LlamaConfig(**json.loads(sys.argv[2]))).to(torch.bfloat16).save_pretrained(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", code, str(folder), json.dumps(dict(shape))], check=True, capture_output=True)
    return folder


def _drafter(work: Path, shape: str) -> dict[str, float]:
    """GiB: the process before there is a model, its peak after training, and what is told before, the process
    included."""
    import psutil
    from datasets import Dataset
    from transformers import TrainingArguments

    from raytrain import attention
    from raytrain.drafter.footprint import draft_footprint
    from raytrain.drafter.model import load_drafter, make_drafter
    from raytrain.drafter.training import DraftTrainer, PlaceCollator
    from raytrain.footprint import KERNELS_GIB
    from raytrain.hardware import peak_memory_gib
    from raytrain.packing import plan_packs
    from raytrain.preflight import PROCESS_GIB, drafted_tokens, largest_of
    from raytrain.shape import read_shape
    from raytrain.trainer import deepspeed_config, skip_shared_memory_op

    attention.register()
    skip_shared_memory_op()
    rows = random_rows(ROWS, SHAPES[shape]["vocab_size"])
    worker = WorkerSettings(workers=1, device="cpu", threads=1)
    settings = DrafterSettings(worker=worker, patience=None, contract=False)
    plan = plan_packs(rows.lengths, settings.tokens_per_batch, 1, 3, 0)[: STEPS[shape]]
    student = _student(work / "student", SHAPES[shape])
    before = psutil.Process().memory_info().rss / 2**30
    make_drafter(student, settings, rows, work / "drafter", seed=0)
    arguments = TrainingArguments(
        output_dir=str(work / "trainer"),
        deepspeed=deepspeed_config(worker, "bf16"),
        bf16=True,
        use_cpu=True,
        per_device_train_batch_size=1,
        max_steps=len(plan),
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        optim="adamw_torch_fused",
        save_strategy="no",
        disable_tqdm=True,
        report_to="none",
    )
    trainer = DraftTrainer(
        model=load_drafter(work / "drafter", PLACEMENT),
        args=arguments,
        data_collator=PlaceCollator(rows, 0),
        train_dataset=Dataset.from_dict({"rows": plan, "place": list(range(len(plan)))}),
    )
    job: Any = SimpleNamespace(settings=settings, placement=PLACEMENT)
    trainer.equip(job)
    trainer.train()
    model = replace(read_shape(student), drafted=drafted_tokens(work / "drafter"))
    parts = draft_footprint(model, settings, largest_of(rows, plan, packed=True), on_gpu=False)
    return {"before": before, "peak": peak_memory_gib(), "told": parts.total + KERNELS_GIB + PROCESS_GIB}


def _quantise(work: Path, shape: str) -> dict[str, float]:
    """GiB as `_drafter` has them, of INT8. Rows are few: how many are looked at takes time and no memory."""
    from raytrain.quantize.estimate import estimate_gib
    from raytrain.quantize.work import Order, quantise

    settings = QuantizeSettings()
    rows = random_rows(QUANTIZE_ROWS, SHAPES[shape]["vocab_size"])
    rows.save(work / "rows")
    student = _student(work / "student", SHAPES[shape])
    (work / "model").mkdir()
    order = Order(
        model=student,
        out=work / "model",
        scheme="int8",
        kv_cache=False,
        calibration=work / "rows",
        heldout=work / "rows",
        tokens_per_batch=settings.tokens_per_batch,
        placement=PLACEMENT,
    )
    found = quantise(order)
    told = estimate_gib(student, "int8", rows, rows, settings.tokens_per_batch)
    before = found.peak_gib - found.peak_mib / 1024
    return {"before": before, "peak": found.peak_gib, "told": told}


def main() -> None:
    """The child's whole work: the name of a case in, sizes out."""
    from raytrain.worker import ON_CORES

    what, shape = CASES[sys.argv[1]]
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    os.environ.update({"ACCELERATE_USE_CPU": "true", **alone, **(ON_CORES if what == DRAFTER else {})})
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="agentmill-") as folder:
        print(json.dumps((_drafter if what == DRAFTER else _quantise)(Path(folder), shape)))


if __name__ == "__main__":
    main()
