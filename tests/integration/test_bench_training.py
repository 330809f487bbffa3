"""The benches of training for real, at their smallest: both sides train the same rows, both kinds answer."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from agentmill.runs import Run
from benchmarks import adaptation, plain_trl
from benchmarks.adaptation_data import CONDITIONS
from benchmarks.plain_trl import Spec
from benchmarks.training import Sizes, _Bench
from benchmarks.training_data import BenchFailed, put_model
from raytrain.data import tokenise
from raytrain.settings import LoraSettings, SftSettings, WorkerSettings
from raytrain.site import DEFAULT_SITE
from tests.integration.test_sft import new_run, rows
from tests.tiny_llama import write_tiny_llama

SETTINGS = SftSettings(
    worker=WorkerSettings(workers=1, threads=1, device="cpu"),
    lora=LoraSettings(rank=4, alpha=8),
    tokens_per_batch=1024,
    max_length=256,
)


@pytest.fixture
def accelerate() -> Iterator[None]:
    """TRL's trainer in this process leaves Accelerate's state behind; the next one needs its own."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def spec(folder: Path, stage: str) -> Spec:
    """Eight rows of `rows`, as the corpus of the stage has them, two in a micro-batch."""
    import pyarrow as pa

    made = rows(8, 1)
    if stage == "dpo":
        wrong = [{"role": "assistant", "content": '{"name": "nobody"}'}]
        made = [
            {"prompt": r["prompt"], "chosen": r["completion"], "rejected": wrong, "agent": r["agent"]} for r in made
        ]
    pq.write_table(pa.Table.from_pylist(made), folder / "train.parquet")
    return Spec(
        stage=stage, model=write_tiny_llama(folder / "model"), data=folder / "train.parquet", out=folder, processes=1,
        threads=1, device="cpu", rows=2, accumulate=1, max_length=256, seed=1, learning_rate=1e-3, schedule="cosine",
        warmup_ratio=0.05, weight_decay=0.0, max_grad_norm=1.0, gradient_checkpointing=False, by_length=True,
        lora=None if stage == "cpt" else {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
        beta=0.1 if stage == "dpo" else None,
    )  # fmt: skip


@pytest.mark.parametrize("stage", ["cpt", "dpo"])
def test_plain_trl_trains_every_row_once_and_counts_real_tokens(tmp_path: Path, accelerate: None, stage: str) -> None:
    import json

    from transformers import AutoTokenizer

    given = spec(tmp_path, stage)
    plain_trl.main(given)
    result = json.loads((tmp_path / "0.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    expected = 0
    for row in pq.read_table(given.data).to_pylist():
        for answer in ("chosen", "rejected") if stage == "dpo" else ("completion",):
            text = tokenizer.apply_chat_template(row["prompt"] + row[answer], tokenize=False)
            expected += len(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert len(result["tokens"]) == len(result["ends"]) == 4
    assert sum(result["tokens"]) == expected
    assert result["ends"] == sorted(result["ends"])
    assert result["loss"] > 0


def test_both_sides_train_the_same_rows(ray_local: None, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    source = new_run(tmp_path / "source")
    put_model("tiny", source, tmp_path / "model", seed=1)
    bench = _Bench(
        "sft", SETTINGS, source, tmp_path / "model", tmp_path, Sizes(steps=6, warm=2, repeats=1), DEFAULT_SITE
    )
    file = bench.run.root / "corpora" / "sft" / "train.parquet"
    kept, _ = tokenise("sft", file, AutoTokenizer.from_pretrained(tmp_path / "model"), 256, "error")
    assert len(kept) == bench.rows == len(pq.read_table(file))
    ours, theirs = bench.turn("ours"), bench.turn("trl")
    for turn in (ours, theirs):
        assert sum(turn.tokens) == int(kept.lengths.sum())
        assert turn.rate(2) > 0 and turn.around_s > 0 and turn.peak_gib > 0
    assert len(theirs.ends) == pytest.approx(len(ours.ends), abs=1)


def test_too_small_a_corpus_is_refused_with_what_it_has(ray_local: None, tmp_path: Path) -> None:
    source = new_run(tmp_path / "source")
    put_model("tiny", source, tmp_path / "model", seed=1)
    with pytest.raises(BenchFailed, match=r"500 steps of sft take 512,000 tokens and the run has [\d,]+"):
        _Bench("sft", SETTINGS, source, tmp_path / "model", tmp_path, Sizes(steps=500), DEFAULT_SITE)


def test_an_unknown_model_is_refused_with_the_shapes(tmp_path: Path) -> None:
    with pytest.raises(BenchFailed, match=r"llama-9b is no model folder and no shape; .*llama-8b"):
        put_model("llama-9b", Run.create(tmp_path / "run", {}, "test"), tmp_path / "model", seed=1)


def test_both_kinds_are_trained_and_asked_under_every_condition(
    ray_local: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTMILL_BENCH_RUN", str(tmp_path / "bench"))
    extent = adaptation.Extent(conversations=24, heldout=10, per_agent=2, steps=3, search_steps=0)
    base = write_tiny_llama(tmp_path / "base", positions=1024)
    settings = SETTINGS.model_copy(update={"max_length": 1024, "heldout_rows": 20})
    found = adaptation.bench_adaptation(tmp_path / "work", base, settings, extent).figures("bench.adaptation")
    for name in ("start", "lora", "full"):
        assert float(found[f"bench.adaptation.{name}.general_loss"].value) > 0
        for condition in ("trained", "reworded", "told", "changed"):
            figure = found[f"bench.adaptation.{name}.{condition}.planner"]
            assert figure.n == 2 and figure.interval
        lines = (tmp_path / "work" / "answers" / f"{name}.jsonl").read_text().splitlines()
        assert len(lines) == sum(found[f"bench.adaptation.{name}.{c}.all"].n or 0 for c in CONDITIONS)
    assert found["bench.adaptation.lora.tokens"].value == found["bench.adaptation.full.tokens"].value
    assert "bench.adaptation.difference.changed.all" in found
