"""Preference pairs: their rows and batches, and that the loss is TRL's own."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from raytrain import attention
from raytrain.batches import plan_batches
from raytrain.data import CorpusError, TokenRows, join
from raytrain.hardware import Placement
from raytrain.job import Job
from raytrain.pairs import PairCollator, tokenise_pairs
from raytrain.preference import PreferenceTrainer, preference_fields
from raytrain.reference import compute_reference, load_reference, log_probabilities, reference_file
from raytrain.settings import DpoSettings, LoraSettings, WorkerSettings
from tests.tiny_llama import write_tiny_llama

ANSWERS = [("planner", "yes", "no thanks"), ("explainer", "It is 4.", "5"), ("planner", "stop", "go on, please")]


def corpus(folder: Path, answers: list[tuple[str, str, str]]) -> Path:
    rows = [
        {
            "prompt": [{"role": "user", "content": f"question {i}?"}],
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
            "agent": agent,
            "source": "hand" if i else "judge",
        }
        for i, (agent, chosen, rejected) in enumerate(answers)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    return folder / "train.parquet"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def pairs(base: Path, tmp_path: Path) -> TokenRows:
    rows, _ = tokenise_pairs("dpo", corpus(tmp_path, ANSWERS), AutoTokenizer.from_pretrained(base), 128, "error")
    return rows


def adapted(base: Path) -> Any:
    """A model in fp32 with an adapter that has moved away from where it began."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(1)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "down_proj"])
    return get_peft_model(model, config)


def move(model: Any) -> None:
    torch.manual_seed(2)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B.default" in name:
                weight.normal_(std=2.0)


def arguments(folder: Path, **fields: Any) -> DPOConfig:
    return DPOConfig(
        output_dir=str(folder), use_cpu=True, bf16=False, report_to="none", gradient_checkpointing=False,
        max_length=None, remove_unused_columns=False, **fields,
    )  # fmt: skip


def ours(base: Path, folder: Path, collator: PairCollator, **fields: Any) -> PreferenceTrainer:
    trainer = PreferenceTrainer(
        model=adapted(base),
        args=arguments(folder, **fields),
        data_collator=collator,
        train_dataset=Dataset.from_dict({"rows": [[0, 1, 2]]}),
        processing_class=AutoTokenizer.from_pretrained(base),
    )
    move(trainer.model)
    return trainer


def theirs(base: Path, folder: Path, file: Path, **fields: Any) -> DPOTrainer:
    rows = pq.read_table(file, columns=["prompt", "chosen", "rejected"]).to_pylist()
    trainer = DPOTrainer(
        model=adapted(base),
        args=arguments(folder, **fields),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(base),
    )
    move(trainer.model)
    return trainer


def job_of(folder: Path, base: Path, **fields: Any) -> Job:
    return Job(
        stage="dpo", digest="d", work=folder, start=base, log=folder / "log", targets=(), seed=1, begun_with=1,
        settings=DpoSettings(worker=WorkerSettings(workers=1), **fields), placement=Placement("cpu", 1, "fp32"),
    )  # fmt: skip


def gradients(trainer: Any) -> dict[str, torch.Tensor]:
    return {n: w.grad for n, w in trainer.model.named_parameters() if w.grad is not None}


def loss_of(trainer: PreferenceTrainer, batch: dict[str, Any]) -> torch.Tensor:
    items = trainer._get_num_items_in_batch([batch], torch.device("cpu"))
    loss: torch.Tensor = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=items)
    return loss


@pytest.mark.parametrize("sft_weight", [0.0, 0.5])
def test_loss_and_gradients_are_those_of_trl(base: Path, pairs: TokenRows, tmp_path: Path, sft_weight: float) -> None:
    fields: dict[str, Any] = {"beta": 0.3}
    if sft_weight:
        fields |= {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, sft_weight]}
    trl = theirs(base, tmp_path / "theirs", tmp_path / "train.parquet", **fields)
    want = trl.compute_loss(trl.model, trl.data_collator([trl.train_dataset[i] for i in range(3)]))
    want.backward()
    collator = PairCollator(pairs, 0)
    trainer = ours(base, tmp_path / "ours", collator, **fields)
    got = loss_of(trainer, collator.tensors([0, 1, 2]))
    got.backward()
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    assert abs(want.item() - np.log(2)) > 0.01, "the adapter has not moved: any margin would do"
    wanted, found = gradients(trl), gradients(trainer)
    for name in found:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-4, atol=1e-6)
    assert set(found) == {name for name in wanted if ".ref." not in name}


def test_a_precomputed_reference_gives_the_same_loss(base: Path, pairs: TokenRows, tmp_path: Path) -> None:
    trainer = ours(base, tmp_path / "live", PairCollator(pairs, 0))
    batch = PairCollator(pairs, 0).tensors([0, 1, 2])
    chosen, rejected = trainer.compute_ref_log_probs(trainer.model, {k: v for k, v in batch.items() if k != "groups"})
    values = np.empty(len(pairs), np.float32)
    values[0::2], values[1::2] = chosen, rejected
    collator = PairCollator(pairs, 0, values)
    stored = ours(base, tmp_path / "stored", collator, precompute_ref_log_probs=True)
    torch.testing.assert_close(
        loss_of(stored, collator.tensors([2, 0])), loss_of(trainer, PairCollator(pairs, 0).tensors([2, 0]))
    )


def test_all_weights_against_stored_references_have_the_loss_of_a_second_model(
    base: Path, pairs: TokenRows, tmp_path: Path
) -> None:
    other = write_tiny_llama(tmp_path / "other", seed=5)
    trl = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(other, dtype=torch.float32),
        ref_model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        args=arguments(tmp_path / "theirs"),
        train_dataset=Dataset.from_list(
            pq.read_table(tmp_path / "train.parquet", columns=["prompt", "chosen", "rejected"]).to_pylist()
        ),
        processing_class=AutoTokenizer.from_pretrained(base),
    )
    want = trl.compute_loss(trl.model, trl.data_collator([trl.train_dataset[i] for i in range(3)]))
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    found = log_probabilities(model, pairs, [[0, 3], [1, 2, 4, 5]])
    collator = PairCollator(pairs, 0, np.array([found[row] for row in range(6)], np.float32))
    trainer = PreferenceTrainer(
        model=AutoModelForCausalLM.from_pretrained(other, dtype=torch.float32),
        args=arguments(tmp_path / "ours", precompute_ref_log_probs=True),
        data_collator=collator,
        train_dataset=Dataset.from_dict({"rows": [[0, 1, 2]]}),
        processing_class=AutoTokenizer.from_pretrained(base),
    )
    torch.testing.assert_close(loss_of(trainer, collator.tensors([0, 1, 2])), want, rtol=1e-5, atol=1e-6)


def test_a_kill_costs_only_the_references_that_were_not_kept(base: Path, pairs: TokenRows, tmp_path: Path) -> None:
    attention.register()
    job = job_of(tmp_path, base)
    pairs.save(tmp_path / "rows" / "train")
    kept = np.array([np.nan, 7, np.nan, np.nan, 8, np.nan], np.float32)
    reference_file(job, "train").parent.mkdir()
    np.save(reference_file(job, "train"), kept)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        compute_reference(job, ["train"])
    finally:
        torch.distributed.destroy_process_group()
    found = load_reference(job, "train")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    fresh = log_probabilities(model, pairs, [[row] for row in range(6)])
    assert found[[1, 4]].tolist() == [7, 8]
    assert found[[0, 2, 3, 5]] == pytest.approx([fresh[row] for row in (0, 2, 3, 5)], rel=1e-4)


def test_pairs_of_a_step_count_alike_in_whatever_batches_they_lie(base: Path, pairs: TokenRows, tmp_path: Path) -> None:
    collator = PairCollator(pairs, 0)
    trainer = ours(base, tmp_path, collator, loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.7])
    batches = [collator.tensors([0, 1]), collator.tensors([2]), collator.tensors([])]
    items = trainer._get_num_items_in_batch(batches, torch.device("cpu"))
    parts = [trainer.compute_loss(trainer.model, dict(b), num_items_in_batch=items) for b in batches]
    torch.testing.assert_close(sum(parts), loss_of(trainer, collator.tensors([0, 1, 2])))
    parts[-1].backward()  # a rank without a pair takes part in the backward pass all the same


def test_the_log_has_loss_and_margin_by_agent(base: Path, pairs: TokenRows, tmp_path: Path) -> None:
    collator = PairCollator(pairs, 0)
    trainer = ours(base, tmp_path, collator)
    loss = loss_of(trainer, collator.tensors([0, 1, 2])).item()
    logs = {"loss": loss}
    trainer.log(logs)
    assert (logs["explainer/loss"] + 2 * logs["planner/loss"]) / 3 == pytest.approx(loss)
    assert logs["pairs/margin"] == pytest.approx((logs["explainer/margin"] + 2 * logs["planner/margin"]) / 3)
    loss_of(trainer, collator.tensors([1]))
    alone: dict[str, float] = {"loss": 0.0}
    trainer.log(alone)
    assert "planner/loss" not in alone
    assert alone["explainer/loss"] == pytest.approx(logs["explainer/loss"])


def test_both_sides_follow_one_prompt_and_count(pairs: TokenRows, base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    batch = PairCollator(pairs, 0).tensors([1, 0])
    answers = [
        tokenizer.decode(ids[mask == 1]) for ids, mask in zip(batch["input_ids"], batch["completion_mask"], strict=True)
    ]
    assert answers == ["It is 4.<|end|>", "yes<|end|>", "5<|end|>", "no thanks<|end|>"]
    prompts = [
        tokenizer.decode(ids[: mask.argmax()])
        for ids, mask in zip(batch["input_ids"], batch["completion_mask"], strict=True)
    ]
    assert prompts == [f"<|user|>question {i}?<|end|><|assistant|>" for i in (1, 0, 1, 0)]
    assert batch["groups"].tolist() == [0, 1]


def test_a_pair_is_dropped_whole_when_one_side_is_too_long(base: Path, tmp_path: Path) -> None:
    file = corpus(tmp_path, [*ANSWERS, ("planner", "yes", "no" * 40)])
    tokenizer = AutoTokenizer.from_pretrained(base)
    rows, report = tokenise_pairs("dpo", file, tokenizer, 48, "drop")
    assert (rows.items, len(rows), report.rows, report.over_by_group) == (3, 6, 4, {"planner": 1})
    assert report.sources == {"judge": 1, "hand": 3}
    assert report.spread["planner"]["rejected"]["max"] == 81
    assert "4 pairs (hand 3, judge 1), 3 kept" in report.text()
    assert any(line.startswith("explainer prompt p50") for line in report.lines())
    with pytest.raises(CorpusError, match=r"1 of 4 pairs of train.parquet are longer than dpo.max_length=48"):
        tokenise_pairs("dpo", file, tokenizer, 48, "error")


def test_batches_of_pairs_keep_the_budget_with_both_sides(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    rows = join([(np.zeros(draw.integers(5, 60), np.int32), 2, "planner") for _ in range(200)], sides=2)
    plan = plan_batches(rows.item_costs, 256, 2, 1, seed=1)
    assert sorted(pair for batch in plan for pair in batch) == list(range(100))
    sizes = [PairCollator(rows, 0).tensors(batch)["input_ids"].numel() for batch in plan if batch]
    assert max(sizes) <= 256
    assert rows.item_tokens.sum() == rows.lengths.sum()
    rows.save(tmp_path / "rows")
    loaded = TokenRows.load(tmp_path / "rows")
    assert (loaded.items, loaded.take([3]).lengths.tolist()) == (100, rows.lengths[6:8].tolist())


def test_what_the_settings_ask_for_reaches_the_trainer(base: Path, tmp_path: Path) -> None:
    plain = preference_fields(job_of(tmp_path, base))
    assert (plain["loss_type"], plain["disable_dropout"]) == (["sigmoid"], True)
    asked = preference_fields(job_of(tmp_path, base, sft_weight=0.5, beta=0.2, lora=LoraSettings(dropout=0.1)))
    assert (asked["loss_type"], asked["loss_weights"], asked["beta"]) == (["sigmoid", "sft"], [1.0, 0.5], 0.2)
    assert not asked["disable_dropout"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tokens_per_batch": 1000, "max_length": 512}, "tokens_per_batch=1000 is below twice max_length=512"),
        ({"lora": None}, "lora=null needs precompute_reference=true"),
        ({"packing": True}, "packing=true is not for pairs"),
    ],
)
def test_settings_refuse_what_cannot_be_trained(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DpoSettings(**fields)
