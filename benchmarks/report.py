"""What `agentmill bench agents` runs, prints and records: the figures `agents.*` of the run named by bench_run().

Success of every pack, the Evaluator's watchfulness, turns per second and core, and the cost of a world's copy.
"""

import asyncio
from collections.abc import Sequence

from agentmill.domains.base import load_domain
from agentmill.log import say
from agentmill.runs import Run, bench_run, wilson
from benchmarks import agents, world_copy
from simulation.metrics import Measure
from simulation.vigilance import watch

MISTAKE_RATE = 0.3
SHOWN_PROBLEMS = 5


def bench_agents(domains: Sequence[str], scenarios: int) -> Run:
    """Measure everything and record it; the first domain is the one whose turns are timed and whose plans are watched.

    Raises:
        ConfigError: when a domain does not exist, or has no expert.
    """
    run = bench_run()
    packs = [load_domain(name) for name in domains]
    for pack in packs:
        played = agents.play(pack, scenarios)
        _tell(f"{pack.name}.success", Measure(played.won / scenarios, scenarios, wilson(played.won, scenarios)), run)
        for problem in played.problems[:SHOWN_PROBLEMS]:
            say("bench", problem)
    watched = asyncio.run(watch(packs[0], scenarios=scenarios, mistake_rate=MISTAKE_RATE))
    for name in ("recall", "model_recall", "replanned", "false_alarms"):
        _tell(f"evaluator.{name}", getattr(watched, name), run)
    overhead = agents.overhead(packs[0])
    low, high = min(overhead.rates), max(overhead.rates)
    run.record(
        "agents.turns_per_s_per_core", overhead.median, n=len(overhead.rates), interval=(low, high), unit="turns/s"
    )
    spread = f"median of {len(overhead.rates)} repeats, {low:,.0f} to {high:,.0f}"
    say("bench", f"agents.turns_per_s_per_core {overhead.median:,.0f} ({spread})")
    path = run.path("logs", "agents_profile.txt")
    path.write_text(overhead.profile + "\n", encoding="utf-8")
    for line in [*overhead.profile.splitlines()[:8], f"the whole profile is {path}"]:
        say("bench", line)
    for line in world_copy.table(world_copy.measure()).splitlines():
        say("bench", line)
    return run


def _tell(name: str, measure: Measure, run: Run) -> None:
    run.record(f"agents.{name}", measure.value, n=measure.n, interval=measure.interval)
    low, high = measure.interval
    say("bench", f"agents.{name:<28} {measure.value:7.1%}  n {measure.n:>5,}  [{low:.1%}, {high:.1%}]")
