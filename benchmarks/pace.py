"""What `agentmill bench simulation` prints and records: the figures `simulate.endpoint.*` of the run of bench_run().

A share of the ideal is calls per second by in flight / latency. The ratio to threads compares the medians of the same
run; its interval is that of the repeats, which were made in turn.
"""

from agentmill.log import say
from agentmill.runs import Run, bench_run
from benchmarks.simulation import THREADS, Measured, Rate, Window, measure

GOOD = 0.9
PREFIX = "simulate.endpoint"


def bench_simulation(domain: str, conversations: int, repeats: int, seconds: float) -> Run:
    """Measure and record.

    Raises:
        ConfigError: when the domain has no expert, or the machine has one core only.
    """
    measured = measure(domain, conversations, repeats, Window(warm_s=seconds / 2, counted_s=seconds))
    run = bench_run()
    record(measured, run)
    for line in table(measured):
        say("bench", line)
    return run


def record(measured: Measured, run: Run) -> None:
    """Record the figures of a measurement."""
    for rate in measured.ours:
        _share(run, f"{PREFIX}.share_of_ideal@{rate.in_flight}", rate)
    _share(run, f"{PREFIX}.client.share_of_ideal@{measured.client.in_flight}", measured.client)
    best, client = max(measured.ours, key=lambda rate: rate.median), measured.client
    for name, rate in (("", best), ("client.", client)):
        run.record(
            f"{PREFIX}.{name}calls_per_s_per_core", rate.median, n=len(rate.counts), interval=rate.span, unit="calls/s"
        )
    good = [rate.in_flight for rate in measured.ours if rate.median >= GOOD * rate.ideal]
    run.record(f"{PREFIX}.in_flight_at_90_percent", max(good, default=0), n=len(best.counts), unit="calls")
    ours = next(rate for rate in measured.ours if rate.in_flight == measured.threads.in_flight)
    ratios = [one.rate / other.rate for one, other in zip(ours.counts, measured.threads.counts, strict=True)]
    run.record(
        f"{PREFIX}.ratio_to_threads@{ours.in_flight}",
        ours.median / measured.threads.median,
        n=len(ratios),
        interval=(min(ratios), max(ratios)),
    )
    run.record(
        f"{PREFIX}.threads.calls_per_s", measured.threads.median, n=len(ratios), interval=measured.threads.span,
        unit="calls/s",
    )  # fmt: skip


def table(measured: Measured) -> list[str]:
    """Fixed columns: who asks, calls in flight, calls/s, share of the ideal, cores used by us and by the endpoint."""
    lines = [
        f"{measured.conversations:,} conversations, {measured.prompts:,} different prompts, 50 ms a call, one core"
    ]
    lines.append(
        f"{'driver':<14} {'in flight':>9} {'calls/s':>8} {'ideal':>8} {'share':>7} {'cores':>6} {'endpoint':>8}"
    )
    named = [*(("conversations", rate) for rate in measured.ours), ("client alone", measured.client)]
    for name, rate in [*named, (f"{THREADS} threads", measured.threads)]:
        lines.append(
            f"{name:<14} {rate.in_flight:>9,} {rate.median:>8,.0f} {rate.ideal:>8,.0f} {rate.median / rate.ideal:>7.1%}"
            f" {rate.own:>6.2f} {rate.endpoint:>8.2f}"
        )
    return lines


def _share(run: Run, name: str, rate: Rate) -> None:
    low, high = rate.span
    run.record(name, rate.median / rate.ideal, n=len(rate.counts), interval=(low / rate.ideal, high / rate.ideal))
