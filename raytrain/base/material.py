"""The base's training material as packed batches: random spans said again and again, then practice.

A row holds several examples after each other that do not see one another. Measured on 4,000 examples of practice: in
rows of four lengths, one example each, 22 % of the tokens were padding; packed it is about 5 %. A compiled model sees
two shapes, the longer one for examples that do not fit into a row of the other: attention in plain products over rows
of 512 takes a third more CPU seconds a token than over rows of 256.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import torch
from transformers import PreTrainedTokenizerFast

from raytrain.base.tasks import sample
from raytrain.base.tokenizer import SPECIAL_TOKENS, render

ROWS, LENGTH = 16, 256  # of a batch
LONG_ROWS, LONG = 8, 512  # of a batch of longer examples; one longer still is left out
WAITING = 12  # examples that may wait for a row with room
PROMPT_WEIGHT = 0.1  # of the loss on prompt tokens, against 1 on the completion
SPAN = (6, 64)  # tokens that copying repeats

Example = tuple[list[int], list[float]]  # token ids, and the weight of each as a target


@dataclass(frozen=True)
class Batch:
    """`ids` [rows, length]; `weights` [rows, length] of each token as a target, 0 where padded or first of its example;
    `positions` [rows, length] within the example; `mask` [rows, 1, length, length], true where a token sees another;
    `tokens` that are no padding."""

    ids: torch.Tensor
    weights: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    tokens: int


def practice(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[Example]:
    """Endless examples of practice."""
    rng = Random(seed)
    while True:
        prompt, completion = render(*sample(rng))
        head, tail = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, completion))
        yield head + tail, [PROMPT_WEIGHT] * len(head) + [1.0] * len(tail)


def copying(vocab_size: int, seed: int) -> Iterator[Example]:
    """Endless random spans said again and again, loss from the second time on.

    This is what makes a tiny model learn to copy; short spans come back often and some tokens are common (Zipf),
    which is where it starts.
    """
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randperm(vocab_size - len(SPECIAL_TOKENS), generator=generator) + len(SPECIAL_TOKENS)
    likelihood = 1.0 / (torch.arange(len(tokens)) + 20.0)
    while True:
        span = int(torch.randint(SPAN[0], SPAN[1] + 1, (1,), generator=generator))
        once = tokens[torch.multinomial(likelihood, span, replacement=True, generator=generator)].tolist()
        times = max(2, LENGTH // 2 // span)
        yield once * times, [0.0] * span + [1.0] * span * (times - 1)


def packed(examples: Iterator[Example]) -> Iterator[Batch]:
    """Endless batches of the examples, each put into the first row with room for it; a few wait for the next batch."""
    waiting: list[Example] = []
    long: list[Example] = []
    while True:
        if len(long) >= LONG_ROWS:
            queue, long, count, length = long + waiting, [], LONG_ROWS, LONG
        else:
            queue, count, length = waiting, ROWS, LENGTH
        rows: list[list[Example]] = [[] for _ in range(count)]
        waiting = []
        while len(waiting) < WAITING:
            example = queue.pop(0) if queue else next(examples)
            size = len(example[0])
            row = next((row for row in rows if _size(row) + size <= length), None)
            if row is not None:
                row.append(example)
            elif size <= LENGTH:
                waiting.append(example)
            elif size <= LONG:
                long.append(example)
        waiting += queue
        yield _batch(rows, length)


def _size(row: list[Example]) -> int:
    return sum(len(ids) for ids, _ in row)


def _batch(rows: list[list[Example]], length: int) -> Batch:
    shape = len(rows), length
    ids, weights = torch.zeros(shape, dtype=torch.long), torch.zeros(shape)
    positions, owner = torch.zeros(shape, dtype=torch.long), torch.full(shape, -1)
    for index, row in enumerate(rows):
        begin = 0
        for number, (tokens, counted) in enumerate(row):
            part = slice(begin, begin + len(tokens))
            ids[index, part], weights[index, part] = torch.tensor(tokens), torch.tensor(counted)
            weights[index, begin] = 0.0
            positions[index, part], owner[index, part] = torch.arange(len(tokens)), number
            begin += len(tokens)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    mask = (owner[:, None, :, None] == owner[:, None, None, :]) & causal
    return Batch(ids, weights, positions, mask, sum(_size(row) for row in rows))
