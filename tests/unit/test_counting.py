"""What an engine counts of its own work, from the statistics that vLLM gives its loggers at each step."""

from vllm.v1.metrics.loggers import load_stat_logger_plugin_factories
from vllm.v1.metrics.stats import IterationStats, PrefixCacheStats, SchedulerStats
from vllm.v1.spec_decode.metrics import SpecDecodingStats

from rayserve.answers import EngineCounts
from rayserve.counting import Counting


def step(generated: int = 0, preempted: int = 0) -> IterationStats:
    stats = IterationStats()
    stats.num_generation_tokens, stats.num_preempted_reqs = generated, preempted
    return stats


def scheduled(
    prompts: tuple[tuple[int, int], ...] = (), drafts: tuple[tuple[int, int], ...] | None = None
) -> SchedulerStats:
    """Prompts of (tokens, found in the cache), and drafts of (tokens, accepted); None: the engine has no drafter."""
    looked_up = PrefixCacheStats()
    for tokens, found in prompts:
        looked_up.record(tokens, found, preempted=False)
    drafted = None if drafts is None else SpecDecodingStats.new(5)
    for tokens, accepted in drafts or ():
        assert drafted is not None
        drafted.observe_draft(tokens, accepted)
    return SchedulerStats(prefix_cache_stats=looked_up, spec_decoding_stats=drafted)


def test_steps_add_up() -> None:
    counting = Counting(None)
    counting.record(scheduled(((100, 0), (50, 32))), step(2))
    counting.record(scheduled(drafts=((3, 3), (5, 0))), step(5, preempted=1), mm_cache_stats=None, engine_idx=0)
    counting.record(scheduled(((10, 0),), drafts=((2, 1),)), step(2))
    assert Counting.counts == EngineCounts(
        generated=9, preempted=1, prompt_tokens=160, cached_tokens=32, drafts=3, drafted=10, accepted=4
    )


def test_steps_without_statistics_and_engines_without_a_drafter_count_what_they_have() -> None:
    counting = Counting(None)
    counting.record(None, step(3))
    counting.record(scheduled(((7, 0),)), None)
    counting.record(None, None)
    assert Counting.counts == EngineCounts(generated=3, prompt_tokens=7)
    assert Counting.counts.mgl is None


def test_a_new_engine_begins_at_nothing() -> None:
    Counting(None).record(None, step(3))
    Counting(None, 0)
    assert Counting.counts == EngineCounts()


def test_vllm_finds_the_counting_logger_by_itself() -> None:
    assert Counting in load_stat_logger_plugin_factories()


def test_what_happened_between_two_moments_is_their_difference() -> None:
    before = EngineCounts(10, 1, 200, 50, 4, 12, 6)
    after = EngineCounts(25, 1, 260, 80, 9, 27, 16)
    between = after - before
    assert between == EngineCounts(15, 0, 60, 30, 5, 15, 10)
    assert before + between == after
    assert (before.mgl, between.mgl) == (2.5, 3.0)
    assert sum([before, between], EngineCounts()) == after


def test_a_mean_generated_length_is_of_drafts_alone() -> None:
    assert EngineCounts(generated=100).mgl is None
    assert EngineCounts(generated=100, drafts=8, drafted=24).mgl == 1.0
    assert EngineCounts(drafts=8, drafted=24, accepted=24).mgl == 4.0
