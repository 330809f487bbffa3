"""A drafter before any training: what it sees, its attention, its vocabulary, and how acceptance is counted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from raytrain import attention as training_attention
from raytrain.batches import IGNORED
from raytrain.data import TokenRows, join
from raytrain.drafter import attention
from raytrain.drafter.acceptance import accepted_by_row, mgl, tokens_and_passes, walk
from raytrain.drafter.model import (
    DrafterError,
    answer_counts,
    load_drafter,
    make_drafter,
    target_layers,
    vocabulary_size,
)
from raytrain.drafter.sources import Online
from raytrain.drafter.states import draft_inputs, student_states
from raytrain.drafter.training import stalled
from raytrain.hardware import CPU_ATTENTION, Placement
from raytrain.job import DRAFTER, Job
from raytrain.packing import PackedCollator
from raytrain.settings import DrafterSettings
from raytrain.shape import read_shape
from tests.tiny_llama import write_tiny_llama

pytestmark = pytest.mark.usefixtures("one_thread")

PLACEMENT = Placement(device="cpu", threads=1, precision="fp32")
SETTINGS = DrafterSettings(vocabulary=0.5)
LAYERS = 6


def answers(seed: int = 0) -> TokenRows:
    """Four rows whose answers use the tokens 5 to 104."""
    draw = np.random.default_rng(seed)
    shapes = ((20, 9), (31, 12), (12, 10), (45, 20))
    rows = [draw.integers(5, 105, length).astype(np.int32) for length, _ in shapes]
    return join([(row, start, agent) for row, (_, start), agent in zip(rows, shapes, "abab", strict=True)])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A student and an untrained drafter for it."""
    training_attention.register()
    root = tmp_path_factory.mktemp("drafter")
    student = write_tiny_llama(root / "student", layers=LAYERS)
    make_drafter(student, SETTINGS, answers(), root / "drafter", seed=1)
    return student, root / "drafter"


@pytest.fixture(scope="module")
def student(folders: tuple[Path, Path]) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folders[0], dtype=torch.float32, attn_implementation=CPU_ATTENTION)


@pytest.fixture(scope="module")
def drafter(folders: tuple[Path, Path]) -> PreTrainedModel:
    return load_drafter(folders[1], PLACEMENT).eval()


def job(student: Path, settings: DrafterSettings = SETTINGS) -> Job:
    work = student.parent
    return Job(DRAFTER, "", work, student, work / "log", settings, PLACEMENT, (), 1, 1)


def packed(rows: TokenRows, pack: list[int]) -> dict[str, Any]:
    return PackedCollator(rows, 0).tensors(pack)


def test_the_states_are_those_that_the_student_passes_on(student: PreTrainedModel) -> None:
    row = packed(answers(), [1])
    seen = student_states(student, [0, 2, 5], row)
    whole = student(input_ids=row["input_ids"], output_hidden_states=True)
    expected = torch.cat([whole.hidden_states[layer] for layer in (0, 2, 5)], dim=-1)
    torch.testing.assert_close(seen.hidden, expected)
    torch.testing.assert_close(student.lm_head(student.model.norm(seen.last)), whole.logits)


def test_a_guess_counts_where_the_student_wrote_the_token_before_it(student: PreTrainedModel) -> None:
    rows, row = answers(), packed(answers(), [0, 2])
    given = draft_inputs(row, student_states(student, [0], row))
    assert given["input_ids"].tolist() == row["input_ids"][:, 1:].tolist()
    counted = given["loss_mask"][0].nonzero().flatten().tolist()
    # row 0 has 20 tokens and answers from 9 on: guesses of 10 to 19, two positions before; row 2 follows at 20
    assert counted == [*range(8, 18), 20 + 9]
    assert given["hidden_states"].shape[1] == len(rows.row(0)[0]) + len(rows.row(2)[0]) - 1
    assert (row["labels"][0, [n + 2 for n in counted]] != IGNORED).all()


def test_the_attention_is_that_of_speculators(folders: tuple[Path, Path], student: PreTrainedModel) -> None:
    """Loss, guesses and gradients on a packed row, with our attention and with the dense mask of theirs."""
    from speculators.losses import resolve_loss_config

    row = packed(answers(), [3, 0, 2])
    found = []
    for kind in (attention.CPU_ATTENTION, "eager"):
        model = load_drafter(folders[1], PLACEMENT)
        model._attn_impl = model.config.transformer_layer_config._attn_implementation = kind
        for layer in model.layers:
            layer.self_attn.config._attn_implementation = kind
        given = draft_inputs(row, student_states(student, model.target_layer_ids, row))
        if kind == "eager":
            from speculators.models.attention import create_float_mask

            model._create_mask_fn = lambda *a, **k: create_float_mask(*a, **k).float()
            given.pop("cu_seq_lens_q")
        guesses, loss, _ = model(**given, ttt_steps=3, loss_config=resolve_loss_config("kl_div", "eager"))
        loss.backward()
        found.append((torch.cat(guesses), loss.detach(), model.layers[0].self_attn.k_proj.weight.grad))
    ours, theirs = found
    assert torch.equal(ours[0][:, given["loss_mask"][0]], theirs[0][:, given["loss_mask"][0]])
    torch.testing.assert_close(ours[1], theirs[1])
    torch.testing.assert_close(ours[2], theirs[2], rtol=1e-4, atol=1e-6)


def test_acceptance_is_that_of_drafting_token_by_token(
    folders: tuple[Path, Path], student: PreTrainedModel, drafter: PreTrainedModel
) -> None:
    rows = agreeing(folders, student, drafter)
    found = accepted(drafter, rows)
    expected = [drafted_by_hand(student, drafter, *rows.row(index)) for index in range(len(rows))]
    assert found == expected
    counts = tokens_and_passes(drafter, rows, DrafterSettings(), PLACEMENT)
    assert counts.tolist() == [[sum(lengths) + len(lengths), len(lengths)] for lengths in expected]
    assert len({length for lengths in found for length in lengths}) > 1


def accepted(drafter: PreTrainedModel, rows: TokenRows) -> list[list[int]]:
    """For each row how many tokens of each draft are accepted, all rows packed together."""
    packs, source = [list(range(len(rows)))], Online(drafter, PLACEMENT)
    return [lengths for _, lengths in accepted_by_row(drafter, rows, packs, SETTINGS.draft_tokens, source)]


def agreeing(folders: tuple[Path, Path], student: PreTrainedModel, drafter: PreTrainedModel) -> TokenRows:
    """Rows some of whose tokens are what the drafter guesses, as those of a trained one would be."""
    rows = answers(3)
    changed = [(*rows.row(2), rows.groups[2])]
    for index in (0, 1):
        tokens, start = rows.row(index)
        tokens = tokens.copy()
        for place in range(start + 1, len(tokens), 3):
            for ahead in range(min(2, len(tokens) - place)):
                tokens[place + ahead] = guess(student, drafter, tokens[:place].tolist(), ahead + 1)[-1]
        changed.append((tokens, start, rows.groups[index]))
    return join(changed)


def guess(student: PreTrainedModel, drafter: PreTrainedModel, known: list[int], count: int) -> list[int]:
    """What an engine drafts after these tokens: `count` tokens, each from the drafter's own before it."""
    drafted: list[int] = []
    for _ in range(count):
        ids = torch.tensor([[*known, *drafted, 0, 0]])
        length = len(known) - 1  # the drafter has states up to the token before the last known one
        row = {
            "input_ids": torch.tensor([known]),
            "position_ids": torch.arange(len(known))[None],
            "cu_seq_lens_q": torch.tensor([0, len(known)], dtype=torch.int32),
            "max_length_q": len(known),
        }
        states = student_states(student, drafter.target_layer_ids, row)
        padded = torch.zeros(1, ids.shape[1] - 1, states.hidden.shape[2])
        padded[:, : len(known)] = states.hidden
        with torch.no_grad():
            guesses = drafter(
                hidden_states=padded,
                input_ids=ids[:, 1:],
                document_ids=torch.zeros(1, ids.shape[1] - 1, dtype=torch.long),
                position_ids=torch.arange(ids.shape[1] - 1)[None],
                ttt_steps=len(drafted) + 1,
            )
        token = guesses[len(drafted)][0, length - 1]
        drafted.append(int(token + drafter.d2t[token]))
    return drafted


def drafted_by_hand(student: PreTrainedModel, drafter: PreTrainedModel, tokens: Any, start: int) -> list[int]:
    """Accepted tokens of each draft, as an engine would draft: states of all tokens before the last one it knows."""
    accepted, known = [], start + 1
    while known < len(tokens):
        drafted = guess(student, drafter, tokens[:known].tolist(), SETTINGS.draft_tokens)
        right = 0
        while right < len(drafted) and known + right < len(tokens) and drafted[right] == tokens[known + right]:
            right += 1
        accepted.append(right)
        known += right + 1
    return accepted


def test_a_draft_is_accepted_up_to_the_end_of_its_answer() -> None:
    reached = [3, 3, 3, 3, 3, 3, 3]
    # tokens 0 to 6, the answer from 2 on: 2 is the student's, 3 4 5 are drafted, 6 is the student's again
    assert walk(reached, 0, 7, 2) == [3]
    assert walk([0] * 7, 0, 7, 2) == [0, 0, 0, 0]
    assert walk([0, 2, 0, 0, 1, 0, 0], 0, 7, 2) == [2, 1]
    assert walk(reached, 0, 3, 2) == []


def test_the_mean_generated_length_is_one_and_what_was_accepted_a_draft() -> None:
    measured = {"accepted_at_1": [80.0, 100.0], "accepted_at_2": [60.0, 100.0], "accepted_at_3": [40.0, 100.0]}
    assert mgl(measured) == pytest.approx((2.8, 100))
    assert mgl({"accepted_at_1": [0.0, 0.0]}) == (1.0, 0)


def test_the_vocabulary_is_of_the_answers_alone(folders: tuple[Path, Path], drafter: PreTrainedModel) -> None:
    counts = answer_counts(answers(), 261)
    assert counts.sum() == answers().completion_tokens
    assert vocabulary_size(counts, 1.0) == 64
    assert vocabulary_size(np.ones(1000, dtype=np.int64), 0.5) == 512
    assert vocabulary_size(np.ones(100, dtype=np.int64), 1.0) == 100
    kept = drafter.t2d.nonzero().flatten()
    assert torch.equal(kept, torch.arange(len(kept)) + drafter.d2t)
    assert set(np.flatnonzero(counts).tolist()) <= set(kept.tolist())


def test_layers_that_are_not_there_are_refused(folders: tuple[Path, Path]) -> None:
    config = AutoConfig.from_pretrained(folders[0])
    assert target_layers(config, SETTINGS) == [1, 3, 4]
    assert target_layers(config, DrafterSettings(layers=(0, 5, 2))) == [0, 5, 2]
    with pytest.raises(DrafterError, match=r"drafter\.layers names layer 6; give three different layers from 0 to 5"):
        target_layers(config, DrafterSettings(layers=(2, 3, 6)))
    with pytest.raises(DrafterError, match="a layer counts once"):
        target_layers(config, DrafterSettings(layers=(2, 2, 3)))


def test_training_stops_when_acceptance_has_not_risen() -> None:
    assert not stalled([3.0, 3.1, 3.2], 3)
    assert not stalled([3.0, 3.0, 3.0, 3.1], 3)
    assert stalled([3.2, 3.1, 3.2, 3.201], 3)


def test_a_drafter_begins_by_copying_what_stood_in_the_prompt(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """On random tokens said twice, an untrained drafter guesses the second saying; one that starts at random cannot."""
    draw = np.random.default_rng(4)
    said = [draw.permutation(np.arange(5, 105))[:24].astype(np.int32) for _ in range(6)]
    rows = join([(np.concatenate([one, one]), len(one), "a") for one in said])
    share = {}
    for begin in ("copying", "random"):
        settings = DrafterSettings(begin=begin, vocabulary=1.0)
        make_drafter(folders[0], settings, rows, tmp_path / begin, seed=1)
        model = load_drafter(tmp_path / begin, PLACEMENT).eval()
        lengths = [length for found in accepted(model, rows) for length in found]
        share[begin] = sum(n > 0 for n in lengths) / len(lengths)
    assert share["copying"] > 0.5
    assert share["random"] < 0.2


def test_what_is_trained_is_counted_before_there_is_a_drafter(
    folders: tuple[Path, Path], drafter: PreTrainedModel
) -> None:
    trained = sum(parameter.numel() for parameter in drafter.parameters() if parameter.requires_grad)
    assert read_shape(folders[0]).drafter == trained
