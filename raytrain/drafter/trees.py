"""Draft trees as EAGLE-2 grows them (arXiv 2406.16858), and how far an answer follows one.

A node is a drafted token; its value is the drafter's probability of all tokens from the root to it. Depth by depth the
`top_k` nodes of highest value are expanded, each into its `top_k` likeliest children; of all nodes that came up, the
`tokens` of highest value are verified. No child has a higher value than its parent, and of equals the shallower one is
taken (section 4.2): so what is kept is a tree. With top_k 1 it is the greedy chain.

The answers are the student's own greedy ones, so a tree is accepted as far as a path from its root says what the answer
says. Only that path counts, and whether it is kept depends on all others: the whole tree is grown. Values are kept as
logarithms.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from agentmill.errors import UserError

ROOT, NOWHERE = -1, -2


class TreeError(UserError):
    """A tree that cannot be grown. The message names the field, the rule and the remedy."""


@dataclass(frozen=True)
class TreeShape:
    """How a tree is grown; the defaults are EAGLE-2's own for a model of 7B or 8B parameters.

    `depth` is how many tokens a path has, and passes of the drafter, one after another, a draft takes. `tokens` counts
    what is drafted, the root not among it.

    Raises:
        TreeError: when one is below 1, or no tree of this depth and top_k has so many tokens.
    """

    depth: int = 6
    top_k: int = 10
    tokens: int = 60

    def __post_init__(self) -> None:
        for name in ("depth", "top_k", "tokens"):
            if getattr(self, name) < 1:
                raise TreeError(f"{name}={getattr(self, name)}: without any nothing is drafted; give 1 or more")
        if self.tokens > self.candidates:
            raise TreeError(
                f"tokens={self.tokens} is more than the {self.candidates} nodes that come up with depth={self.depth} "
                f"and top_k={self.top_k}, so that a tree would never be full; lower tokens to {self.candidates}, or "
                f"raise depth or top_k"
            )

    @property
    def candidates(self) -> int:
        """How many nodes come up: the children of the root, and those of `top_k` nodes at each further depth."""
        return self.top_k + (self.depth - 1) * self.top_k**2

    @property
    def positions(self) -> int:
        """What the student computes for one verification: the drafted tokens, and the last one that it wrote."""
        return self.tokens + 1

    @property
    def name(self) -> str:
        """The shape in a figure's name: greedy_d3, tree_d6_k10_n60."""
        chain = self.top_k == 1 and self.tokens == self.depth
        return f"greedy_d{self.depth}" if chain else f"tree_d{self.depth}_k{self.top_k}_n{self.tokens}"


def greedy(depth: int) -> TreeShape:
    """The chain of the likeliest tokens, each after the one before."""
    return TreeShape(depth, top_k=1, tokens=depth)


class Branching(Protocol):
    """A drafter at several roots at once. Scores are logits over its own vocabulary, by whose numbers tokens go."""

    def first(self) -> torch.Tensor:
        """The scores of the token after each root, [roots, vocabulary]."""
        ...

    def after(self, tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        """The scores of the token after each of these nodes, [roots, nodes, vocabulary].

        tokens [roots, nodes]; parents [roots, nodes] are places among the nodes of the last call, 0 on the first one.
        """
        ...


@dataclass(frozen=True)
class Nodes:
    """All nodes that came up at each root, depth after depth: a parent stands before its children.

    tokens, values and parents are [roots, nodes]; a child of the root has the parent ROOT. `ends[d]` is how many nodes
    are of depth d + 1 or less.
    """

    tokens: torch.Tensor
    values: torch.Tensor
    parents: torch.Tensor
    ends: tuple[int, ...]


def grow(drafter: Branching, depth: int, top_k: int) -> Nodes:
    """Expand the `top_k` best nodes at each depth; what comes up at one depth does not depend on those after it."""
    scores = drafter.first()[:, None]
    roots = len(scores)
    above = scores.new_zeros(roots, 1, dtype=torch.float32)
    expanded = torch.full((roots, 1), ROOT, device=scores.device)
    parts: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    ends: list[int] = []
    for level in range(depth):
        found = best(scores, top_k)
        # at most 0, so that no rounding puts a child above its parent
        gains = torch.log_softmax(scores.float(), dim=-1).gather(2, found).clamp(max=0)
        tokens, values = found.flatten(1), (above[..., None] + gains).flatten(1)
        parts.append((tokens, values, expanded.repeat_interleave(top_k, dim=1)))
        begin = ends[-1] if ends else 0
        ends.append(begin + tokens.shape[1])
        if level + 1 < depth:
            chosen = _highest(values, top_k)
            above, expanded = values.gather(1, chosen), begin + chosen
            scores = drafter.after(tokens.gather(1, chosen), chosen // top_k)
    tokens, values, parents = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
    return Nodes(tokens, values, parents, tuple(ends))


def best(scores: torch.Tensor, count: int) -> torch.Tensor:
    """The tokens of the highest scores, [..., count], falling; of equals the lowest token first, as argmax takes it.

    In bf16 many scores are equal, and torch.topk leaves open which of them it takes. A float's bits are in the order of
    its values once the sign is taken care of; the token breaks ties below them.
    """
    bits = scores.float().contiguous().view(torch.int32).long()
    order = torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
    size = scores.shape[-1]
    return (order * size - torch.arange(size, device=scores.device)).topk(count, dim=-1).indices


def _highest(values: torch.Tensor, count: int) -> torch.Tensor:
    """The places of the highest values, [roots, count], falling; of equals the first, which is the shallower node."""
    return values.sort(dim=1, descending=True, stable=True).indices[:, :count]


def kept(nodes: Nodes, shape: TreeShape) -> torch.Tensor:
    """Which nodes of depth `shape.depth` or less are in the tree, [roots, their number]; `shape.top_k` is that of
    growing."""
    values = nodes.values[:, : nodes.ends[shape.depth - 1]]
    return torch.zeros_like(values, dtype=torch.bool).scatter_(1, _highest(values, shape.tokens), True)


def followed(nodes: Nodes, tree: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """How many tokens of the answer a path of the tree says, [roots].

    truth [roots, depth or more] are the tokens after each root; where the answer has no more, a number that is no
    token's. `tree` is of `kept`.
    """
    size = tree.shape[1]
    tokens, parents = nodes.tokens[:, :size], nodes.parents[:, :size]
    node = torch.full_like(truth[:, 0], ROOT)
    count = torch.zeros_like(node)
    for level in range(sum(end <= size for end in nodes.ends)):
        right = tree & (parents == node[:, None]) & (tokens == truth[:, level, None])
        there = right.any(dim=1)
        count += there
        node = torch.where(there, right.int().argmax(dim=1), NOWHERE)
    return count


def by_growth(shapes: Sequence[TreeShape]) -> dict[int, int]:
    """For each top_k the largest depth: trees of one top_k are cut from the same growing."""
    depths: dict[int, int] = {}
    for shape in shapes:
        depths[shape.top_k] = max(shape.depth, depths.get(shape.top_k, 0))
    return depths
