"""Quantising in a process of its own: calibrate, save, look at what it cost. Its memory is gone with it.

FP8 needs calibration rows, each as one sequence; INT8 takes activations as they come and reads none. What is saved is
compressed-tensors' format with the tokenizer beside it, and for FP8 ranges.json, which a served engine is compared
with. Held-out rows are scored with the weights as they were and as they are saved, by transformers alone, on whatever
this is: an FP8 folder is judged on a CPU, where no engine runs it.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from raytrain.data import TokenRows
from raytrain.folders import copy_tokenizer, from_folder
from raytrain.hardware import Placement
from raytrain.memory import peak_mib, peak_rise
from raytrain.quantize.clip import Clipped, count_clipped
from raytrain.quantize.ranges import saved_ranges, write_ranges
from raytrain.quantize.scheme import check_saved, recipe
from raytrain.settings import Scheme


@dataclass(frozen=True)
class Order:
    """What is quantised and how. `calibration` and `heldout` are folders of token rows (raytrain.data)."""

    model: Path
    out: Path
    scheme: Scheme
    kv_cache: bool
    calibration: Path
    heldout: Path
    tokens_per_batch: int
    placement: Placement

    @property
    def device(self) -> str:
        """Where the model computes, by torch's name."""
        return "cuda" if self.placement.device == "gpu" else "cpu"


@dataclass(frozen=True)
class Quantised:
    """What quantising cost. Losses are in nats a token, over `tokens` of them; `peak_mib` is by how much the process
    grew, `peak_gib` its size then. `clipped` is what held-out rows have outside of the static ranges: None with INT8,
    whose scales follow every token."""

    bf16: float
    quantized: float
    tokens: int
    peak_mib: float
    peak_gib: float
    clipped: Clipped | None


Found = TypeVar("Found")


def in_process(work: Callable[[], Found], out: Path, placement: Placement) -> Found:
    """What `work` finds, in a Ray task of its own, after the folder `out` was made empty for it."""
    import ray

    task = ray.remote(num_cpus=1, num_gpus=1 if placement.device == "gpu" else 0, max_retries=0)(_in_empty_folder)
    found: Found = ray.get(task.remote(work, out))
    return found


def _in_empty_folder(work: Callable[[], Found], out: Path) -> Found:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    return work()


def quantise(order: Order) -> Quantised:
    """Write the quantised model into `order.out`, an empty folder."""
    import torch
    from llmcompressor import oneshot
    from llmcompressor.core import active_session

    quieten()
    torch.set_num_threads(order.placement.threads)
    with peak_rise() as risen:
        model = load_folder(order.model).to(order.device)
        static = order.scheme == "fp8"
        rows = TokenRows.load(order.calibration)
        oneshot(
            model=model,
            recipe=recipe(order.scheme, kv_cache=order.kv_cache),
            dataset=_dataset(rows) if static else None,
            num_calibration_samples=len(rows),
            max_seq_length=int(rows.lengths.max()),
            pipeline="basic" if static else "datafree",
        )
        model.save_pretrained(str(order.out), save_compressed=True)
        active_session().reset()  # it holds the model, and what is looked at now is read again
        del model
        copy_tokenizer(order.model, order.out)
        check_saved(order.out, order.scheme, kv_cache=order.kv_cache)
        heldout = TokenRows.load(order.heldout)
        before, tokens = _loss(_for_scoring(order.model, order), heldout, order)
        saved = _for_scoring(order.out, order)
        after, _ = _loss(saved, heldout, order)
        clipped = None
        if static:
            ranges = saved_ranges(order.out)
            write_ranges(order.out, ranges)
            clipped = count_clipped(saved, heldout, {"": ranges}, (0,))[""]
        return Quantised(before, after, tokens, risen(), peak_mib() / 1024, clipped)


def _dataset(rows: TokenRows) -> Any:
    from datasets import Dataset

    ids = [rows.row(index)[0].tolist() for index in range(len(rows))]
    return Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(one) for one in ids]})


def _for_scoring(folder: Path, order: Order) -> Any:
    return load_folder(folder).eval().to(order.device)


def _loss(model: Any, rows: TokenRows, order: Order) -> tuple[float, int]:
    """Mean loss of held-out completions, and how many tokens they have."""
    import torch

    from raytrain.batches import in_order
    from raytrain.trainer import losses_of

    with torch.no_grad():
        found = [losses for _, losses in losses_of(model, rows, in_order(rows.lengths, order.tokens_per_batch))]
    every = torch.cat(found)
    return float(every.mean()), len(every)


def load_folder(folder: Path) -> Any:
    """The model of a folder that may be quantised: its weights in bf16 as they come out of 8 bits, activations rounded
    to 8 bits on their way."""
    import torch
    from transformers import AutoModelForCausalLM

    return from_folder(AutoModelForCausalLM, folder, dtype=torch.bfloat16)


def quieten() -> None:
    """Keep llm-compressor from telling every step of its recipe."""
    from loguru import logger

    logger.remove()
