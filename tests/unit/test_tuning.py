"""`agentmill tune serving`, on a machine whose speeds are a formula: what is tried, what wins, and where it stops."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from agentmill.config import ConfigError, UserError
from agentmill.runs import Run, RunError
from benchmarks.replay import Sample
from benchmarks.serving import CALLS, Cell, Configuration, Extent, Measured
from cluster.config import RunConfig
from cluster.serving import TUNED, tuned_for
from cluster.tuning import BLOCKS, Search, Trial, find, over
from rayserve.answers import EngineCounts
from rayserve.settings import ModelEngine, Speculative

EXTENT = Extent((1, 8), (), calls=8, rounds=1, repeats=3)
DRAFTED = ModelEngine(model="student", speculative=Speculative(method="eagle3", model="drafter", tokens=3))
START = {
    "bf16": Trial("bf16", "dpo", ModelEngine(model="student")),
    "quantized": Trial("quantized", "quantized", ModelEngine(model="student8")),
    "drafted": Trial("drafted", "drafted", DRAFTED),
}


class Machine:
    """Measures by a formula: answers per second of an engine at a concurrency."""

    def __init__(self, speed: Callable[[ModelEngine, int], float]) -> None:
        self.speed, self.asked = speed, list[list[str]]()

    def __call__(self, trials: Sequence[Trial], anchors: Sequence[str], extent: Extent) -> Measured:
        self.asked.append([one.name for one in trials])
        measured = Measured([Configuration(one.name, one.engine) for one in trials])
        for one in trials:
            for c in extent.concurrency:
                cell = measured.cells[CALLS, one.name, c] = Cell()
                for repeat in range(extent.repeats):
                    rate = self.speed(one.engine, c) * (1 + 0.001 * repeat)
                    cell.samples[0, repeat] = Sample(c, (c / rate,) * 10, ("",) * 10, 100, 10 / rate)
                    cell.counts[0, repeat] = EngineCounts()
        return measured


def drafting_pays(engine: ModelEngine, in_flight: int) -> float:
    """Five tokens are best alone, one among eight; everything else is the same."""
    if engine.speculative is None:
        return 10.0 * in_flight
    lengths = engine.speculative.tokens_by_batch or {64: engine.speculative.tokens}
    tokens = next(length for batch, length in sorted(lengths.items()) if in_flight <= batch)
    best = 5 if in_flight == 1 else 1
    return 10.0 * in_flight * (2.0 - 0.1 * abs(tokens - best))


def test_each_step_carries_on_what_won_and_lengths_become_a_schedule() -> None:
    machine = Machine(drafting_pays)
    search = find(START, machine, EXTENT, None, 40)
    assert search.best.engine.speculative is not None
    assert search.best.engine.speculative.tokens_by_batch == {1: 5, 8: 1}
    assert search.best.stage == "drafted"
    assert machine.asked[0] == ["bf16", "drafted", "quantized"], "the fastest variant is tried first"
    assert search.target_s == pytest.approx(0.2, rel=0.01)


def test_the_length_that_a_run_has_by_default_is_one_of_the_schedules() -> None:
    """Three tokens are best among eight: they were measured as the variant, before lengths were tried."""

    def speed(engine: ModelEngine, in_flight: int) -> float:
        if engine.speculative is None:
            return 10.0 * in_flight
        lengths = engine.speculative.tokens_by_batch or {64: engine.speculative.tokens}
        tokens = next(length for batch, length in sorted(lengths.items()) if in_flight <= batch)
        return 10.0 * in_flight * (3.0 - 0.2 * abs(tokens - (7 if in_flight == 1 else 3)))

    best = find(START, Machine(speed), EXTENT, None, 40).best.engine.speculative
    assert best is not None and best.tokens_by_batch == {1: 7, 8: 3}


def test_compiled_is_tried_and_on_a_cpu_its_threads_with_what_won() -> None:
    machine = Machine(lambda engine, in_flight: 10.0 * in_flight * (1 if engine.enforce_eager else 2))
    search = find(START, machine, EXTENT, None, 40, cores=4)
    assert not search.best.engine.enforce_eager
    assert ["compiled", "4 threads", "bound threads"] in machine.asked
    on_gpu = Machine(lambda engine, in_flight: 10.0 * in_flight)
    find(START, on_gpu, EXTENT, None, 40)
    assert not any("threads" in name for names in on_gpu.asked for name in names)


def test_a_search_stops_at_its_number_of_trials() -> None:
    machine = Machine(drafting_pays)
    search = find(START, machine, EXTENT, None, 3)
    tried = [name for names in machine.asked for name in names[1:]]
    assert len(tried) == 3 and search.left == 0


def test_nothing_takes_the_place_of_the_best_within_the_margin() -> None:
    machine = Machine(lambda engine, in_flight: 10.0 * in_flight * (1.01 if engine.speculative else 1.0))
    assert find(START, machine, EXTENT, None, 40).best.name == "bf16"


def test_what_answers_too_late_does_not_count() -> None:
    """Twice as many answers, all of them late: the best of many in flight is not the best for who waits."""

    def speed(engine: ModelEngine, in_flight: int) -> float:
        return 40.0 if engine.speculative else 10.0 * in_flight

    found = Machine(speed)([START["bf16"], START["drafted"]], ["bf16"], EXTENT)
    assert over(found, "drafted", "bf16", (8,), target_s=0.15).value == 0
    assert over(found, "bf16", "drafted", (8,), target_s=0.15).value == float("inf")
    assert over(found, "drafted", "bf16", (1,), target_s=0.15).value == pytest.approx(4)


@pytest.mark.parametrize("broken", ["quantized", "drafts of 7"])
def test_a_trial_whose_engine_does_not_start_is_left_out_and_the_others_are_not(broken: str) -> None:
    machine = Machine(drafting_pays)

    def measured(trials: Sequence[Trial], anchors: Sequence[str], extent: Extent) -> Measured:
        if any(one.name == broken for one in trials):
            raise UserError("no kernel for it")
        return machine(trials, anchors, extent)

    search = find(START, measured, EXTENT, None, 40)
    assert search.best.engine.speculative is not None
    assert search.best.engine.speculative.tokens_by_batch == {1: 5, 8: 1}
    assert broken not in {one.name for one in search.seen}


def test_the_first_trial_may_be_the_one_that_does_not_start() -> None:
    machine = Machine(drafting_pays)

    def measured(trials: Sequence[Trial], anchors: Sequence[str], extent: Extent) -> Measured:
        if any(one.engine.speculative for one in trials):
            raise UserError("no kernel for it")
        return machine(trials, anchors, extent)

    search = find(START, measured, EXTENT, None, 40)
    assert {one.name for one in search.seen} >= {"bf16", "quantized"} and search.target_s is not None


def test_a_search_in_which_nothing_starts_says_why() -> None:
    def measured(trials: Sequence[Trial], anchors: Sequence[str], extent: Extent) -> Measured:
        raise UserError("no kernel for it")

    with pytest.raises(UserError, match="no kernel for it"):
        find(START, measured, EXTENT, None, 40)


def test_a_run_that_was_not_tuned_says_how(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", RunConfig().model_dump(mode="json"), "test")
    with pytest.raises(RunError, match="agentmill tune serving"):
        tuned_for(run)


def test_tuned_settings_are_read_back_with_the_runs_own_drafter_and_assignments_on_top(tmp_path: Path) -> None:
    config = RunConfig.model_validate({"drafter": {}, "quantize": {}}).model_dump(mode="json")
    run = Run.create(tmp_path / "run", config, "test")
    for name in ("sft", "drafter", "quantized", "drafter_quantized"):
        (run.root / "models" / name).mkdir(parents=True)
    file = run.path(*TUNED)
    file.write_text(
        "stage: drafted\nengine:\n  max_num_seqs: 8\n  speculative:\n    method: eagle3\n    tokens: 5\n"
        "    tokens_by_batch:\n      1: 5\n      8: 1\n    model: /elsewhere/drafter\n"
    )
    settings, folder = tuned_for(run, ["serve.engine.max_num_seqs=16", "serve.port=0"])
    engine = settings.serve.engine
    assert folder == run.root / "models" / "sft"
    assert (engine.max_num_seqs, settings.serve.port) == (16, 0)
    assert engine.speculative is not None and engine.speculative.tokens_by_batch == {1: 5, 8: 1}
    assert engine.speculative.model == str(run.root / "models" / "drafter")
    file.write_text(file.read_text().replace("stage: drafted", "stage: drafted_quantized"))
    settings, folder = tuned_for(run)
    assert folder == run.root / "models" / "quantized"
    speculative = settings.serve.engine.speculative
    assert speculative is not None and speculative.model == str(run.root / "models" / "drafter_quantized")
    file.write_text("stage: drafted\nengine:\n  max_seqs: 8\n")
    with pytest.raises(ConfigError, match="max_num_seqs"):
        tuned_for(run)


def test_a_search_is_told_what_it_saw() -> None:
    search: Search = find(START, Machine(drafting_pays), EXTENT, 1.0, 5)
    assert {one.name for one in search.seen} >= {"bf16", "drafted", "quantized"}
    assert all(set(one.queries_per_s) == {1, 8} and one.goodput > 0 for one in search.seen)


def test_blocks_that_are_tried_are_some_that_vllm_has_on_a_cpu() -> None:
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    sizes = CPUAttentionBackend.get_supported_kernel_block_sizes()
    assert all(any(block % size.base == 0 for size in sizes) for block in BLOCKS)
