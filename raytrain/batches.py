"""Which rows make which batch, for a whole training run, decided beforehand from lengths and a seed.

A batch holds rows of like length, as many as fit in a budget of padded tokens, so that little is padding and every
batch costs about the same. The plan lists the batches in the order in which the ranks take them, one each in turn:
batch i belongs to rank i % workers. Invariants: each epoch has every row exactly once; the number of batches is a
multiple of `workers`; the batches that ranks run at the same time are neighbours in length; the same arguments give
the same plan, so that step n of a run that goes on is step n of one that was never stopped.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from raytrain.data import Int64, TokenRows

IGNORED = -100
SCORED_AT_ONCE = 2048  # positions whose logits are there at a time where no gradient is wanted
POOL_BATCHES = 64

Plan = list[list[int]]
Share = Callable[[Plan], Plan]  # one rank's batches of a plan


def plan_batches(lengths: Int64, budget: int, workers: int, epochs: int, seed: int) -> Plan:
    """Plan `epochs` passes over rows of these lengths with at most `budget` padded tokens a batch.

    Rows are shuffled, sorted by length within pools of about POOL_BATCHES batches, cut into batches, and the groups
    of `workers` neighbouring batches are shuffled over the epoch.

    Raises:
        ValueError: when a row is longer than the budget.
    """
    longest = int(lengths.max(initial=0))
    if longest > budget:
        raise ValueError(f"a row of {longest} tokens is over the budget of {budget} tokens a batch; raise the budget")
    plan: Plan = []
    for epoch in range(epochs):
        draw = np.random.default_rng([seed, epoch])
        groups = in_groups(_cut(lengths, _pooled(lengths, budget, draw), budget), workers)
        for index in draw.permutation(len(groups)):
            plan.extend(groups[index])
    return plan


def in_order(lengths: Int64, budget: int) -> Plan:
    """Batches by length, for evaluation: no shuffling, each row once."""
    return _cut(lengths, np.argsort(lengths, kind="stable"), budget)


def _pooled(lengths: Int64, budget: int, draw: np.random.Generator) -> Int64:
    order = draw.permutation(len(lengths))
    size = max(1, int(POOL_BATCHES * budget / max(1.0, float(lengths.mean()))))
    pools = [order[i : i + size] for i in range(0, len(order), size)]
    return np.concatenate([pool[np.argsort(lengths[pool], kind="stable")] for pool in pools])


def _cut(lengths: Int64, order: Int64, budget: int) -> Plan:
    batches: Plan = []
    longest = 0
    for row in order.tolist():
        width = max(longest, int(lengths[row]))
        if batches and width * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(row)
            longest = width
        else:
            batches.append([row])
            longest = int(lengths[row])
    return batches


def in_groups(batches: Plan, workers: int) -> list[Plan]:
    """Batches in groups of `workers`; the batches of an incomplete last group are spread over all workers."""
    groups = [batches[i : i + workers] for i in range(0, len(batches), workers)]
    return [spread(group, workers) for group in groups]


def spread(batches: Plan, places: int) -> Plan:
    """At most `places` batches spread over as many: those with the most rows are halved, so that no batch grows.

    With fewer rows than places, some places get none.
    """
    result = [list(batch) for batch in batches]
    while len(result) < places:
        largest = max(range(len(result)), key=lambda i: len(result[i]))
        rows = result[largest]
        result[largest : largest + 1] = [rows[: (len(rows) + 1) // 2], rows[(len(rows) + 1) // 2 :]]
    return result


@dataclass(frozen=True)
class Collator:
    """Turns one planned batch into tensors [rows, longest]: input_ids and labels, right-padded.

    No attention mask: attention is causal and padding stands behind every real token, whose results it cannot reach.
    """

    rows: TokenRows
    pad_id: int

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate the only feature {"rows": [...]}: a planned batch is one item of the dataset."""
        (feature,) = features
        return self.tensors(feature["rows"])

    def tensors(self, indices: list[int]) -> dict[str, Any]:
        """input_ids and labels of these rows; an empty list gives one row that counts for nothing."""
        import torch

        picked = [self.rows.row(i) for i in indices] or [(np.full(2, self.pad_id, np.int32), 2)]
        shape = len(picked), max(len(tokens) for tokens, _ in picked)
        ids, labels = np.full(shape, self.pad_id, np.int64), np.full(shape, IGNORED, np.int64)
        for i, (tokens, start) in enumerate(picked):
            ids[i, : len(tokens)] = tokens
            labels[i, start : len(tokens)] = tokens[start:]
        return {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}


def padded_tokens(lengths: Int64, plan: Plan) -> int:
    """Tokens that are computed for a plan, padding included."""
    return sum(len(batch) * int(lengths[batch].max()) for batch in plan if batch)
