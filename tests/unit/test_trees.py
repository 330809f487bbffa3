"""Draft trees: how they are grown and cut, the drafter's states along a path, and how far an answer follows them."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from raytrain import attention as training_attention
from raytrain.data import TokenRows, join
from raytrain.drafter import branches
from raytrain.drafter.acceptance import acceptance_sums
from raytrain.drafter.branches import Branches, SeenRow, accepted_by_trees
from raytrain.drafter.model import load_drafter, make_drafter
from raytrain.drafter.states import student_states
from raytrain.drafter.trees import ROOT, Nodes, TreeError, TreeShape, best, followed, greedy, grow, kept
from raytrain.hardware import CPU_ATTENTION, Placement
from raytrain.job import DRAFTER, Job
from raytrain.packing import PackedCollator
from raytrain.settings import DrafterSettings
from tests.tiny_llama import write_tiny_llama

pytestmark = pytest.mark.usefixtures("one_thread")

PLACEMENT = Placement(device="cpu", threads=1, precision="fp32")
SHAPES = (TreeShape(3, 3, 6), TreeShape(3, 3, 12), TreeShape(2, 3, 12), TreeShape(4, 2, 9), greedy(3))
A, B, C = 0, 1, 2
WORDS = (105, 205)  # the student's tokens that answers are made of: other numbers than the drafter's
Path_ = tuple[int, ...]
Table = dict[Path_, tuple[float, ...]]

# The probability of the next token after what was drafted; what is not listed is spread evenly.
TABLE: Table = {
    (): (0.5, 0.4, 0.1),
    (A,): (0.4, 0.35, 0.25),
    (B,): (0.9, 0.06, 0.04),
    (A, A): (0.5, 0.3, 0.2),
    (B, A): (0.2, 0.7, 0.1),
}


class Written:
    """A drafter whose probabilities are a table; `asked` are the paths that were expanded."""

    def __init__(self, table: Table, size: int = 3) -> None:
        self.table, self.size = table, size
        self.paths: list[Path_] = [()]
        self.asked: list[Path_] = []

    def first(self) -> torch.Tensor:
        return self._scores()[0]

    def after(self, tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        self.paths = [(*self.paths[above], token) for token, above in zip(tokens[0].tolist(), parents[0], strict=True)]
        self.asked += self.paths
        return self._scores()

    def _scores(self) -> torch.Tensor:
        even = (1 / self.size,) * self.size
        return torch.tensor([[self.table.get(path, even) for path in self.paths]]).log()


class Drawn(Written):
    """One whose probabilities are random, and for one path always the same."""

    def _scores(self) -> torch.Tensor:
        draws = [np.random.default_rng([7, len(path), *path]).normal(size=self.size) for path in self.paths]
        return 2 * torch.tensor(np.array(draws), dtype=torch.float32)[None]


def paths_of(nodes: Nodes) -> list[Path_]:
    """What each node says from the root on, for the only root."""
    found: list[Path_] = []
    for token, parent in zip(nodes.tokens[0].tolist(), nodes.parents[0].tolist(), strict=True):
        found.append((*(found[parent] if parent != ROOT else ()), token))
    return found


def tree_of(drafter: Written, shape: TreeShape) -> dict[Path_, float]:
    """The paths that are kept, each with its probability."""
    nodes = grow(drafter, shape.depth, shape.top_k)
    tree = kept(nodes, shape)[0].tolist()
    values = nodes.values[0].exp().tolist()
    return {path: value for path, value, there in zip(paths_of(nodes), values, tree, strict=False) if there}


def test_the_likeliest_nodes_are_expanded_and_the_likeliest_of_all_kept() -> None:
    drafter = Written(TABLE)
    found = tree_of(drafter, TreeShape(depth=3, top_k=2, tokens=7))
    # at depth 2: BA 0.36, AA 0.2, AB 0.175, BB 0.024; so AB is not expanded, though it is kept
    assert drafter.asked == [(A,), (B,), (B, A), (A, A)]
    expected = {(A,): 0.5, (B,): 0.4, (B, A): 0.36, (B, A, B): 0.252, (A, A): 0.2, (A, B): 0.175, (A, A, A): 0.1}
    assert found == pytest.approx(expected)


def test_a_tree_of_few_tokens_may_leave_out_the_greedy_chain() -> None:
    """The chain takes A and A again; B and A after it are likelier together."""
    chain = tree_of(Written(TABLE), greedy(3))
    assert set(chain) == {(A,), (A, A), (A, A, A)}
    small = tree_of(Written(TABLE), TreeShape(depth=3, top_k=2, tokens=4))
    assert set(small) == {(A,), (B,), (B, A), (B, A, B)}


def test_of_equally_likely_nodes_the_shallower_is_kept() -> None:
    certain: Table = dict.fromkeys(((), (B,), (B, B)), (0.0, 1.0, 0.0))
    for tokens in (1, 2, 3):
        found = tree_of(Written(certain), TreeShape(depth=3, top_k=2, tokens=tokens))
        assert set(found) == {(B,) * length for length in range(1, tokens + 1)}


@pytest.mark.parametrize("shape", [TreeShape(4, 3, 20), TreeShape(3, 5, 40), TreeShape(2, 8, 9), TreeShape(5, 2, 18)])
def test_what_is_kept_is_the_best_and_a_tree(shape: TreeShape) -> None:
    drafter = Drawn({}, size=9)
    found = tree_of(drafter, shape)
    assert len(found) == shape.tokens
    assert all(path[:-1] in found for path in found if len(path) > 1)
    assert max(map(len, found)) <= shape.depth
    nodes = grow(Drawn({}, size=9), shape.depth, shape.top_k)
    assert nodes.tokens.shape[1] == shape.candidates == len(set(paths_of(nodes)))
    best_of_all = sorted(nodes.values[0].exp().tolist(), reverse=True)[: shape.tokens]
    assert sorted(found.values(), reverse=True) == pytest.approx(best_of_all)


def test_trees_of_less_depth_are_cut_from_the_same_growing() -> None:
    deep, flat = TreeShape(4, 3, 12), TreeShape(2, 3, 6)
    nodes = grow(Drawn({}, size=9), deep.depth, deep.top_k)
    cut = {path for path, there in zip(paths_of(nodes), kept(nodes, flat)[0].tolist(), strict=False) if there}
    assert cut == set(tree_of(Drawn({}, size=9), flat))


def test_an_answer_is_followed_as_far_as_a_path_says_it() -> None:
    shape = TreeShape(depth=3, top_k=2, tokens=6)  # A, B, BA, BAB, AA, AB
    nodes = grow(Written(TABLE), 3, 2)
    tree = kept(nodes, shape)
    said = {(B, A, B): 3, (B, A, A): 2, (A, B, A): 2, (A, A, A): 2, (C, A, B): 0, (B, B, A): 1}
    for truth, count in said.items():
        assert followed(nodes, tree, torch.tensor([truth])).tolist() == [count]
    assert followed(nodes, tree, torch.tensor([[B, A, -1]])).tolist() == [2]
    flat = kept(nodes, TreeShape(depth=2, top_k=2, tokens=6))
    assert followed(nodes, flat, torch.tensor([[B, A, B]])).tolist() == [2]


def test_of_equal_scores_the_lowest_token_comes_first() -> None:
    scores = torch.tensor([[1.0, 3.0, -2.0, 3.0, 1.0, -2.0, 0.0, -0.0, -1.0, 3.0]])
    assert best(scores, 10).tolist() == [[1, 3, 9, 0, 4, 6, 7, 8, 2, 5]]
    many = torch.randn(50, 400, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = many.float().sort(dim=-1, descending=True, stable=True).indices
    assert torch.equal(best(many, 12), expected[:, :12])
    assert torch.equal(best(many, 1)[:, 0], many.argmax(dim=-1))


def test_a_shape_that_cannot_be_is_refused() -> None:
    assert TreeShape() == TreeShape(depth=6, top_k=10, tokens=60)
    assert (TreeShape().positions, TreeShape().candidates, TreeShape().name) == (61, 510, "tree_d6_k10_n60")
    assert (greedy(3).positions, greedy(3).candidates, greedy(3).name) == (4, 3, "greedy_d3")
    assert TreeShape(3, 1, 2).name == "tree_d3_k1_n2"
    with pytest.raises(TreeError, match="depth=0: without any nothing is drafted; give 1 or more"):
        TreeShape(depth=0)
    with pytest.raises(TreeError, match="top_k=-1"):
        TreeShape(top_k=-1)
    with pytest.raises(TreeError, match="tokens=0"):
        TreeShape(tokens=0)
    with pytest.raises(TreeError, match=r"tokens=60 is more than the 22 nodes that come up .* lower tokens to 22, or"):
        TreeShape(depth=6, top_k=2, tokens=60)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A student and an untrained drafter for it, whose vocabulary is a part of the student's."""
    training_attention.register()
    root = tmp_path_factory.mktemp("trees")
    student = write_tiny_llama(root / "student", layers=6)
    vocabulary = np.arange(*WORDS, dtype=np.int32)
    make_drafter(student, DrafterSettings(), join([(vocabulary, 1, "a")]), root / "drafter", seed=1)
    return student, root / "drafter"


@pytest.fixture(scope="module")
def student(folders: tuple[Path, Path]) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folders[0], dtype=torch.float32, attn_implementation=CPU_ATTENTION)


@pytest.fixture(scope="module")
def drafter(folders: tuple[Path, Path]) -> PreTrainedModel:
    """Its scores are spread out, so that some paths are much likelier than others, as a trained one's are."""
    loaded = load_drafter(folders[1], PLACEMENT).eval()
    loaded.norm.weight.data *= 20
    return loaded


class ByHand:
    """Drafting as an engine does it, one node at a time: speculators' own forward pass over the tokens so far and the
    path, with its steps of training-time test as the steps of drafting."""

    def __init__(self, student: PreTrainedModel, drafter: PreTrainedModel) -> None:
        self.student, self.drafter = student, drafter
        self._found: dict[tuple[Path_, Path_], dict[int, float]] = {}

    def scores(self, known: Sequence[int], path: Path_) -> dict[int, float]:
        """Log-probabilities by the student's tokens of what comes after `known` and then `path`."""
        key = tuple(known), path
        if key not in self._found:
            self._found[key] = self._computed(known, path)
        return self._found[key]

    @torch.no_grad()
    def _computed(self, known: Sequence[int], path: Path_) -> dict[int, float]:
        row = {
            "input_ids": torch.tensor([known]),
            "position_ids": torch.arange(len(known))[None],
            "cu_seq_lens_q": torch.tensor([0, len(known)], dtype=torch.int32),
            "max_length_q": len(known),
        }
        # the student has not computed the last token that it wrote: that state is a later one, and none is seen
        states = student_states(self.student, self.drafter.target_layer_ids, row).hidden[:, :-1]
        ids = torch.tensor([[*known[1:], *path]])
        length = ids.shape[1]
        hidden = torch.zeros(1, length, states.shape[2])
        hidden[:, : states.shape[1]] = states
        seen: list[torch.Tensor] = []
        hook = self.drafter.lm_head.register_forward_hook(lambda module, given, out: seen.append(out))
        self.drafter(
            hidden_states=hidden,
            input_ids=ids,
            document_ids=torch.zeros(1, length, dtype=torch.long),
            position_ids=torch.arange(length)[None],
            ttt_steps=len(path) + 1,
        )
        hook.remove()
        found = torch.log_softmax(seen[len(path)][0, len(known) - 2], dim=-1)
        tokens = torch.arange(len(found)) + self.drafter.d2t
        return dict(zip(tokens.tolist(), found.tolist(), strict=True))

    def tree(self, known: Sequence[int], shape: TreeShape) -> dict[Path_, float]:
        """The tree's paths and their log-probabilities."""
        level: dict[Path_, float] = {(): 0.0}
        everything: dict[Path_, float] = {}
        for _ in range(shape.depth):
            children: dict[Path_, float] = {}
            for path, value in level.items():
                scores = self.scores(known, path)
                for token in sorted(scores, key=lambda one: -scores[one])[: shape.top_k]:
                    children[(*path, token)] = value + scores[token]
            everything |= children
            level = dict(sorted(children.items(), key=lambda child: -child[1])[: shape.top_k])
        order = sorted(everything.items(), key=lambda node: (-node[1], len(node[0])))
        return dict(order[: shape.tokens])

    def accepted(self, tokens: Sequence[int], start: int, shape: TreeShape) -> list[int]:
        """Draft, accept what the answer says, take one token of the student's, and go on."""
        found, known = [], start + 1
        while known < len(tokens):
            tree = self.tree(tokens[:known], shape)
            right = 0
            while known + right < len(tokens) and tuple(tokens[known : known + right + 1]) in tree:
                right += 1
            found.append(right)
            known += right + 1
        return found


@pytest.fixture(scope="module")
def hand(student: PreTrainedModel, drafter: PreTrainedModel) -> ByHand:
    return ByHand(student, drafter)


@pytest.fixture(scope="module")
def rows(hand: ByHand) -> TokenRows:
    """Answers that go now along a path of the drafter's tree, not always its likeliest, and now elsewhere."""
    draw, shape = np.random.default_rng(5), TreeShape(3, 3, 9)
    found: list[tuple[Any, int, str]] = []
    for prompt, length in ((9, 15), (14, 12), (3, 14)):
        tokens = draw.integers(*WORDS, prompt + 1).tolist()
        while len(tokens) < prompt + length:
            paths = list(hand.tree(tokens, shape))
            tokens += [*paths[draw.integers(len(paths))], int(draw.integers(*WORDS))]
        found.append((np.array(tokens, dtype=np.int32), prompt, f"row {len(found)}"))
    return join(found)


def test_trees_are_those_of_drafting_node_by_node(rows: TokenRows, drafter: PreTrainedModel, hand: ByHand) -> None:
    """Every path and its probability, at some roots of one answer grown together."""
    tokens, _ = rows.row(0)
    shape = TreeShape(4, 3, 20)
    with torch.no_grad(), branches._tree_attention(drafter):
        seen = SeenRow(drafter, PackedCollator(rows, 0).tensors([0]), PLACEMENT)
        roots = torch.tensor([8, 11, 15])
        nodes = grow(Branches(seen, roots), shape.depth, shape.top_k)
    tree = kept(nodes, shape)
    for place, root in enumerate(roots.tolist()):
        of_root = slice(place, place + 1)
        one = Nodes(seen.words(nodes.tokens)[of_root], nodes.values[of_root], nodes.parents[of_root], nodes.ends)
        paths = [path for path, there in zip(paths_of(one), tree[place].tolist(), strict=True) if there]
        values = one.values[0, tree[place]].tolist()
        expected = hand.tree(tokens[: root + 2].tolist(), shape)
        assert dict(zip(paths, values, strict=True)) == pytest.approx(expected, abs=2e-4)


def test_acceptance_is_that_of_drafting_node_by_node(
    rows: TokenRows, drafter: PreTrainedModel, hand: ByHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For several shapes at once, all roots together and one at a time."""
    seen = set[int]()
    for index in range(len(rows)):
        tokens, start = rows.row(index)
        found = accepted_by_trees(drafter, rows, index, SHAPES, PLACEMENT)
        with monkeypatch.context() as changed:
            changed.setattr(branches, "PRODUCTS", 1)
            assert accepted_by_trees(drafter, rows, index, SHAPES, PLACEMENT) == found
        for shape in SHAPES:
            assert found[shape] == hand.accepted(tokens.tolist(), start, shape), shape.name
            seen |= set(found[shape])
    assert {0, 1, 2, 3} <= seen


@pytest.mark.parametrize("depth", [3, 5])
def test_a_tree_of_one_branch_is_the_greedy_chain(
    rows: TokenRows, folders: tuple[Path, Path], drafter: PreTrainedModel, depth: int
) -> None:
    """Beside what the training's own measure counts, by row and place in the draft."""
    settings = DrafterSettings(draft_tokens=depth)
    work = folders[0].parent
    job = Job(DRAFTER, "", work, folders[0], work / "log", settings, PLACEMENT, (), 1, 1)
    sums = acceptance_sums(drafter, rows, job, lambda plan: plan)
    counted = 0
    for index, group in enumerate(sorted(rows.groups)):
        assert rows.groups[index] == group
        accepted = accepted_by_trees(drafter, rows, index, [greedy(depth)], PLACEMENT)[greedy(depth)]
        for place in range(depth):
            told = sums[f"accepted_at_{place + 1}"][index].tolist()
            assert told == [sum(length > place for length in accepted), len(accepted)]
        counted += sum(accepted)
    assert counted > 0


def reached(rows: TokenRows, drafter: PreTrainedModel, shapes: Sequence[TreeShape]) -> dict[TreeShape, list[int]]:
    """How many tokens a draft at each position of the answers has right."""
    found: dict[TreeShape, list[int]] = {shape: [] for shape in shapes}
    for index in range(len(rows)):
        with torch.no_grad(), branches._tree_attention(drafter):
            seen = SeenRow(drafter, PackedCollator(rows, 0).tensors([index]), PLACEMENT)
            roots = torch.arange(int(rows.starts[index]) - 1, len(rows.row(index)[0]) - 2)
            for shape in shapes:
                nodes = grow(Branches(seen, roots), shape.depth, shape.top_k)
                nodes = Nodes(seen.words(nodes.tokens), nodes.values, nodes.parents, nodes.ends)
                found[shape] += followed(nodes, kept(nodes, shape), seen.truth(roots, shape.depth)).tolist()
    return found


def test_more_tokens_are_never_worse_and_a_full_tree_never_below_the_chain(
    rows: TokenRows, drafter: PreTrainedModel
) -> None:
    """At every position. Below depth 3 a full tree holds the chain; deeper, likelier paths may have crowded it out."""
    sizes = [TreeShape(3, 3, tokens) for tokens in (1, 3, 6, 12, 21)]
    found = reached(rows, drafter, [*sizes, greedy(2), TreeShape(2, 3, 12)])
    for fewer, more in pairwise(sizes):
        assert all(a <= b for a, b in zip(found[fewer], found[more], strict=True))
    pairs = list(zip(found[greedy(2)], found[TreeShape(2, 3, 12)], strict=True))
    assert all(chain <= tree for chain, tree in pairs)
    assert sum(tree for _, tree in pairs) > sum(chain for chain, _ in pairs)


def test_an_answer_of_one_token_has_no_draft(drafter: PreTrainedModel) -> None:
    rows = join([(np.arange(105, 115, dtype=np.int32), 9, "a"), (np.arange(105, 115, dtype=np.int32), 8, "a")])
    assert accepted_by_trees(drafter, rows, 0, SHAPES, PLACEMENT) == {shape: [] for shape in SHAPES}
    assert all(len(found) == 1 for found in accepted_by_trees(drafter, rows, 1, SHAPES, PLACEMENT).values())


def test_the_drafter_is_as_it_was_afterwards(rows: TokenRows, drafter: PreTrainedModel) -> None:
    config: Any = drafter.layers[0].self_attn.config
    before = config._attn_implementation
    accepted_by_trees(drafter, rows, 0, [greedy(1)], PLACEMENT)
    assert config._attn_implementation == before


def test_more_children_than_the_drafter_has_tokens_are_refused(rows: TokenRows, drafter: PreTrainedModel) -> None:
    size = drafter.draft_vocab_size
    assert size < 261
    with pytest.raises(TreeError, match=rf"top_k={size + 1} is more than the {size} tokens of the drafter's"):
        accepted_by_trees(drafter, rows, 0, [TreeShape(1, size + 1, 4)], PLACEMENT)
    widest = TreeShape(1, size, 4)
    assert len(accepted_by_trees(drafter, rows, 0, [widest], PLACEMENT)[widest]) > 0
