"""A real drafter growing trees (raytrain.drafter.trees) at the positions of an answer, many at once.

At the root the drafter has the student's states of all tokens but the last, as in `raytrain.drafter.acceptance`. A node
of depth d stands d positions later; it sees its token, the drafter's own state of its parent, the keys of the row up to
the root and those of the nodes between: never a sibling's, and never a state of the student's that an engine would not
have yet. One row is looked at at a time, and of it as many roots as PRODUCTS allows.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import torch
from transformers import AttentionInterface, PreTrainedModel

from raytrain.attention import HIDDEN
from raytrain.data import TokenRows
from raytrain.drafter.acceptance import walk
from raytrain.drafter.attention import draft_attention
from raytrain.drafter.model import student_of
from raytrain.drafter.states import draft_inputs, student_states
from raytrain.drafter.trees import TreeError, TreeShape, by_growth, followed, grow, kept
from raytrain.hardware import Placement
from raytrain.packing import PackedCollator

TREE_ATTENTION = "agentmill_tree"
PRODUCTS = 2**24  # numbers in the largest matrix of one pass: scores over the vocabulary, or over the row's positions
NO_TOKEN = -1


@torch.no_grad()
def accepted_by_trees(
    drafter: PreTrainedModel, rows: TokenRows, index: int, shapes: Sequence[TreeShape], placement: Placement
) -> dict[TreeShape, list[int]]:
    """For each shape, how many tokens of each draft of row `index` are accepted, walked through as an engine does.

    Raises:
        TreeError: when the drafter's vocabulary has fewer tokens than a node is to have children.
    """
    row = PackedCollator(rows, 0).tensors([index])
    start, end = int(rows.starts[index]), row["input_ids"].shape[1]
    first = max(start - 1, 0)
    if first + 2 >= end:
        return {shape: [] for shape in shapes}
    reached = {shape: [0] * first for shape in shapes}
    with _tree_attention(drafter):
        seen = SeenRow(drafter, row, placement)
        for top_k, depth in by_growth(shapes).items():
            _check_vocabulary(drafter, top_k)
            for roots in torch.arange(first, end - 2, device=drafter.device).split(seen.roots_at_once(top_k)):
                grown = grow(Branches(seen, roots), depth, top_k)
                nodes, truth = replace(grown, tokens=seen.words(grown.tokens)), seen.truth(roots, depth)
                for shape in shapes:
                    if shape.top_k == top_k:
                        reached[shape] += followed(nodes, kept(nodes, shape), truth).tolist()
    return {shape: walk(counts, 0, end, start) for shape, counts in reached.items()}


def _check_vocabulary(drafter: PreTrainedModel, top_k: int) -> None:
    size = drafter.draft_vocab_size
    if top_k > size:
        raise TreeError(
            f"top_k={top_k} is more than the {size} tokens of the drafter's vocabulary, and the children of a node are "
            f"different tokens; lower top_k to {size} or less"
        )


class _Memory(Protocol):
    """What the drafter's one layer looks back at, and keeps."""

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
        """query [1, heads, tokens, size], key and value [1, groups, tokens, size] to [1, tokens, heads, size]."""
        ...


class SeenRow:
    """A row (raytrain.packing) of one document, as the drafter has it when it begins to draft at any position of it.

    `states` [positions, width]; `keys` and `values` [groups, positions, size].
    """

    def __init__(self, drafter: PreTrainedModel, row: dict[str, Any], placement: Placement) -> None:
        config = drafter.config
        assert not (config.norm_before_fc or config.fc_norm or config.norm_output) and len(drafter.layers) == 1
        student = student_of(drafter, placement)
        row = {name: x.to(student.device) if isinstance(x, torch.Tensor) else x for name, x in row.items()}
        given = draft_inputs(row, student_states(student, drafter.target_layer_ids, row))
        self.drafter, self._ids = drafter, row["input_ids"][0]
        hidden = drafter.fc(given["hidden_states"])
        self.states = self.layer(hidden, given["input_ids"], given["position_ids"], self)[0]

    def layer(self, hidden: torch.Tensor, ids: torch.Tensor, positions: torch.Tensor, memory: _Memory) -> torch.Tensor:
        """The drafter's states after its layer, [1, tokens, width], from those before it, the student's tokens and
        their positions."""
        pair = torch.cat([self.drafter.embed_tokens(ids), hidden], dim=-1)
        places = self.drafter.rotary_emb(pair, positions)
        out: torch.Tensor = self.drafter.layers[0](pair, position_embeddings=places, memory=memory)
        return out

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
        """Causally, and keep what nodes look back at."""
        self.keys, self.values = key[0], value[0]
        return draft_attention(self.drafter, query, key, value, None, scaling)[0]

    def scores(self, states: torch.Tensor) -> torch.Tensor:
        """The scores of the next token, [..., vocabulary], from states [..., width]."""
        found: torch.Tensor = self.drafter.lm_head(self.drafter.norm(states))
        return found

    def words(self, tokens: torch.Tensor) -> torch.Tensor:
        """The student's tokens that the drafter's are."""
        return tokens if self.drafter.d2t is None else tokens + self.drafter.d2t[tokens]

    def truth(self, roots: torch.Tensor, depth: int) -> torch.Tensor:
        """What the row says after each root, [roots, depth]; NO_TOKEN past its end."""
        places = roots[:, None] + 2 + torch.arange(depth, device=roots.device)
        return torch.where(places < len(self._ids), self._ids[places.clamp(max=len(self._ids) - 1)], NO_TOKEN)

    def roots_at_once(self, top_k: int) -> int:
        """How many roots may be grown together."""
        heads = self.drafter.layers[0].self_attn.config.num_attention_heads
        return max(1, PRODUCTS // (top_k * max(self.drafter.draft_vocab_size, heads * len(self.states))))


class Branches:
    """The drafter at these roots of a row: `raytrain.drafter.trees.Branching`.

    Of the nodes of the last call `states` is [roots, nodes, width]; `keys` and `values` [groups, roots, nodes, depth,
    size] are of each node and those between it and the root.
    """

    def __init__(self, seen: SeenRow, roots: torch.Tensor) -> None:
        self._seen, self._roots = seen, roots
        self.states = seen.states[roots][:, None]
        groups, _, size = seen.keys.shape
        self.keys = self.values = seen.keys.new_empty(groups, len(roots), 1, 0, size)

    def first(self) -> torch.Tensor:
        """The scores of the token after each root, [roots, vocabulary]."""
        return self._seen.scores(self.states[:, 0])

    def after(self, tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        """The scores of the token after each of these nodes, [roots, nodes, vocabulary]."""
        roots, nodes = tokens.shape
        each = torch.arange(roots, device=tokens.device)[:, None]
        self.keys, self.values = self.keys[:, each, parents], self.values[:, each, parents]
        hidden = self.states[each, parents].view(1, roots * nodes, -1)
        depth = self.keys.shape[3] + 1
        positions = (self._roots + depth).repeat_interleave(nodes)[None]
        states = self._seen.layer(hidden, self._seen.words(tokens).view(1, -1), positions, self)
        self.states = states.view(roots, nodes, -1)
        return self._seen.scores(self.states)

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
        """Each node to the row up to its root, to the nodes between, and to itself."""
        _, heads, count, size = query.shape
        groups, roots, nodes = self.keys.shape[:3]
        own = (x[0].view(groups, roots, nodes, 1, size) for x in (key, value))
        self.keys, self.values = (
            torch.cat([before, new], dim=3) for before, new in zip((self.keys, self.values), own, strict=True)
        )
        path_keys, path_values = (x.view(groups, count, -1, size) for x in (self.keys, self.values))
        row_keys, row_values = self._seen.keys[:, None], self._seen.values[:, None]
        folded = query[0].view(groups, heads // groups, count, size)
        later = torch.arange(row_keys.shape[2], device=query.device) > self._roots.repeat_interleave(nodes)[:, None]
        to_row = (folded @ row_keys.transpose(2, 3) * scaling).masked_fill(later, HIDDEN)
        to_path = torch.einsum("grns,gnds->grnd", folded, path_keys) * scaling
        weights = torch.softmax(torch.cat([to_row, to_path], dim=-1), dim=-1)
        on_row, on_path = weights.split([to_row.shape[3], to_path.shape[3]], dim=-1)
        mixed = on_row @ row_values + torch.einsum("grnd,gnds->grns", on_path, path_values)
        return mixed.reshape(1, heads, count, size).transpose(1, 2).contiguous()


def tree_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    memory: _Memory,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """The attention that `memory` knows; shapes as there, and no weights."""
    return memory.attend(query, key, value, scaling), None


@contextmanager
def _tree_attention(drafter: PreTrainedModel) -> Iterator[None]:
    """While the block runs, the drafter's layer has `tree_attention`."""
    AttentionInterface.register(TREE_ATTENTION, tree_attention)
    config = drafter.layers[0].self_attn.config
    before, config._attn_implementation = config._attn_implementation, TREE_ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = before
