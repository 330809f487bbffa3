"""Makes the small base: tokenizer, copy curriculum, practice; writes `weights/` with a record of how it was made.

Plain torch on one process, since it runs once: batches of one length each (compiled once a length), AdamW, a constant
learning rate with a linear end. Resumes from its last checkpoint; `--steps` may change on the way.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from raytrain.base import WEIGHTS
from raytrain.base.tasks import sample
from raytrain.base.tokenizer import render, train_tokenizer

LENGTHS = (96, 128, 176, 256, 400)  # tokens; a longer example is left out
TOKENS = 8192  # a batch
PROMPT_WEIGHT = 0.1  # of the loss on prompt tokens, against 1 on the completion
HELD_OUT_SEED = 1_000_003


@dataclass(frozen=True)
class Batch:
    """`ids` [batch, sequence]; `weights` [batch, sequence] of each token as a target, 0 where padded."""

    ids: torch.Tensor
    weights: torch.Tensor


def _encode(tokenizer: PreTrainedTokenizerFast, rng: Random) -> tuple[list[int], int]:
    prompt, completion = render(*sample(rng))
    head = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    return head + tokenizer(completion, add_special_tokens=False)["input_ids"], len(head)


def practice(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[Batch]:
    """Endless batches of practice, each of one length from LENGTHS and about TOKENS tokens."""
    rng = Random(seed)
    pools: dict[int, list[tuple[list[int], int]]] = {length: [] for length in LENGTHS}
    while True:
        ids, head = _encode(tokenizer, rng)
        length = next((n for n in LENGTHS if len(ids) <= n), None)
        if length is None:
            continue
        pools[length].append((ids, head))
        if len(pools[length]) == TOKENS // length:
            rows, pools[length] = pools[length], []
            weights = [[PROMPT_WEIGHT] * h + [1.0] * (len(i) - h) + [0.0] * (length - len(i)) for i, h in rows]
            yield Batch(torch.tensor([i + [0] * (length - len(i)) for i, _ in rows]), torch.tensor(weights))


def copying(vocab_size: int, seed: int) -> Iterator[Batch]:
    """Endless batches of random tokens said twice, loss on the second time: what makes a tiny model learn to copy."""
    generator = torch.Generator().manual_seed(seed)
    length = LENGTHS[0]
    while True:
        span = int(torch.randint(16, length // 2 + 1, (1,), generator=generator))
        once = torch.randint(5, vocab_size, (TOKENS // length, span), generator=generator)
        ids = torch.zeros(TOKENS // length, length, dtype=torch.long)
        ids[:, : 2 * span] = torch.cat([once, once], dim=1)
        weights = torch.zeros(ids.shape)
        weights[:, span : 2 * span] = 1.0
        yield Batch(ids, weights)


def loss_of(model: Any, batch: Batch) -> torch.Tensor:
    """Weighted mean cross-entropy of the next token, in nats."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=batch.ids, use_cache=False).logits[:, :-1]
    weights = batch.weights[:, 1:]
    losses = functional.cross_entropy(logits.float().flatten(0, 1), batch.ids[:, 1:].flatten(), reduction="none")
    return (losses * weights.flatten()).sum() / weights.sum()


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Eight layers, width 192, six heads over two key-value heads: 3.5 million parameters."""
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=192, intermediate_size=512, num_hidden_layers=8, num_attention_heads=6,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=2048, rms_norm_eps=1e-5, tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def learning_rate(step: int, steps: int, peak: float) -> float:
    """100 steps of warm-up, constant, then linear to a twentieth over the last quarter."""
    if step < 100:
        return peak * (step + 1) / 100
    left = (steps - step) / (0.25 * steps)
    return peak * max(0.05, min(1.0, left))


def exact_share(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, count: int) -> dict[str, float]:
    """Share of held-out practice answered to the letter (greedy), by the first word of the system text."""
    rng, tallies = Random(HELD_OUT_SEED), dict[str, list[bool]]()
    model.eval()
    for _ in range(count):
        system, user, completion = sample(rng)
        prompt, _ = render(system, user, "")
        ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=160, do_sample=False)
        said = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        tallies.setdefault(system.split()[0], []).append(said == completion)
    model.train()
    return {name: sum(hits) / len(hits) for name, hits in tallies.items()}


def train(tokenizer: PreTrainedTokenizerFast, steps: int, copy_steps: int, peak: float, seed: int, scratch: Path) -> tuple[LlamaForCausalLM, dict[str, Any]]:
    """Train for `steps` in all, the first `copy_steps` on copying alone; returns the model and what was measured."""
    torch.manual_seed(seed)
    model = new_model(tokenizer)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98), fused=True)
    start, seconds, curve = 0, 0.0, list[dict[str, float]]()
    checkpoint = scratch / "checkpoint.pt"
    if checkpoint.exists():
        kept = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        start, seconds, curve = kept["step"], kept["seconds"], kept["curve"]
    compiled = torch.compile(model, dynamic=False)
    tasks, copies = practice(tokenizer, seed + start), copying(len(tokenizer), seed + start)
    mean, began, tokens = math.nan, time.monotonic(), 0
    for step in range(start, steps):
        batch = next(copies) if step < copy_steps or step % 25 == 0 else next(tasks)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak)
        loss = loss_of(compiled, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tokens += batch.ids.numel()
        if step < copy_steps or step % 25:
            mean = loss.item() if math.isnan(mean) or step == copy_steps else 0.98 * mean + 0.02 * loss.item()
        if (step + 1) % 50 == 0:
            elapsed = seconds + time.monotonic() - began
            curve.append({"step": step + 1, "loss": mean, "seconds": elapsed})
            rate = tokens / (time.monotonic() - began)
            print(f"base step {step + 1}/{steps} loss {mean:.4f} tokens/s {rate:.0f} seconds {elapsed:.0f}", flush=True)
        if (step + 1) % 200 == 0 or step + 1 == steps:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            torch.save({**state, "seconds": seconds + time.monotonic() - began, "curve": curve}, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)
    return model, {"steps": steps, "copy_steps": copy_steps, "seconds": round(seconds + time.monotonic() - began), "curve": curve}


def main(argv: list[str] | None = None) -> None:
    """Make the base and write it to `--out` (the shipped folder unless another is named)."""
    parser = argparse.ArgumentParser(prog="agentmill base", description=__doc__)
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder to write (default: the package data)")
    parser.add_argument("--scratch", type=Path, default=Path("runs/base"), help="folder of the checkpoint")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--copy-steps", type=int, default=800)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--vocabulary", type=int, default=1536)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args(argv)
    args.scratch.mkdir(parents=True, exist_ok=True)
    rng = Random(args.seed)
    tokenizer = train_tokenizer(("".join(render(*sample(rng))) for _ in range(60_000)), args.vocabulary)
    model, record = train(tokenizer, args.steps, args.copy_steps, args.learning_rate, args.seed, args.scratch)
    record["held_out_exact"] = exact_share(model, tokenizer, 300)
    record |= {
        "command": "agentmill base " + " ".join(argv if argv is not None else sys.argv[1:]),
        "parameters": model.num_parameters(),
        "torch": torch.__version__,
        "material": "generated by raytrain.base.tasks: made-up venues only",
        "license": "Apache-2.0",
    }
    model.to(torch.bfloat16).save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    (args.out / "base.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"base written to {args.out}: exact on held-out practice {record['held_out_exact']}")


if __name__ == "__main__":
    main()
