"""Training as a user of TRL writes it: no Ray, no DeepSpeed, nothing of raytrain's loop. What our stages are beside.

`python -m benchmarks.plain_trl SPEC`, started by torchrun where there is more than one process (DDP over gloo or nccl).
SPEC is a JSON file of `Spec`. TRL's own trainers on TRL's own row formats (prompt and completion, or prompt, chosen and
rejected), PEFT's adapters through `peft_config`, TRL's defaults but for what makes the sides comparable: the same rows
once, the same optimizer and schedule, sdpa attention, as many threads, no evaluation, no checkpoints, one log line at
the end. Each process writes OUT/<rank>.json: tokens and end of each step, its loss and its peak memory.

Tokens are real ones, counted where a batch is collated (its attention mask), so padding counts for nothing.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from agentmill.runs import atomic_write_text
from raytrain.hardware import peak_memory_gib


class Spec(BaseModel):
    """What one process is to train. `rows` is the number of rows (or pairs) of a micro-batch of one process."""

    model_config = ConfigDict(frozen=True)

    stage: str
    model: Path
    data: Path
    out: Path
    processes: int
    threads: int
    device: Literal["cpu", "gpu"]
    rows: int
    accumulate: int
    max_length: int
    seed: int
    learning_rate: float
    schedule: str
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    gradient_checkpointing: bool
    by_length: bool
    lora: dict[str, Any] | None
    beta: float | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that SFTConfig and DPOConfig share."""
        return {
            "output_dir": str(self.out / "trainer"),
            "seed": self.seed,
            "num_train_epochs": 1,
            "per_device_train_batch_size": self.rows,
            "gradient_accumulation_steps": self.accumulate,
            "train_sampling_strategy": "group_by_length" if self.by_length else "random",
            "max_length": self.max_length,
            "gradient_checkpointing": self.gradient_checkpointing,
            "learning_rate": self.learning_rate,
            "lr_scheduler_type": self.schedule,
            "warmup_steps": self.warmup_ratio,
            "weight_decay": self.weight_decay,
            "max_grad_norm": self.max_grad_norm,
            "bf16": True,
            "use_cpu": self.device == "cpu",
            "ddp_backend": None if self.processes == 1 else "gloo" if self.device == "cpu" else "nccl",
            "ddp_find_unused_parameters": None if self.processes == 1 else False,
            "dataloader_pin_memory": self.device == "gpu",
            "save_strategy": "no",
            "eval_strategy": "no",
            "logging_steps": 10**9,
            "report_to": "none",
            "disable_tqdm": True,
            "model_init_kwargs": {"attn_implementation": "sdpa"},
        }


@dataclass
class Counted:
    """A collator that counts the real tokens of each batch it makes; all else is the collator inside."""

    inside: Any
    tokens: list[int] = field(default_factory=list)

    def __call__(self, features: list[Any]) -> Mapping[str, Any]:
        batch: Mapping[str, Any] = self.inside(features)
        self.tokens.append(int(batch["attention_mask"].sum()))
        return batch


def main(spec: Spec) -> None:
    """Train once, and write down what it took."""
    import torch

    if spec.device == "cpu":
        torch.set_num_threads(spec.threads)
    trainer = _trainer(spec)
    trainer.data_collator = counted = Counted(trainer.data_collator)
    ends = _clocked(trainer)
    began = time.monotonic()
    trainer.train()
    size = spec.accumulate
    tokens = [sum(counted.tokens[i : i + size]) for i in range(0, len(counted.tokens), size)][: len(ends)]
    result = {
        "tokens": tokens,
        "ends": [end - began for end in ends],
        "peak_gib": peak_memory_gib(spec.device),
        "loss": trainer.state.log_history[-1].get("train_loss"),
    }
    atomic_write_text(spec.out / f"{os.environ.get('RANK', '0')}.json", json.dumps(result) + "\n")


def _trainer(spec: Spec) -> Any:
    from datasets import Dataset
    from peft import LoraConfig

    columns = ["prompt", "chosen", "rejected"] if spec.stage == "dpo" else ["prompt", "completion"]
    rows = Dataset.from_parquet(str(spec.data), columns=columns)
    adapter = None if spec.lora is None else LoraConfig(task_type="CAUSAL_LM", **spec.lora)
    given = {"model": str(spec.model), "train_dataset": rows, "peft_config": adapter}
    if spec.stage == "dpo":
        from trl.trainer.dpo_config import DPOConfig
        from trl.trainer.dpo_trainer import DPOTrainer

        # Columns that the model does not take stay, for the sampler that groups by length: it knows no pairs itself.
        trainer = DPOTrainer(args=DPOConfig(beta=spec.beta, remove_unused_columns=False, **spec.settings), **given)
        pairs = trainer.train_dataset
        trainer.train_dataset = pairs.add_column("length", [_pair_length(pair) for pair in pairs])
        return trainer
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    return SFTTrainer(args=SFTConfig(**spec.settings), **given)


def _pair_length(pair: Mapping[str, Any]) -> int:
    return len(pair["prompt_ids"]) + max(len(pair["chosen_ids"]), len(pair["rejected_ids"]))


def _clocked(trainer: Any) -> list[float]:
    """The times at which steps end, filled in as they do."""
    from transformers import TrainerCallback

    ends: list[float] = []

    class Clock(TrainerCallback):
        """Notes the end of each optimizer step."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if args.device.type == "cuda":
                import torch

                torch.cuda.synchronize()
            ends.append(time.monotonic())

    trainer.add_callback(Clock())
    return ends


if __name__ == "__main__":
    main(Spec.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8")))
