"""The base's training material as batches: random spans said again and again, then practice.

Every batch has one length out of LENGTHS, so that a compiled model sees four shapes and little padding.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import torch
from transformers import PreTrainedTokenizerFast

from raytrain.base.tasks import sample
from raytrain.base.tokenizer import SPECIAL_TOKENS, render

LENGTHS = (96, 144, 224, 368)  # tokens; a longer example is left out
TOKENS = 4096  # a batch
PROMPT_WEIGHT = 0.1  # of the loss on prompt tokens, against 1 on the completion


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
    """Endless batches of random spans said again and again, loss from the second time on.

    This is what makes a tiny model learn to copy; short spans come back often and some tokens are common (Zipf),
    which is where it starts.
    """
    generator = torch.Generator().manual_seed(seed)
    length = LENGTHS[0]
    tokens = torch.randperm(vocab_size - len(SPECIAL_TOKENS), generator=generator) + len(SPECIAL_TOKENS)
    likelihood = 1.0 / (torch.arange(len(tokens)) + 20.0)
    while True:
        span = int(torch.randint(6, length // 2 + 1, (1,), generator=generator))
        rows = TOKENS // length
        once = tokens[torch.multinomial(likelihood, rows * span, replacement=True, generator=generator)].view(
            rows, span
        )
        ids = once.repeat(1, length // span + 1)[:, :length].contiguous()
        weights = torch.ones(ids.shape)
        weights[:, :span] = 0.0
        yield Batch(ids, weights)
