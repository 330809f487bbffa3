"""Quantising a drafter, in a process of its own: calibrate, save, look at what it cost. Its memory is gone with it.

A drafter is quantised for the student in 8 bits, whose states it will see: these are what it is calibrated and judged
on, and the saved configuration names that student. Its layer and the projection of the states are brought to 8 bits;
its head, small as it is, and what it has of the student's stay as they are. FP8 is calibrated in as many steps of
training-time test as there are drafted tokens, since each meets states of another kind.

The key-value cache has no scheme of its own: where the student's is FP8, vLLM keeps the drafter's in FP8 too, with a
scale of 1. Behind norms, keys and values are far below E4M3's largest number, 448, and a scale makes no floating type
finer.

What it costs is the mean generated length on answers of the student's, before and after, without an engine
(raytrain.drafter.acceptance); so an FP8 drafter is judged on a CPU, where no engine runs it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, PreTrainedModel

from raytrain import attention
from raytrain.batches import Plan
from raytrain.data import TokenRows
from raytrain.drafter.acceptance import guessing, tokens_and_passes
from raytrain.drafter.model import load_drafter_for_scoring
from raytrain.drafter.sources import Online
from raytrain.folders import copy_tokenizer
from raytrain.hardware import Placement
from raytrain.memory import peak_mib, peak_rise
from raytrain.packing import PackedCollator, best_fit
from raytrain.quantize.clip import Clipped, watched
from raytrain.quantize.ranges import saved_ranges
from raytrain.quantize.scheme import HEAD, check_saved, recipe
from raytrain.quantize.work import quieten
from raytrain.settings import DrafterSettings, Scheme

LEFT_OUT = (HEAD, "verifier_lm_head")


@dataclass(frozen=True)
class DrafterOrder:
    """What is quantised, for which student in 8 bits, and how. `calibration` and `heldout` are folders of token rows,
    the latter answers of the student's; `tokens_per_batch` is of the former, `settings` are the drafter's own."""

    drafter: Path
    student: Path
    out: Path
    scheme: Scheme
    calibration: Path
    heldout: Path
    tokens_per_batch: int
    settings: DrafterSettings
    placement: Placement


@dataclass(frozen=True)
class QuantisedDrafter:
    """What quantising cost: mean generated length and the drafts that it is of, before and after; `peak_mib` is by how
    much the process grew, `peak_gib` its size then. `clipped` as in raytrain.quantize.work, by layer alone."""

    bf16: tuple[float, int]
    quantized: tuple[float, int]
    peak_mib: float
    peak_gib: float
    clipped: Clipped | None


def quantise_drafter(order: DrafterOrder) -> QuantisedDrafter:
    """Write the quantised drafter into `order.out`, an empty folder."""
    torch.set_num_threads(order.placement.threads)
    attention.register()
    heldout, static = TokenRows.load(order.heldout), order.scheme == "fp8"
    # speculators compiles the drafter's forward pass on a GPU, and observers are no part of what is compiled
    with peak_rise() as risen, torch.compiler.set_stance("force_eager"):
        drafter = beside(load_drafter_for_scoring(order.drafter, order.placement), order.student)
        before = _mgl(drafter, heldout, order)
        save_in_8_bits(drafter, order.scheme, order.out, _calibration(drafter, order) if static else None)
        del drafter
        copy_tokenizer(order.drafter, order.out)
        saved = load_drafter_for_scoring(order.out, order.placement)
        after = _mgl(saved, heldout, order)
        clipped = _count_clipped(saved, heldout, order) if static else None
        return QuantisedDrafter(before, after, risen(), peak_mib() / 1024, clipped)


def beside(drafter: PreTrainedModel, student: Path) -> PreTrainedModel:
    """The same drafter, drafting for the student in this folder."""
    drafter.config.speculators_config.verifier.name_or_path = str(student.resolve())
    return drafter


def save_in_8_bits(drafter: PreTrainedModel, scheme: Scheme, out: Path, seen: DataLoader | None) -> None:
    """Bring a drafter to 8 bits and save it; FP8 is calibrated on what is `seen`, and INT8 on nothing.

    Raises:
        WrongScheme: when what was saved is not what the recipe says.
    """
    from llmcompressor import oneshot
    from llmcompressor.core import active_session

    quieten()
    student = drafter.config.speculators_config.verifier.name_or_path
    oneshot(
        model=drafter,
        tokenizer=AutoTokenizer.from_pretrained(student, local_files_only=True),
        recipe=recipe(scheme, kv_cache=False, left_out=LEFT_OUT),
        dataset=seen,
        pipeline="datafree" if seen is None else "basic",
    )
    drafter.save_pretrained(str(out), save_compressed=True)
    active_session().reset()  # it holds the model
    check_saved(out, scheme, kv_cache=False, left_out=LEFT_OUT)


def _calibration(drafter: PreTrainedModel, order: DrafterOrder) -> DataLoader:
    """What the drafter is given of packed calibration rows, one pack after another."""
    rows = TokenRows.load(order.calibration)
    steps = torch.tensor(order.settings.draft_tokens)  # llm-compressor passes on tensors alone
    packs = best_fit(rows.lengths, np.arange(len(rows)), max(order.tokens_per_batch, int(rows.lengths.max())))

    def given(pack: list[int]) -> dict[str, torch.Tensor]:
        (inputs,) = given_to(drafter, rows, [pack], order)
        return {**inputs, "ttt_steps": steps}

    return DataLoader(packs, batch_size=None, collate_fn=given)


def given_to(drafter: PreTrainedModel, rows: TokenRows, packs: Plan, order: DrafterOrder) -> Iterator[dict[str, Any]]:
    """What the drafter is given of each pack of these rows to guess."""
    packed = PackedCollator(rows, 0)
    for row, states in Online(drafter, order.placement).each(packed.tensors(pack) for pack in packs):
        yield guessing(row, states)


def _mgl(drafter: PreTrainedModel, rows: TokenRows, order: DrafterOrder) -> tuple[float, int]:
    """The mean generated length over the answers of these rows, and how many drafts were made."""
    tokens, passes = tokens_and_passes(drafter, rows, order.settings, order.placement).sum(axis=0)
    return float(tokens / max(1, passes)), int(passes)


@torch.no_grad()
def _count_clipped(drafter: PreTrainedModel, rows: TokenRows, order: DrafterOrder) -> Clipped:
    """What the calibrated ranges clip of these rows, every step of training-time test counted."""
    ranges, found = saved_ranges(order.out), Clipped()

    def look(name: str, inputs: torch.Tensor) -> None:
        counts = found.by_layer.setdefault(name, [0, 0])
        counts[0] += int((inputs.abs().float() > ranges[name]).sum())
        counts[1] += inputs.numel()

    with watched(drafter, look):
        packs = best_fit(rows.lengths, np.arange(len(rows)), order.settings.tokens_per_batch)
        for inputs in given_to(drafter, rows, packs, order):
            drafter(**inputs, ttt_steps=order.settings.draft_tokens)
    return found
