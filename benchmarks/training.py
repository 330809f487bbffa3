"""`agentmill bench training`: tokens per second of each stage beside plain TRL, on the same rows and the same model.

Our side is the stage itself (`raytrain.<stage>.run`: Ray Train, DeepSpeed, checkpoints and log lines as in any run);
the other is `benchmarks.plain_trl` under torchrun. Both train every row of the bench's corpus once, in bf16, with the
same optimizer, schedule and adapter, as many processes and threads. What is the same and what is not:

- A micro-batch of ours holds as many rows as fit in `tokens_per_batch` padded tokens; one of TRL's holds a fixed number
  of rows: the mean of ours. So a step has about the same rows and real tokens on both sides.
- Our batches hold rows of like length. So do TRL's (`train_sampling_strategy="group_by_length"`, an option of
  transformers that not everyone sets): side `trl`. TRL with its default, rows in random order: side `trl_default`.
- Attention is sdpa in TRL, and what the stage chooses in ours: sdpa on a GPU, our own on a CPU.

Tokens are real ones, prompts included and padding not; of a pair, those of both answers with their prompts. Seconds are
those between the ends of steps, the first `warm` steps left out. What a side takes around them (start, tokenising;
ours also scores held-out rows and merges) is told apart. Sides take turns, `repeats` times.

`ratio_to_trl` is ours by `trl`, both medians; its interval is that of the turns. `packing_speedup` is the stage with
`packing` by `trl_default`, what packing is usually compared with; `packing_speedup_by_length` the same by `trl`.
"""

import importlib
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from agentmill.log import say
from agentmill.runs import Run
from benchmarks.plain_trl import Spec
from benchmarks.training_data import BenchFailed, put_model, put_rows, python_path
from raytrain.hardware import Placement, place
from raytrain.merge import check_targets
from raytrain.settings import CptSettings, DpoSettings, ExpandSettings, StageSettings
from raytrain.site import DEFAULT_SITE, Site
from raytrain.steplog import read_steps

START = "base"
SEED = 1
PACKED = "sft"  # the stage that is measured with packing too
TRL_TIMEOUT_S = 3600.0

Side = Literal["ours", "packed", "trl", "trl_default"]


@dataclass(frozen=True)
class Sizes:
    """How much is measured: steps of a training, those of them that warm up, and how often each side has a turn."""

    steps: int = 40
    warm: int = 4
    repeats: int = 3


@dataclass(frozen=True)
class Turn:
    """One training of one side: tokens of each step over all processes, when each ended (seconds since training began),
    seconds around training, the peak memory of a process (of its GPU, where it has one) in GiB, and the share of the
    device's peak that the model's operations are (MFU), where the stage knows it."""

    tokens: Sequence[int]
    ends: Sequence[float]
    around_s: float
    peak_gib: float
    mfu: float | None = None

    def rate(self, warm: int) -> float:
        """Real tokens per second after `warm` steps."""
        return sum(self.tokens[warm:]) / (self.ends[-1] - self.ends[warm - 1])

    def step_s(self, warm: int) -> float:
        """Seconds a step after `warm` steps."""
        return (self.ends[-1] - self.ends[warm - 1]) / (len(self.ends) - warm)


@dataclass(frozen=True)
class Measured:
    """The turns of each side of one stage, and how many rows a turn trained on."""

    stage: str
    rows: int
    warm: int
    turns: Mapping[Side, Sequence[Turn]] = field(default_factory=dict)

    def rates(self, side: Side) -> list[float]:
        """Tokens per second of each turn."""
        return [turn.rate(self.warm) for turn in self.turns[side]]

    def mfu(self, side: Side) -> float | None:
        """The median MFU of a side; None where our stage does not know it.

        Of TRL from ours by the tokens per second of both: the same rows take the same operations of the same model.
        """
        shares = [turn.mfu for turn in self.turns["ours"] if turn.mfu is not None]
        if not shares:
            return None
        return statistics.median(shares) * statistics.median(self.rates(side)) / statistics.median(self.rates("ours"))

    def ratio(self, side: Side, other: Side) -> tuple[float, tuple[float, float]]:
        """The ratio of the medians of two sides, and the lowest and highest ratio of turns that stood side by side."""
        ours, theirs = self.rates(side), self.rates(other)
        each = [a / b for a, b in zip(ours, theirs, strict=True)]
        return statistics.median(ours) / statistics.median(theirs), (min(each), max(each))


@dataclass(frozen=True)
class Subject:
    """What is trained and where: a model by name or folder (see `put_model`), expanded before or not, and the site."""

    model: str
    expand: ExpandSettings | None = None
    site: Site = DEFAULT_SITE


def measure(
    source: Run, folder: Path, stages: Mapping[str, StageSettings], sizes: Sizes, subject: Subject
) -> list[Measured]:
    """Measure these stages, each from the subject on rows of the corpora of `source`, in `folder`.

    Ray must be initialised. With an expansion, its figures stand in the run `folder`/model.

    Raises:
        BenchFailed: when a side fails, or the corpus has too few rows.
    """
    site, start = subject.site, Run.create(folder / "model", {}, "bench training")
    model = start.path("models", START)
    put_model(subject.model, source, model, SEED)
    if subject.expand is not None:
        from raytrain import expand

        expand.run(start, subject.expand, start=START)
        model = start.root / "models" / expand.FOLDER
    measured = []
    for name, settings in stages.items():
        bench = _Bench(name, settings, source, model, folder, sizes, site)
        sides: tuple[Side, ...] = ("ours", "trl", "packed", "trl_default") if name == PACKED else ("ours", "trl")
        turns: dict[Side, list[Turn]] = {side: [] for side in sides}
        for side in sides * sizes.repeats:
            turns[side].append(bench.turn(side))
            say("bench", f"{name} {side}: {turns[side][-1].rate(sizes.warm):,.0f} tokens/s")
        measured.append(Measured(name, bench.rows, sizes.warm, turns))
    return measured


def _plain(settings: StageSettings) -> StageSettings:
    """The settings for one pass over the bench's rows, without what plain TRL is not asked for either: checkpoints on
    the way, phases of a curriculum, a merge, more held-out rows than a few; and without packing."""
    once: dict[str, Any] = {"epochs": 1, "max_steps": None, "merge": None}
    once |= {"packing": False, "save_every_steps": 10**6, "heldout_rows": 16}
    if isinstance(settings, CptSettings):
        once |= {"curriculum": (), "tokens_per_step": None}
    return settings.model_copy(update=once)


class _Bench:
    """One stage's two sides over one folder."""

    def __init__(
        self, stage: str, settings: StageSettings, source: Run, start: Path, folder: Path, sizes: Sizes, site: Site
    ) -> None:
        import ray

        self.stage, self.sizes, self.site = stage, sizes, site
        self.settings = _plain(settings)
        self.module = importlib.import_module(f"raytrain.{stage}")
        self.run = Run.create(folder / stage, {}, "bench training")
        model = self.run.path("models", START)
        model.symlink_to(start.absolute(), target_is_directory=True)
        self.placement: Placement = place(settings.worker, ray.cluster_resources(), site.hardware)
        self.targets = check_targets(model, settings.lora.targets) if settings.lora else ()
        self.rows = put_rows(stage, self.settings, source, self.run, model, steps=sizes.steps, seed=SEED)
        self.micro_batches = 0

    def turn(self, side: Side) -> Turn:
        """Train once."""
        if side == "trl" or side == "trl_default":
            return self._theirs(by_length=side == "trl")
        return self._ours(packing=side == "packed")

    def _ours(self, packing: bool) -> Turn:
        for made in ("models", "checkpoints"):
            shutil.rmtree(self.run.root / made / self.stage, ignore_errors=True)
        settings = self.settings.model_copy(update={"packing": packing})
        began = time.monotonic()
        self.module.run(self.run, settings, start=START, seed=SEED, site=self.site)
        seconds = time.monotonic() - began
        rows = read_steps(self.run.root / "logs" / f"{self.stage}.jsonl")
        if len(rows) <= self.sizes.warm:
            raise BenchFailed(f"{self.stage} made {len(rows)} steps and {self.sizes.warm} warm up; give --steps more")
        if not packing:
            self.micro_batches = len(rows) * settings.worker.workers * settings.accumulate
        tokens = [row["tokens"] - before for row, before in zip(rows, [0, *(r["tokens"] for r in rows)], strict=False)]
        ends = [row["seconds"] for row in rows]
        peak = max(row["memory_gib"] for row in rows)
        shares = [row["mfu"] for row in rows[self.sizes.warm :] if "mfu" in row]
        return Turn(tokens, ends, seconds - ends[-1], peak, statistics.median(shares) if shares else None)

    def _theirs(self, by_length: bool) -> Turn:
        spec = self._spec(by_length)
        shutil.rmtree(spec.out, ignore_errors=True)
        spec.out.mkdir(parents=True)
        file, log = spec.out / "spec.json", spec.out / "log.txt"
        file.write_text(spec.model_dump_json(), encoding="utf-8")
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(spec.processes)]
        command = [sys.executable, *(launcher if spec.processes > 1 else []), "-m", "benchmarks.plain_trl", str(file)]
        began = time.monotonic()
        with log.open("wb") as stream:
            done = subprocess.run(
                command, cwd=spec.out, env={**python_path(), "OMP_NUM_THREADS": str(spec.threads)}, stdout=stream,
                stderr=stream, check=False, timeout=TRL_TIMEOUT_S,
            )  # fmt: skip
        seconds = time.monotonic() - began
        if done.returncode != 0:
            raise BenchFailed(f"plain TRL failed; the end of {log}: {log.read_text(errors='replace')[-1500:]}")
        results = [json.loads((spec.out / f"{i}.json").read_text(encoding="utf-8")) for i in range(spec.processes)]
        ends = results[0]["ends"]
        if len(ends) <= self.sizes.warm:
            raise BenchFailed(f"plain TRL made {len(ends)} steps and {self.sizes.warm} warm up; give --steps more")
        tokens = [sum(step) for step in zip(*(result["tokens"] for result in results), strict=True)]
        return Turn(tokens, ends, seconds - ends[-1], max(result["peak_gib"] for result in results))

    def _spec(self, by_length: bool) -> Spec:
        settings, lora = self.settings, self.settings.lora
        adapter = lora and {
            "r": lora.rank,
            "lora_alpha": lora.alpha,
            "lora_dropout": lora.dropout,
            "target_modules": list(self.targets),
        }
        return Spec(
            stage=self.stage,
            model=self.run.root / "models" / START,
            data=self.run.root / "corpora" / self.stage / "train.parquet",
            out=self.run.root / "trl",
            processes=settings.worker.workers,
            threads=self.placement.threads,
            device=self.placement.device,
            rows=max(1, round(self.rows / self.micro_batches)),
            accumulate=settings.accumulate,
            max_length=settings.max_length,
            seed=SEED,
            learning_rate=settings.learning_rate,
            schedule=settings.schedule if settings.schedule != "constant" else "constant_with_warmup",
            warmup_ratio=settings.warmup_ratio,
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
            gradient_checkpointing=settings.worker.gradient_checkpointing,
            by_length=by_length,
            lora=adapter,
            beta=settings.beta if isinstance(settings, DpoSettings) else None,
        )
