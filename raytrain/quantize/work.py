"""Quantising in a process of its own: calibrate, save, look at what it cost. Its memory is gone with it.

FP8 needs calibration rows, each as one sequence; INT8 takes activations as they come and reads none. What is saved is
compressed-tensors' format with the tokenizer beside it. Held-out rows are scored with the weights as they were and as
they are saved, by transformers alone, on whatever this is: an FP8 folder is judged on a CPU, where no engine runs it.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raytrain.data import TokenRows
from raytrain.folders import copy_tokenizer
from raytrain.hardware import Placement
from raytrain.memory import peak_mib, peak_rise
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


def quantise(order: Order) -> dict[str, float]:
    """Write the quantised model into `order.out`, an empty folder; returns losses in nats a token by name (bf16,
    quantized) with the number of tokens, peak_mib, by how much this process grew for all of it, and peak_gib, its size
    then."""
    import torch
    from llmcompressor import oneshot
    from llmcompressor.core import active_session

    _quieten()
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
        before, tokens = _loss(order.model, order)
        after, _ = _loss(order.out, order)
        peaks = {"peak_mib": risen(), "peak_gib": peak_mib() / 1024}
    return {"bf16": before, "quantized": after, "tokens": float(tokens), **peaks}


def _dataset(rows: TokenRows) -> Any:
    from datasets import Dataset

    ids = [rows.row(index)[0].tolist() for index in range(len(rows))]
    return Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(one) for one in ids]})


def _loss(folder: Path, order: Order) -> tuple[float, int]:
    """Mean loss of held-out completions, and how many tokens they have."""
    import torch

    from raytrain.batches import in_order
    from raytrain.trainer import losses_of

    model = load_folder(folder).eval().to(order.device)
    rows = TokenRows.load(order.heldout)
    with torch.no_grad():
        found = [losses for _, losses in losses_of(model, rows, in_order(rows.lengths, order.tokens_per_batch))]
    every = torch.cat(found)
    return float(every.mean()), len(every)


def load_folder(folder: Path) -> Any:
    """The model of a folder that may be quantised: its weights in bf16 as they come out of 8 bits, activations rounded
    to 8 bits on their way."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, CompressedTensorsConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    whole = {"quantization_config": CompressedTensorsConfig(run_compressed=False)}
    quantised = getattr(config, "quantization_config", None) is not None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You passed `quantization_config`")  # transformers says what we want
        return AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.bfloat16, local_files_only=True, **(whole if quantised else {})
        )


def _quieten() -> None:
    """Keep llm-compressor from telling every step of its recipe."""
    from loguru import logger

    logger.remove()
