"""`agentmill bench memory`: what the preflight computes beside what training really takes, on the CPU.

Each case trains a small Llama of random weights for a few steps in a process of its own, with the stage's trainer and
DeepSpeed, and tells the resident size before the model is made and at its peak. Compared are the computed parts with
the rise of the resident size, and the process's share with the size before. One worker each: how ZeRO shares out among
several is arithmetic (a test holds it against the ZeRO paper's table). The rise counts what torch's allocator and its
libraries take beside the tensors, so that it is a little more for small models. Training a drafter and quantising are
in `benchmarks.footprint_inference`; of them what is told before they begin is compared as well, the process included.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agentmill.config import UserError
from agentmill.log import say
from agentmill.runs import Run, bench_run
from benchmarks import footprint_inference
from raytrain.footprint import Batch, footprint
from raytrain.preflight import PROCESS_GIB
from raytrain.quantize import estimate as quantize
from raytrain.settings import LoraSettings, SftSettings, WorkerSettings
from raytrain.shape import shape_of

LENGTH, COUNTED = 128, 64  # tokens of a row, and those of them with a loss
STEPS = 3
MODEL: Mapping[str, Any] = {
    "model_type": "llama", "vocab_size": 8192, "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6,
    "num_attention_heads": 6, "num_key_value_heads": 3, "tie_word_embeddings": True,
}  # fmt: skip


class BenchFailed(UserError):
    """A case could not be measured. The message has the end of its output."""


@dataclass(frozen=True)
class Measured:
    """GiB of one case: computed without the process's own share, the rise that was measured, the process before, and
    of inference what is told before it begins, the process included."""

    computed: float
    rise: float
    before: float
    told: float | None = None

    @property
    def ratio(self) -> float:
        return self.computed / self.rise

    @property
    def peak(self) -> float:
        return self.before + self.rise


def cases() -> dict[str, SftSettings]:
    """Settings that differ in what they take, by name."""
    lora = LoraSettings(rank=16, alpha=32)
    few, many = 8 * LENGTH, 24 * LENGTH
    return {
        "full": _settings(None, few),
        "full_more_tokens": _settings(None, many),
        "full_checkpointing": _settings(None, many, gradient_checkpointing=True),
        "full_fp32": _settings(None, few, precision="fp32"),
        "full_zero_3": _settings(None, few, zero_stage=3),
        "lora": _settings(lora, few),
        "lora_more_tokens": _settings(lora, many),
    }


def _settings(lora: LoraSettings | None, tokens: int, **worker: Any) -> SftSettings:
    workers = WorkerSettings.model_validate({"workers": 1, "device": "cpu", "threads": 1, **worker})
    return SftSettings(lora=lora, tokens_per_batch=tokens, max_length=LENGTH, worker=workers)


def bench_memory(names: list[str]) -> Run:
    """Measure the cases of these names (all where there is none) and record memory.<case>.{computed,measured,ratio}.

    Raises:
        BenchFailed: when there is no case of a name, or one fails.
    """
    known = cases()
    every = [*known, *footprint_inference.CASES]
    unknown = [name for name in names if name not in every]
    if unknown:
        raise BenchFailed(f"--case {unknown[0]} is none; the cases are {', '.join(every)}")
    run = bench_run()
    for name in names or every:
        found = measure(known[name]) if name in known else measure_inference(name)
        say("memory", f"{name:<20} computed {found.computed:.2f} GiB, measured {found.rise:.2f}: {found.ratio:.2f}")
        run.record(f"memory.{name}.computed_gib", found.computed, unit="GiB")
        run.record(f"memory.{name}.measured_gib", found.rise, unit="GiB")
        run.record(f"memory.{name}.ratio", found.ratio)
        run.record(f"memory.{name}.process_gib", found.before, unit="GiB")
        if found.told is not None:
            say("memory", f"{name:<20} told {found.told:.2f} GiB, used {found.peak:.2f}: {found.told / found.peak:.2f}")
            run.record(f"memory.{name}.told_gib", found.told, unit="GiB")
            run.record(f"memory.{name}.peak_gib", found.peak, unit="GiB")
            run.record(f"memory.{name}.told_ratio", found.told / found.peak)
    return run


def measure(settings: SftSettings) -> Measured:
    """Train with these settings in a process of its own.

    Raises:
        BenchFailed: when it fails.
    """
    told = _in_a_process("benchmarks.footprint", settings.model_dump_json())
    rows = settings.tokens_per_batch // LENGTH
    batch = Batch(tokens=rows * LENGTH, counted=rows * COUNTED, longest=LENGTH)
    computed = footprint(shape_of(MODEL), settings, batch, on_gpu=False).total
    return Measured(computed, told["peak"] - told["before"], told["before"])


def measure_inference(name: str) -> Measured:
    """Train a drafter or quantise, as the case of this name says, in a process of its own.

    Raises:
        BenchFailed: when it fails.
    """
    told = _in_a_process("benchmarks.footprint_inference", name)
    own = PROCESS_GIB if name.startswith(footprint_inference.DRAFTER) else quantize.PROCESS_GIB
    return Measured(told["told"] - own, told["peak"] - told["before"], told["before"], told["told"])


def _in_a_process(module: str, argument: str) -> dict[str, float]:
    command = [sys.executable, "-m", module, argument]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchFailed(f"{argument} in a process of its own failed: {done.stderr[-1500:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def _train(settings: SftSettings) -> dict[str, float]:
    """In the child: the resident size before there is a model, and its peak after some steps, in GiB."""
    import psutil
    import torch
    from datasets import Dataset
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from trl.trainer.sft_config import SFTConfig

    from raytrain import attention
    from raytrain.batches import Collator
    from raytrain.hardware import CPU_ATTENTION, peak_memory_gib
    from raytrain.trainer import CompletionTrainer, deepspeed_config, score_completions, skip_shared_memory_op

    attention.register()
    skip_shared_memory_op()
    torch.set_num_threads(1)
    rows, plan = _rows(settings)
    with tempfile.TemporaryDirectory(prefix="agentmill-") as folder:
        arguments = SFTConfig(
            output_dir=folder,
            deepspeed=deepspeed_config(settings.worker, settings.worker.precision),
            bf16=settings.worker.precision == "bf16",
            use_cpu=True,
            per_device_train_batch_size=1,
            max_steps=STEPS,
            dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False,
            max_length=None,
            gradient_checkpointing=settings.worker.gradient_checkpointing,
            optim="adamw_torch_fused",
            save_strategy="no",
            disable_tqdm=True,
            report_to="none",
        )
        before = psutil.Process().memory_info().rss / 2**30
        dtype = torch.bfloat16 if settings.worker.precision == "bf16" else torch.float32
        model: Any = LlamaForCausalLM(LlamaConfig(**MODEL)).to(dtype)
        model.set_attn_implementation(CPU_ATTENTION)
        score_completions(model)
        if settings.lora:
            adapter = LoraConfig(task_type=TaskType.CAUSAL_LM, r=settings.lora.rank, target_modules="all-linear")
            model = get_peft_model(model, adapter, autocast_adapter_dtype=False)
        CompletionTrainer(
            model=model,
            args=arguments,
            data_collator=Collator(rows, 0),
            train_dataset=Dataset.from_dict({"rows": plan}),
            processing_class=PreTrainedTokenizerFast(tokenizer_object=_tokenizer(), eos_token="a", pad_token="a"),
        ).train()
        return {"before": before, "peak": peak_memory_gib()}


def _rows(settings: SftSettings) -> tuple[Any, list[list[int]]]:
    """Rows of random tokens, and a plan of STEPS batches that are filled to the budget."""
    from raytrain.data import TokenRows

    each = settings.tokens_per_batch // LENGTH
    count = each * STEPS
    rows = TokenRows(
        tokens=np.random.default_rng(0).integers(0, MODEL["vocab_size"], count * LENGTH, dtype=np.int32),
        offsets=np.arange(count + 1, dtype=np.int64) * LENGTH,
        starts=np.full(count, LENGTH - COUNTED, dtype=np.int32),
        groups=("row",) * count,
    )
    return rows, [list(range(i, i + each)) for i in range(0, count, each)]


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models

    return Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))


def main() -> None:
    """The child's whole work: settings in, sizes out."""
    import os

    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    os.environ.update({"ACCELERATE_USE_CPU": "true", **alone})
    print(json.dumps(_train(SftSettings.model_validate_json(sys.argv[1]))))


if __name__ == "__main__":
    main()
