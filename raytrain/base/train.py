"""Trains the base: plain torch on one process, from heads that already copy, on practice and some pure copying.

AdamW, a constant learning rate with a linear end, a compiled model. The last checkpoint is taken up again; `steps`
may change on the way, which moves the end of the schedule. Seen while making it, one run each: from a plain
start at 2e-3, 700 steps of pure copying and 900 of practice taught the formats and no copying (whether the start or
the rate was at fault was not told apart); from the written circuit, 1.5e-3 lost it within 100 steps and 5e-4 kept it.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from agentmill.lineage import git_commit
from agentmill.log import say
from raytrain.base.grow import deepen
from raytrain.base.induction import write_induction
from raytrain.base.material import Batch, copying, packed, practice

COPY_EVERY = 24  # a batch of copying stays in the practice at this interval
ATTENTION = "eager"  # plain products: torch's fused kernel for the CPU took 1.3 times the CPU seconds of a step
HIDDEN = torch.tensor(-1e9, dtype=torch.bfloat16)


@dataclass(frozen=True)
class Schedule:
    """`steps` in all, the first `copy_steps` on copying alone; `peak` is the highest learning rate."""

    steps: int
    copy_steps: int
    peak: float
    seed: int

    def learning_rate(self, step: int) -> float:
        """200 steps of warm-up, constant, then linear to a twentieth over the last quarter."""
        if step < 200:
            return self.peak * (step + 1) / 200
        return self.peak * max(0.05, min(1.0, (self.steps - step) / (0.25 * self.steps)))


@dataclass
class Progress:
    """Where training stands: optimiser steps done, seconds spent over all attempts, the loss curve.

    `attempts` names the step and the commit of every start, because the practice may be improved between two.
    """

    step: int = 0
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)
    attempts: list[dict[str, int | str]] = field(default_factory=list)


def loss_of(model: Any, batch: Batch) -> torch.Tensor:
    """Weighted mean cross-entropy of the next token, in nats."""
    unseen = HIDDEN * ~batch.mask
    with torch.autocast("cpu", torch.bfloat16):
        out = model(input_ids=batch.ids, position_ids=batch.positions, attention_mask=unseen, use_cache=False)
    weights = batch.weights[:, 1:]
    losses = functional.cross_entropy(
        out.logits[:, :-1].float().flatten(0, 1), batch.ids[:, 1:].flatten(), reduction="none"
    )
    return (losses * weights.flatten()).sum() / weights.sum()


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Six layers, width 192, four heads of 64 with keys and values of their own: 3.3 million parameters.

    A rotary base of 100,000 leaves half of each head steady over a prompt, which `write_induction` needs.
    """
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=192, intermediate_size=512, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=4, head_dim=64, max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0}, rms_norm_eps=1e-5, tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def first_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """An untrained model whose heads copy."""
    model = new_model(tokenizer)
    write_induction(model, seed)
    return model


def optimizer_of(model: LlamaForCausalLM, peak: float) -> torch.optim.AdamW:
    """AdamW that decays matrices and leaves norms alone."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    norms = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": norms, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98), fused=True)


def save(path: Path, model: LlamaForCausalLM, optimizer: torch.optim.AdamW, progress: Progress) -> None:
    """Replace the checkpoint at `path` in one step."""
    state: dict[str, Any] = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), **vars(progress)}
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def resume(path: Path, model: LlamaForCausalLM, optimizer: torch.optim.AdamW) -> Progress:
    """Load the checkpoint at `path` where there is one."""
    if not path.exists():
        return Progress()
    kept = torch.load(path, weights_only=True)
    model.load_state_dict(kept["model"])
    optimizer.load_state_dict(kept["optimizer"])
    return Progress(kept["step"], kept["seconds"], kept["curve"], kept["attempts"])


def batches(tokenizer: PreTrainedTokenizerFast, schedule: Schedule, start: int) -> Iterator[tuple[Batch, bool]]:
    """From step `start` on: each step's batch, and whether its loss belongs to the curve of the phase."""
    seed = schedule.seed + start
    tasks, copies = packed(practice(tokenizer, seed)), packed(copying(len(tokenizer), seed))
    for step in range(start, schedule.steps):
        practised = step >= schedule.copy_steps and step % COPY_EVERY != 0
        yield next(tasks) if practised else next(copies), practised or step < schedule.copy_steps


def train(
    tokenizer: PreTrainedTokenizerFast,
    schedule: Schedule,
    checkpoint: Path,
    start: Path | None = None,
    blocks: int | None = None,
) -> tuple[LlamaForCausalLM, Progress]:
    """Train to the end of `schedule`, from `checkpoint` where it exists, else from the model in `start`, else anew.

    With `blocks` the model is grown to that many blocks first.
    """
    torch.manual_seed(schedule.seed)
    model = first_model(tokenizer, schedule.seed) if start is None else LlamaForCausalLM.from_pretrained(start)
    model = model.float()
    if blocks is not None:
        deepen(model, blocks)
    model.set_attn_implementation(ATTENTION)
    optimizer = optimizer_of(model, schedule.peak)
    progress = resume(checkpoint, model, optimizer)
    progress.attempts.append({"from_step": progress.step, "commit": git_commit()})
    compiled = torch.compile(model, dynamic=False)
    before, began, tokens, mean = progress.seconds, time.monotonic(), 0, math.nan
    for batch, counted in batches(tokenizer, schedule, progress.step):
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate(progress.step)
        loss = loss_of(compiled, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tokens += batch.tokens
        if counted:
            fresh = math.isnan(mean) or progress.step == schedule.copy_steps
            mean = loss.item() if fresh else 0.98 * mean + 0.02 * loss.item()
        progress.step += 1
        progress.seconds = before + time.monotonic() - began
        if progress.step % 50 == 0:
            progress.curve.append({"step": progress.step, "loss": mean, "seconds": progress.seconds})
            rate = tokens / (time.monotonic() - began)
            say(
                "base",
                f"step {progress.step}/{schedule.steps} loss {mean:.4f} {rate:.0f} tokens/s {progress.seconds:.0f} s",
            )
        if progress.step % 200 == 0 or progress.step == schedule.steps:
            save(checkpoint, model, optimizer, progress)
    return model, progress
