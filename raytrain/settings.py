"""What the training stages can be told. Imports nothing heavy, so that configurations are checked without torch.

The stages build on each other: expand -> cpt -> sft -> dpo. A stage whose settings are null is left out, and the next
one starts from the newest model there is (see `cluster.chain`).
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from agentmill.config import Strict

Overflow = Literal["drop", "error", "split"]
Source = Literal["combined", "synthetic", "external"]
Scheme = Literal["fp8", "int8"]


class WorkerSettings(Strict):
    """How a stage is spread over Ray Train workers.

    `workers` is the world size. `threads` per worker, 0 divides the machine's cores among the workers. `device` auto
    takes GPUs where Ray sees enough of them. `zero_stage` shards optimizer state (1), gradients too (2), parameters
    too (3); `offload` moves what is sharded to the host's memory: the optimizer (and, with ZeRO 3, the parameters).
    `workers` may be changed half-way: steps stay what they were, and the new workers share them out (raytrain.resize).
    `max_failures` counts workers that died; one that was told to stop (SIGTERM) saves first and does not count.
    """

    OPERATIONAL: ClassVar[frozenset[str]] = frozenset({"workers", "threads", "max_failures"})

    workers: Annotated[int, Field(ge=1)] = 2
    threads: Annotated[int, Field(ge=0)] = 0
    device: Literal["auto", "cpu", "gpu"] = "auto"
    zero_stage: Literal[1, 2, 3] = 1
    offload: Literal["none", "optimizer", "parameters"] = "none"
    gradient_checkpointing: bool = False
    precision: Literal["bf16", "fp32"] = "bf16"
    max_failures: Annotated[int, Field(ge=0)] = 3

    @model_validator(mode="after")
    def _offload_fits_stage(self) -> "WorkerSettings":
        if self.offload == "parameters" and self.zero_stage != 3:
            raise ValueError(
                f"offload=parameters needs zero_stage=3, and it is {self.zero_stage}: below 3 every worker keeps all "
                f"parameters; set zero_stage=3 or offload=optimizer"
            )
        return self


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


class MergeSettings(Strict):
    """The stage's model merged with the one it started from: `weight` 1 is the trained model, 0 the start.

    `density` is the share of each tensor's changes that TIES keeps. `agentmill merge sweep` measures weights.
    """

    method: Literal["linear", "slerp", "ties"] = "linear"
    weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    density: Annotated[float, Field(gt=0, le=1)] = 0.2


class ExpandSettings(Strict):
    """Block expansion: one new block after every `every` blocks, which must divide the number of blocks."""

    every: Annotated[int, Field(ge=1)] = 4


class StageSettings(Strict):
    """What every stage that trains can be told.

    `tokens_per_batch` counts padded (or, with `packing`, packed) tokens of one worker's micro-batch; a step is
    `workers` x `accumulate` of them. The number of steps follows from the corpus, `epochs` and `max_steps` alone, so
    that a run that was killed and goes on is the run that was not. `overflow` says what happens to rows longer than
    `max_length`: `error` stops before training, `drop` leaves them out and counts them, `split` (documents alone, so
    cpt alone) makes several of one; nothing is ever cut silently.
    `lora` null trains the weights themselves. `merge` null keeps the trained model as it is.
    """

    OPERATIONAL: ClassVar[frozenset[str]] = frozenset({"log_every_steps", "save_every_steps", "keep_checkpoints"})
    SPLITS: ClassVar[bool] = False

    worker: WorkerSettings = WorkerSettings()
    lora: LoraSettings | None = LoraSettings()
    learning_rate: Annotated[float, Field(gt=0)]
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.05
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    epochs: Annotated[int, Field(ge=1)] = 1
    max_steps: Annotated[int, Field(ge=1)] | None = None
    tokens_per_batch: Annotated[int, Field(ge=1)] = 1024
    accumulate: Annotated[int, Field(ge=1)] = 1
    packing: bool = False
    max_length: Annotated[int, Field(ge=8)] = 512
    overflow: Overflow = "drop"
    merge: MergeSettings | None = None
    save_every_steps: Annotated[int, Field(ge=1)] = 100
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2
    log_every_steps: Annotated[int, Field(ge=1)] = 1
    heldout_rows: Annotated[int, Field(ge=1)] = 1000

    @property
    def least_tokens(self) -> int:
        """The smallest `tokens_per_batch` that holds whatever `max_length` lets through."""
        return self.max_length

    @model_validator(mode="after")
    def _batch_holds_a_row(self) -> "StageSettings":
        if self.tokens_per_batch < self.max_length:
            raise ValueError(
                f"tokens_per_batch={self.tokens_per_batch} is below max_length={self.max_length}: a row of that length "
                f"would fit in no batch; raise tokens_per_batch or lower max_length"
            )
        return self

    @model_validator(mode="after")
    def _rows_can_be_split(self) -> "StageSettings":
        if self.overflow == "split" and not self.SPLITS:
            raise ValueError(
                "overflow=split is for the documents of cpt: an agent's prompt and answer mean nothing in pieces; "
                "set overflow=drop or overflow=error"
            )
        return self

    def step_batches(self, workers: int) -> int:
        """Batches of one step over all workers, in a run that begins with so many."""
        return workers * self.accumulate


class PhaseSettings(Strict):
    """One phase of the length curriculum: documents of at most `length` tokens, context included; `share` of the
    tokens, relative to the other phases' shares."""

    length: Annotated[int, Field(ge=8)]
    share: Annotated[float, Field(gt=0)] = 1.0


class CptSettings(StageSettings):
    """Context-aware continual pretraining on corpora/cpt: all weights, or with `train: new_blocks` only those of the
    blocks that expansion added (as LLaMA Pro does; the paper trains all).

    `curriculum` lists phases of growing length, the last of `max_length`; empty is one phase. `tokens_per_step`, the
    same in every phase, sets the accumulation in place of `accumulate`: workers x accumulation x tokens_per_batch. A
    document over the length of its phase is split into pieces that each have the context again (`overflow: split`).
    """

    SPLITS: ClassVar[bool] = True

    lora: LoraSettings | None = None
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.01
    packing: bool = True
    overflow: Overflow = "split"
    curriculum: tuple[PhaseSettings, ...] = ()
    tokens_per_step: Annotated[int, Field(ge=1)] | None = None
    train: Literal["all", "new_blocks"] = "all"

    def step_batches(self, workers: int) -> int:
        """Batches of one step over all workers, in a run that begins with so many."""
        if self.tokens_per_step is None:
            return super().step_batches(workers)
        return self.tokens_per_step // self.tokens_per_batch

    @field_validator("curriculum")
    @classmethod
    def _lengths_grow(cls, value: tuple[PhaseSettings, ...]) -> tuple[PhaseSettings, ...]:
        lengths = [phase.length for phase in value]
        if lengths != sorted(set(lengths)):
            raise ValueError(
                f"the phases' lengths are {lengths}, and each must be longer than the one before; sort them"
            )
        return value

    @model_validator(mode="after")
    def _curriculum_fits(self) -> "CptSettings":
        if self.curriculum and self.curriculum[-1].length != self.max_length:
            raise ValueError(
                f"curriculum ends with length {self.curriculum[-1].length} and max_length={self.max_length}: the last "
                f"phase takes the longest documents; make the two equal"
            )
        if self.curriculum and not self.packing:
            raise ValueError(
                "curriculum needs packing=true, since only packed rows hold the same tokens in every phase"
            )
        if self.curriculum and self.overflow != "split":
            raise ValueError(
                f"curriculum needs overflow=split, and it is {self.overflow}: a document may be longer than its phase"
            )
        return self

    @model_validator(mode="after")
    def _step_is_whole_batches(self) -> "CptSettings":
        if self.tokens_per_step is None:
            return self
        each = self.worker.workers * self.tokens_per_batch
        if self.accumulate != 1:
            raise ValueError(
                f"accumulate={self.accumulate} and tokens_per_step={self.tokens_per_step} both say how long a step is; "
                f"leave out accumulate"
            )
        if self.tokens_per_step % each:
            below = self.tokens_per_step // each * each
            remedy = f"{below} or {below + each}" if below else str(each)
            raise ValueError(
                f"tokens_per_step={self.tokens_per_step} is no multiple of workers x tokens_per_batch = "
                f"{self.worker.workers} x {self.tokens_per_batch} = {each}; use {remedy}"
            )
        return self

    @model_validator(mode="after")
    def _new_blocks_have_no_adapter(self) -> "CptSettings":
        if self.train == "new_blocks" and self.lora is not None:
            raise ValueError("train=new_blocks trains the new blocks' own weights; set lora to null")
        return self


class SftSettings(StageSettings):
    """Supervised fine-tuning on corpora/sft."""

    learning_rate: Annotated[float, Field(gt=0)] = 2e-3


class DpoSettings(StageSettings):
    """Direct preference optimisation on corpora/dpo; the reference is the model that the stage started from.

    `beta` scales the implicit reward. `sft_weight` adds so much of the chosen answers' negative log-likelihood to the
    loss (RPO, arXiv 2404.19733), against the fall of both answers' probabilities. `precompute_reference` computes the
    reference's log-probabilities once, before training, in place of a second forward pass in every step.
    `tokens_per_batch` counts both sides of a pair.
    """

    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.1
    beta: Annotated[float, Field(gt=0)] = 0.1
    sft_weight: Annotated[float, Field(ge=0)] = 0.0
    precompute_reference: bool = False

    @property
    def least_tokens(self) -> int:
        """Both sides of the longest pair."""
        return 2 * self.max_length

    @model_validator(mode="after")
    def _pairs_can_be_trained(self) -> "DpoSettings":
        if self.tokens_per_batch < self.least_tokens:
            raise ValueError(
                f"tokens_per_batch={self.tokens_per_batch} is below twice max_length={self.max_length}: a pair of that "
                f"length would fit in no batch, since both sides lie in one; raise tokens_per_batch or lower max_length"
            )
        if self.lora is None and not self.precompute_reference:
            raise ValueError(
                "lora=null needs precompute_reference=true, and it is false: without an adapter to turn off, the model "
                "that the stage started from is gone after the first step; set precompute_reference=true or give lora"
            )
        if self.packing:
            raise ValueError(
                "packing=true is not for pairs: both sides of a pair lie in one batch, which packing would tear apart; "
                "set packing=false"
            )
        return self


class StatesEngine(Strict):
    """The vLLM engines that compute the student's states (`drafter.states: engine`), each in an actor of its own.

    `replicas` engines, each over `tensor_parallel` GPUs of one node. A worker asks for the states of `ahead` batches
    before it needs them: that many lie in Ray's object store for each worker, of four times the student's width a
    token. `kv_cache_gib` is the key-value cache on a CPU, which must hold a row of `max_length`; on a GPU vLLM takes
    what is left.
    """

    replicas: Annotated[int, Field(ge=1)] = 1
    tensor_parallel: Annotated[int, Field(ge=1)] = 1
    ahead: Annotated[int, Field(ge=1, le=64)] = 2
    kv_cache_gib: Annotated[int, Field(ge=1)] = 1


class DrafterSettings(StageSettings):
    """An EAGLE-3 drafter (arXiv 2503.01840) for the newest model, trained on answers that this model gave itself.

    `draft_tokens` are guessed at a time, as many as there are steps of training-time test; a step's loss weighs
    `step_decay` times that of the one before. `source` says whose prompts: `synthetic` (the simulated conversations),
    `external` (`data.public`) or `combined`, in the shares of `corpora.mixture.drafter`. `vocabulary` is the share of
    the answers' tokens that the drafter's own vocabulary must cover. `layers` are those of the student whose states it
    sees (state i goes into layer i), by default a low, a middle and a high one; vLLM takes three. Every
    `check_every_steps` steps held-out acceptance is measured, and training stops when it has not risen for `patience`
    checks; null never does. `begin` says what its layer does before it is trained: copy (see raytrain.drafter.copying)
    or nothing yet. `contract` loads the untrained drafter in the serving engine before a long training begins.
    `states` says where the student's states come from: `online`, every worker holds the student whole and runs it, or
    `engine`, where the student is too large for that or its weights are quantised (see `engine`).
    """

    OPERATIONAL: ClassVar[frozenset[str]] = StageSettings.OPERATIONAL | {"contract", "engine"}

    lora: None = None
    merge: None = None
    packing: Literal[True] = True
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    schedule: Literal["cosine", "linear", "constant"] = "linear"
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.01
    epochs: Annotated[int, Field(ge=1)] = 3
    draft_tokens: Annotated[int, Field(ge=1, le=16)] = 3
    step_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    loss: Literal["kl_div", "ce", "tv", "nla", "lk_hybrid"] = "kl_div"
    source: Source = "combined"
    vocabulary: Annotated[float, Field(gt=0, le=1)] = 0.9999
    layers: tuple[int, int, int] | None = None
    begin: Literal["copying", "random"] = "copying"
    check_every_steps: Annotated[int, Field(ge=1)] = 200
    patience: Annotated[int, Field(ge=1)] | None = 3
    contract: bool = True
    states: Literal["online", "engine"] = "online"
    engine: StatesEngine = StatesEngine()

    @model_validator(mode="after")
    def _held_whole(self) -> "DrafterSettings":
        if self.worker.zero_stage == 3 or self.worker.offload != "none" or self.worker.gradient_checkpointing:
            raise ValueError(
                "a drafter is one layer, held whole by every worker beside the student: set worker.zero_stage to 1 or "
                "2, worker.offload=none and worker.gradient_checkpointing=false"
            )
        return self


class QuantizeSettings(Strict):
    """The newest model in 8 bits. `scheme` auto takes FP8 where the GPU has it, else INT8 (raytrain.quantize.scheme).

    FP8 is calibrated on `rows` rows of a set of corpora/calibration (`calibration`; `mixed` needs `data.public` and is
    in-domain without), none longer than `max_length` tokens; `kv_cache` stores keys and values in FP8 too. As many
    held-out rows say what it cost. Where more than `max_clip_rate` of what they put into the linear layers lies outside
    FP8's calibrated ranges the stage fails; with null there is no bound. With `drafter` the run's drafter, where it has
    one, is brought to 8 bits too, and drafts for the model in 8 bits.
    """

    scheme: Literal["auto", "fp8", "int8"] = "auto"
    calibration: Literal["mixed", "in_domain", "public"] = "mixed"
    rows: Annotated[int, Field(ge=1)] = 256
    max_length: Annotated[int, Field(ge=8)] = 2048
    tokens_per_batch: Annotated[int, Field(ge=1)] = 2048
    kv_cache: bool = True
    max_clip_rate: Annotated[float, Field(ge=0.0, le=1.0)] | None = 1e-3
    drafter: bool = True
