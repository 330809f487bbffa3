"""A drafter made for a student, and read again: speculators' Eagle3DraftModel with one layer.

It takes the student's width, embeddings and head; what is trained is the projection of the student's states and one
Llama layer. Its head is of the tokens that answers are made of alone (`d2t`, `t2d`), so that it stays small beside a
vocabulary of 128,000. Its configuration names the student's folder: `vllm serve DRAFTER` finds it there.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, LlamaConfig, PreTrainedModel, set_seed

from agentmill.errors import UserError
from raytrain.data import Int64, TokenRows
from raytrain.drafter import attention
from raytrain.drafter.copying import write_copying
from raytrain.folders import from_folder
from raytrain.hardware import Placement
from raytrain.job import Job
from raytrain.reference import device_of, load_for_scoring
from raytrain.settings import DrafterSettings

DRAFTS_FOR = ("llama", "mistral", "qwen2", "qwen3")
MULTIPLE = 64  # the head's rows, so that its products are whole tiles


class DrafterError(UserError):
    """A student that no drafter can be made for. The message names the field, the rule and the remedy."""


def drafter_settings(job: Job) -> DrafterSettings:
    """The job's settings, which are those of the drafter."""
    assert isinstance(job.settings, DrafterSettings)
    return job.settings


def make_drafter(student: Path, settings: DrafterSettings, rows: TokenRows, out: Path, seed: int) -> int:
    """Write an untrained drafter for the student into `out`; its vocabulary is drawn from the answers of `rows`.

    Returns the size of that vocabulary.

    Raises:
        DrafterError: when the student's family is not known, or a layer that is asked for is not there.
    """
    from speculators.models.eagle3 import Eagle3DraftModel
    from speculators.train.vocab_mapping import build_vocab_mappings_from_distribution

    _quieten()
    config = AutoConfig.from_pretrained(student, local_files_only=True)
    counts = answer_counts(rows, config.vocab_size)
    size = vocabulary_size(counts, settings.vocabulary)
    frequency = {int(token): int(counts[token]) for token in np.flatnonzero(counts)}
    d2t, t2d = build_vocab_mappings_from_distribution(frequency, size, config.vocab_size)
    set_seed(seed)
    drafter = Eagle3DraftModel.from_training_args(
        _layer(config),
        t2d=t2d,
        d2t=d2t,
        draft_vocab_size=size,
        norm_before_residual=False,
        target_layer_ids=target_layers(config, settings),
        verifier_name_or_path=str(student.resolve()),
        ttt_steps=settings.draft_tokens,
        draft_attn_impl=attention.CPU_ATTENTION,
    )
    if settings.begin == "copying":
        write_copying(drafter, seed)
    drafter.to(torch.bfloat16).save_pretrained(str(out))
    return size


def load_drafter(folder: Path, placement: Placement) -> PreTrainedModel:
    """The drafter in `folder`, in this placement's type and attention, on the CPU; the student's parts are frozen."""
    from speculators.models.eagle3 import Eagle3DraftModel, Eagle3SpeculatorConfig

    _quieten()
    attention.register()
    config = Eagle3SpeculatorConfig.from_pretrained(str(folder), local_files_only=True)
    kind = attention.GPU_ATTENTION if placement.device == "gpu" else attention.CPU_ATTENTION
    config.transformer_layer_config._attn_implementation = kind
    drafter: PreTrainedModel = from_folder(Eagle3DraftModel, folder, config=config)
    if kind == attention.CPU_ATTENTION:
        drafter._create_mask_fn = _no_mask
    return drafter.to(placement.dtype)


def _no_mask(*_: Any, **__: Any) -> None:
    """In place of speculators' dense mask, which our attention does not look at and which takes longer to make than
    to use."""


def load_drafter_for_scoring(folder: Path, placement: Placement) -> PreTrainedModel:
    """The drafter in `folder`, on this worker's device, for looking only."""
    return load_drafter(folder, placement).eval().to(device_of(placement))


_students: dict[str, PreTrainedModel] = {}


def student_of(drafter: PreTrainedModel, placement: Placement) -> PreTrainedModel:
    """The student that the drafter drafts for, frozen, on this worker's device; a process keeps the last one."""
    folder = str(drafter.config.speculators_config.verifier.name_or_path)
    if folder not in _students:
        _students.clear()
        _students[folder] = load_for_scoring(Path(folder), placement).requires_grad_(False)
    return _students[folder]


def answer_counts(rows: TokenRows, vocabulary: int) -> Int64:
    """How often each token stands in the answers of these rows, [vocabulary]."""
    counts = np.zeros(vocabulary, dtype=np.int64)
    for index in range(len(rows)):
        tokens, start = rows.row(index)
        counts += np.bincount(tokens[start:], minlength=vocabulary)
    return counts


def vocabulary_size(counts: Int64, coverage: float) -> int:
    """The smallest number of tokens, rounded up to a multiple of MULTIPLE, that make up this share of all answers."""
    covered = np.cumsum(np.sort(counts)[::-1]) / max(1, int(counts.sum()))
    enough = int(np.searchsorted(covered, coverage - 1e-12)) + 1
    return min(-(-enough // MULTIPLE) * MULTIPLE, len(counts))


def target_layers(config: Any, settings: DrafterSettings) -> list[int]:
    """The layers whose states the drafter sees: those of the settings, else a low, a middle and a high one, as EAGLE-3
    and vLLM choose them where there are enough.

    Raises:
        DrafterError: when the student has no such layer, or one is named twice.
    """
    count = int(config.num_hidden_layers)
    if count < 3:
        raise DrafterError(
            f"the student has {count} layers and a drafter sees the states of three; leave out the drafter "
            f"(--set drafter=null)"
        )
    high = max(count - 3, count // 2 + 1)
    chosen = [2 if count >= 12 else 1, count // 2, high] if count > 3 else [0, 1, 2]
    layers = list(settings.layers or chosen)
    wrong = [layer for layer in layers if not 0 <= layer < count]
    if wrong or len(set(layers)) < len(layers):
        what = f"names layer {wrong[0]}" if wrong else f"is {layers}, and a layer counts once"
        raise DrafterError(f"drafter.layers {what}; give three different layers from 0 to {count - 1}")
    return layers


def _quieten() -> None:
    """Keep speculators from telling which files it opens."""
    from loguru import logger

    logger.disable("speculators")


def _layer(config: Any) -> LlamaConfig:
    """The configuration of the drafter's one layer: a Llama layer of the student's shape, whatever its family."""
    if config.model_type not in DRAFTS_FOR:
        raise DrafterError(
            f"model_type={config.model_type}: a drafter can be made for {', '.join(DRAFTS_FOR)}; leave out the drafter "
            f"(--set drafter=null) or take a student of one of these families"
        )
    heads = config.num_attention_heads
    return LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=1,
        num_attention_heads=heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        max_position_embeddings=config.max_position_embeddings,
        rms_norm_eps=config.rms_norm_eps,
        rope_parameters=config.rope_parameters,
        hidden_act=config.hidden_act,
        tie_word_embeddings=False,
        pad_token_id=config.pad_token_id,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
    )
