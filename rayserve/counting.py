"""What a vLLM engine counts of its own work, kept in its process: a stat logger of vLLM's plugin group.

Every engine whose environment has agentmill installed loads `Counting` beside its other loggers (pyproject.toml names
it). It adds up what each step of the scheduler reports, so that who asks between two moments has what happened between
them, exact and at once; what Prometheus scrapes is late by seconds. Invariant: counts only grow while the engine lives.
"""

from dataclasses import replace
from typing import Any

from vllm.v1.metrics.loggers import StatLoggerBase

from rayserve.answers import EngineCounts


class Counting(StatLoggerBase):
    """Adds up the statistics of the one engine of this process."""

    counts = EngineCounts()

    def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
        Counting.counts = EngineCounts()

    def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
        """Add one step's statistics."""
        counts = Counting.counts
        if iteration_stats is not None:
            counts = replace(
                counts,
                generated=counts.generated + iteration_stats.num_generation_tokens,
                preempted=counts.preempted + iteration_stats.num_preempted_reqs,
            )
        if scheduler_stats is not None:
            looked_up, drafted = scheduler_stats.prefix_cache_stats, scheduler_stats.spec_decoding_stats
            if looked_up is not None:
                counts = replace(
                    counts,
                    prompt_tokens=counts.prompt_tokens + looked_up.queries,
                    cached_tokens=counts.cached_tokens + looked_up.hits,
                )
            if drafted is not None:
                counts = replace(
                    counts,
                    drafts=counts.drafts + drafted.num_drafts,
                    drafted=counts.drafted + drafted.num_draft_tokens,
                    accepted=counts.accepted + drafted.num_accepted_tokens,
                )
        Counting.counts = counts

    def log_engine_initialized(self) -> None:
        """Nothing to tell."""
