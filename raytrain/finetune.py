"""What each worker of supervised fine-tuning does: train the adapter, merge it, score held-out rows.

Runs inside a Ray Train worker; torch and the trainer are imported here and nowhere in the driver. Rank 0 leaves the
merged model and `result.json` in the work folder; result.json is written last and atomically, so that what stands
beside it is whole.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import torch
import torch.distributed
from datasets import Dataset
from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PrinterCallback, set_seed
from trl.trainer.sft_config import SFTConfig

from agentmill.runs import atomic_write_text
from raytrain import attention
from raytrain.batches import Collator, in_order
from raytrain.callbacks import ReportCheckpoint, StepLog
from raytrain.data import TokenRows
from raytrain.hardware import Placement
from raytrain.job import TRAIN, Job
from raytrain.merge import merge_adapter
from raytrain.trainer import (
    CompletionTrainer,
    completion_losses,
    deepspeed_config,
    score_completions,
    skip_shared_memory_op,
)
from raytrain.worker import prepare_process


def finetune(job: Job) -> None:
    """The loop of one worker, on every rank with the same job."""
    prepare_process(job.placement)
    attention.register()
    if job.placement.device == "cpu":
        skip_shared_memory_op()
    trainer = _trainer(job)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as folder:
            trainer.train(resume_from_checkpoint=folder)
            torch.distributed.barrier()
    else:
        trainer.train()
    if ray.train.get_context().get_world_rank() == 0:
        _merge(trainer, job)
    torch.distributed.barrier()
    losses = {name: _heldout(job, folder) for name, folder in (("base", job.base), ("sft", job.merged))}
    if ray.train.get_context().get_world_rank() == 0:
        result = {"steps": trainer.state.global_step, "losses": losses}
        atomic_write_text(job.result, json.dumps(result, indent=2) + "\n")


def _trainer(job: Job) -> CompletionTrainer:
    rows = TokenRows.load(job.sets[TRAIN])
    plan = job.plan(rows.lengths)
    tokenizer = AutoTokenizer.from_pretrained(job.base, local_files_only=True)
    log = StepLog(job.log, job.step_tokens(rows.lengths, plan))
    trainer = CompletionTrainer(
        model=_adapted(job),
        args=_arguments(job, _output_folder()),
        data_collator=Collator(rows, _pad_id(tokenizer)),
        train_dataset=Dataset.from_dict({"rows": plan}),
        processing_class=tokenizer,
        callbacks=[ReportCheckpoint(), log],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _adapted(job: Job) -> Any:
    set_seed(job.seed)
    lora = job.settings.lora
    model = _load(job.base, job.placement)
    score_completions(model)
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(job.targets),
    )
    return get_peft_model(model, config, autocast_adapter_dtype=False)


def _load(folder: Path, placement: Placement) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=placement.dtype, attn_implementation=placement.attention, local_files_only=True
    )


def _pad_id(tokenizer: Any) -> int:
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)


def _output_folder() -> str:
    """A folder on this node, emptied: Ray Train's working directory belongs to this session and this run."""
    folder = Path.cwd() / "trainer"
    if ray.train.get_context().get_local_rank() == 0:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    torch.distributed.barrier()
    return str(folder)


def _arguments(job: Job, output: str) -> SFTConfig:
    settings = job.settings
    return SFTConfig(
        output_dir=output,
        deepspeed=deepspeed_config(settings.worker.zero_stage, job.placement.precision),
        bf16=job.placement.precision == "bf16",
        use_cpu=job.placement.device == "cpu",
        seed=job.seed,
        num_train_epochs=1,  # the plan holds every epoch
        per_device_train_batch_size=1,  # one planned batch
        gradient_accumulation_steps=settings.accumulate,
        train_sampling_strategy="sequential",
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        max_length=None,
        gradient_checkpointing=False,
        optim="adamw_torch_fused",
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule if settings.schedule != "constant" else "constant_with_warmup",
        warmup_steps=settings.warmup_ratio,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        save_strategy="steps",
        save_steps=settings.save_every_steps,
        save_total_limit=1,
        logging_steps=settings.log_every_steps,
        disable_tqdm=True,
        report_to="none",
    )


def _merge(trainer: CompletionTrainer, job: Job) -> None:
    adapter = Path(str(trainer.args.output_dir)) / "adapter"
    trainer.accelerator.unwrap_model(trainer.model).save_pretrained(adapter)
    shutil.rmtree(job.merged, ignore_errors=True)
    job.merged.mkdir(parents=True)
    merge_adapter(job.base, adapter, job.merged)


def _heldout(job: Job, folder: Path) -> dict[str, dict[str, tuple[float, int]]]:
    """Summed loss and number of completion tokens of the model in `folder`, by held-out set and group."""
    model = _load(folder, job.placement).eval()
    if job.placement.device == "gpu":
        model.to(torch.device("cuda", torch.cuda.current_device()))
    return {name: _score(model, TokenRows.load(path), job) for name, path in job.sets.items() if name != TRAIN}


@torch.no_grad()
def _score(model: PreTrainedModel, rows: TokenRows, job: Job) -> dict[str, tuple[float, int]]:
    context = ray.train.get_context()
    names = sorted(set(rows.groups))
    number = np.array([names.index(group) for group in rows.groups])
    sums = torch.zeros(len(names), 2, dtype=torch.float64, device=model.device)
    collate = Collator(rows, 0)
    plan = in_order(rows.lengths, 2 * job.settings.tokens_per_batch)
    for batch in plan[context.get_world_rank() :: context.get_world_size()]:
        tensors = {key: value.to(model.device) for key, value in collate.tensors(batch).items()}
        losses = completion_losses(model, **tensors).double()
        counts = [int(rows.lengths[row] - rows.starts[row]) for row in batch]
        for row, part in zip(batch, losses.split(counts), strict=True):
            sums[number[row], 0] += part.sum()
            sums[number[row], 1] += len(part)
    torch.distributed.all_reduce(sums)
    return {name: (float(sums[i, 0]), int(sums[i, 1])) for i, name in enumerate(names)}
