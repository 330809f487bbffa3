"""What each worker of a training stage does: train, put the result together, score held-out rows.

Runs inside a Ray Train worker; torch and the trainer are imported here and nowhere in the driver. Rank 0 leaves the
trained model in the work folder (see `raytrain.job`), merged with its start where that is asked for; the files that say
so are written last and atomically, so that what they stand for is whole. What differs between the stages is in
`raytrain.objectives`.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray.train
import torch
import torch.distributed
from datasets import Dataset
from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoTokenizer, PreTrainedModel, PrinterCallback, set_seed
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from agentmill.runs import atomic_write_text
from raytrain import attention
from raytrain.blend import blend_folder
from raytrain.callbacks import StepLog
from raytrain.data import TokenRows
from raytrain.folders import copy_tokenizer
from raytrain.job import HELDOUT, HELDOUT_BARE, TRAIN, Job
from raytrain.merge import merge_adapter
from raytrain.meter import meter_of
from raytrain.objectives import Measure, Objective, objective_of
from raytrain.resume import Start, begin
from raytrain.saving import ReportCheckpoint
from raytrain.settings import MergeSettings
from raytrain.stopping import StopWhenTold
from raytrain.sweep import file_name
from raytrain.trainer import deepspeed_config, skip_shared_memory_op
from raytrain.worker import prepare_process

Measured = dict[str, dict[str, list[float]]]  # measure -> group -> [total, count]


def train(job: Job) -> dict[str, Any]:
    """The loop of one worker, on every rank with the same job.

    Returns {"stopped": why, "step": the last one saved} where it was told to stop; else {}, with everything in place.
    """
    prepare_process(job.placement)
    attention.register()
    if job.placement.device == "cpu":
        skip_shared_memory_op()
    objective, stopping = objective_of(job), StopWhenTold(job.stop, job.note)
    objective.before(job)
    stopped = {} if job.finished.is_file() else _fit(job, objective, stopping)
    if stopped:
        return stopped
    result = json.loads(job.finished.read_text(encoding="utf-8"))
    if job.settings.merge is not None:
        _blend(job, job.settings.merge)
        scores = result["scores"]
        result["scores"] = {"start": scores["start"], "trained": scores["end"]}
        result["scores"]["end"] = score_folder(job, objective, job.merged)
    if _rank() == 0:
        atomic_write_text(job.result, json.dumps(result, indent=2) + "\n")
    return {}


def try_merges(job: Job, merges: Sequence[MergeSettings], results: Path) -> dict[str, Any]:
    """Score merges of the job's trained model with its start, each into a file of `results`; what is there stays.

    Runs on every rank; returns as `train`.
    """
    prepare_process(job.placement)
    attention.register()
    objective, stopping = objective_of(job), StopWhenTold(job.stop, job.note)
    objective.before(job)
    for done, merge in enumerate(merges):
        file = results / file_name(merge)
        if file.is_file():
            continue
        if stopping.told():
            return {"stopped": stopping.why, "step": done}
        _blend(job, merge)
        scores = score_folder(job, objective, job.merged)
        if _rank() == 0:
            atomic_write_text(file, json.dumps(scores, indent=2) + "\n")
            shutil.rmtree(job.merged)
        torch.distributed.barrier()
    return {}


def _blend(job: Job, merge: MergeSettings) -> None:
    """Rank 0 writes the merge of the job's start and trained model to `job.merged`; all ranks wait for it."""
    if _rank() == 0:
        shutil.rmtree(job.merged, ignore_errors=True)
        job.merged.mkdir()
        blend_folder(job.start, job.trained, job.merged, merge)
    torch.distributed.barrier()


def _fit(job: Job, objective: Objective, stopping: StopWhenTold) -> dict[str, Any]:
    """Train, or go on with it, and leave the trained model and its scores in the work folder; returns as `train`."""
    start = begin(job)
    trainer = _trainer(job, objective, start, stopping)
    trainer.train(resume_from_checkpoint=str(start.checkpoint) if start.checkpoint else None)
    if stopping.why or stopping.told():
        return {"stopped": stopping.why, "step": trainer.state.global_step}
    _save(trainer, job)
    steps, scores = trainer.state.global_step, {}
    del trainer  # its optimizer leaves the memory to the scoring
    for name, folder in (("start", job.begin), ("end", job.trained)):
        if stopping.told():
            return {"stopped": stopping.why, "step": steps}
        scores[name] = score_folder(job, objective, folder)
    if _rank() == 0:
        result = {"steps": steps, "scores": scores}
        atomic_write_text(job.finished, json.dumps(result, indent=2) + "\n")
    torch.distributed.barrier()
    return {}


def _rank() -> int:
    return int(ray.train.get_context().get_world_rank())


def _trainer(job: Job, objective: Objective, start: Start, stopping: StopWhenTold) -> Any:
    rows = TokenRows.load(job.sets[TRAIN])
    plan = job.plan(rows)
    tokenizer = AutoTokenizer.from_pretrained(job.start, local_files_only=True)
    report = ReportCheckpoint(job.storage, start.attempt, start.nodes, job.settings.keep_checkpoints)
    log = StepLog(
        job.log, job.step_tokens(rows.item_tokens, plan), device=job.placement.device, meter=meter_of(job, rows)
    )
    trainer = objective.trainer(
        model=_model(job, objective),
        args=_arguments(job, objective, _output_folder(), start),
        data_collator=objective.collator(job, rows, _pad_id(tokenizer)),
        train_dataset=Dataset.from_dict({"rows": plan, "place": list(range(len(plan)))}),
        processing_class=tokenizer,
        callbacks=[report, log, stopping],
    )
    trainer.remove_callback(PrinterCallback)
    objective.equip(trainer, job)
    return trainer


def _model(job: Job, objective: Objective) -> Any:
    set_seed(job.seed)
    lora = job.settings.lora
    model = objective.build(job)
    objective.prepare(model)
    objective.freeze(model, job)
    if lora is None:
        return model
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(job.targets),
    )
    return get_peft_model(model, config, autocast_adapter_dtype=False)


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


def _arguments(job: Job, objective: Objective, output: str, start: Start) -> Any:
    settings = job.settings
    return objective.config(
        output_dir=output,
        deepspeed=deepspeed_config(settings.worker, job.placement.precision, resized=start.resized),
        bf16=job.placement.precision == "bf16",
        use_cpu=job.placement.device == "cpu",
        seed=job.seed,
        num_train_epochs=1,  # the plan holds every epoch
        per_device_train_batch_size=1,  # one planned batch
        gradient_accumulation_steps=job.accumulate,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        gradient_checkpointing=settings.worker.gradient_checkpointing,
        optim="adamw_torch_fused",
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule if settings.schedule != "constant" else "constant_with_warmup",
        warmup_steps=settings.warmup_ratio,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        save_strategy="steps",
        save_steps=settings.save_every_steps,
        save_total_limit=None,  # each is removed once it is uploaded (raytrain.saving)
        logging_steps=settings.log_every_steps,
        disable_tqdm=True,
        report_to="none",
        **objective.fields(job),
    )


def _save(trainer: Any, job: Job) -> None:
    """The trained model as a plain folder; all ranks take part, since ZeRO 3 gathers the weights from them."""
    saved = Path(str(trainer.args.output_dir)) / "saved"
    if job.settings.lora is None and job.settings.worker.zero_stage < 3:
        if _rank() == 0:  # whole on every rank; save_model would copy tensors first, and write tied weights twice
            trainer.model.save_pretrained(str(saved))
    else:
        trainer.save_model(str(saved))
    unset_hf_deepspeed_config()  # under ZeRO 3, models that are loaded from here on would be cut up among the ranks
    if _rank() == 0:
        shutil.rmtree(job.trained, ignore_errors=True)
        if job.settings.lora is None:
            shutil.copytree(saved, job.trained, ignore=shutil.ignore_patterns("training_args.bin"))
            copy_tokenizer(job.start, job.trained)
        else:
            job.trained.mkdir(parents=True)
            merge_adapter(job.start, saved, job.trained)
    torch.distributed.barrier()


@torch.no_grad()
def score_folder(job: Job, objective: Objective, folder: Path) -> dict[str, Measured]:
    """What is measured of the model in `folder`, by held-out set; every rank takes its share and has the whole."""
    model = objective.load(folder, job.placement)
    heldout = {name: TokenRows.load(path) for name, path in job.sets.items() if name != TRAIN}
    measures = dict.fromkeys((HELDOUT, HELDOUT_BARE), objective.measure)
    return {name: _score(model, rows, job, measures.get(name, objective.others)) for name, rows in heldout.items()}


def _score(model: PreTrainedModel, rows: TokenRows, job: Job, measure: Measure) -> Measured:
    workers, names = ray.train.get_context().get_world_size(), sorted(set(rows.groups))
    measured = measure(model, rows, job, lambda plan: plan[_rank() :: workers])
    for sums in measured.values():
        torch.distributed.all_reduce(sums)
    return {
        what: {name: [float(value) for value in sums[i]] for i, name in enumerate(names)}
        for what, sums in measured.items()
    }
