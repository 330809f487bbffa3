"""What a training stage can be told. Imports nothing heavy, so that configurations are checked without torch."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from agentmill.config import Strict

Overflow = Literal["drop", "error"]


class WorkerSettings(Strict):
    """How a stage is spread over Ray Train workers.

    `workers` is the world size and is fixed for a run: ZeRO's optimizer shards do not resize. `threads` per worker,
    0 divides the machine's cores among the workers. `device` auto takes GPUs where Ray sees enough of them.
    """

    workers: Annotated[int, Field(ge=1)] = 2
    threads: Annotated[int, Field(ge=0)] = 0
    device: Literal["auto", "cpu", "gpu"] = "auto"
    zero_stage: Literal[1, 2] = 1
    precision: Literal["bf16", "fp32"] = "bf16"
    max_failures: Annotated[int, Field(ge=0)] = 3


class LoraSettings(Strict):
    """The adapter: `targets` is all-linear or a list of module names such as q_proj. `alpha` is the paper's scale
    alpha / rank times rank: an update is scaled by alpha / rank."""

    rank: Annotated[int, Field(ge=1)] = 32
    alpha: Annotated[float, Field(gt=0)] = 64.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"

    @field_validator("targets")
    @classmethod
    def _some_target(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not value:
            raise ValueError("names no module; give all-linear or a list such as [q_proj, v_proj]")
        return value


class SftSettings(Strict):
    """Supervised fine-tuning on corpora/sft.

    `tokens_per_batch` counts padded tokens of one worker's micro-batch; a step is `workers` x `accumulate` of them.
    The number of steps follows from the corpus, `epochs` and `max_steps` alone, so that a run that was killed and
    goes on is the run that was not. `overflow` says what happens to rows longer than `max_length`: `error` stops
    before training, `drop` leaves them out and counts them; nothing is ever cut.
    """

    worker: WorkerSettings = WorkerSettings()
    lora: LoraSettings = LoraSettings()
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.05
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    epochs: Annotated[int, Field(ge=1)] = 1
    max_steps: Annotated[int, Field(ge=1)] | None = None
    tokens_per_batch: Annotated[int, Field(ge=1)] = 1024
    accumulate: Annotated[int, Field(ge=1)] = 1
    max_length: Annotated[int, Field(ge=8)] = 512
    overflow: Overflow = "drop"
    save_every_steps: Annotated[int, Field(ge=1)] = 100
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2
    log_every_steps: Annotated[int, Field(ge=1)] = 1
    heldout_rows: Annotated[int, Field(ge=1)] = 1000

    @model_validator(mode="after")
    def _batch_holds_a_row(self) -> "SftSettings":
        if self.tokens_per_batch < self.max_length:
            raise ValueError(
                f"tokens_per_batch={self.tokens_per_batch} is below max_length={self.max_length}: a row of that length "
                f"would fit in no batch; raise tokens_per_batch or lower max_length"
            )
        return self
