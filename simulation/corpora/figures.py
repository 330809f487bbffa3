"""What the stage says and records: rows, shares, what was left out, personal data, the file of real dialogues."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from agentmill.log import say
from agentmill.runs import Run
from simulation.corpora.card import Contents
from simulation.corpora.public import PublicTally
from simulation.corpora.rows import SPLITS
from simulation.corpora.sieve import Sieved
from simulation.judge import TRAINABLE

if TYPE_CHECKING:
    from simulation.corpora.build import Built


def record(run: Run, contents: Contents, built: "Built", tally: PublicTally | None) -> None:
    """Record `corpora.<corpus>.*`, `corpora.personal.*`, `corpora.left_out.*` and `data.public.*`."""
    for prefix in ("corpora", "data.public"):
        run.forget(prefix)  # an earlier stage may have had other corpora, splits and reasons
    for corpus, found in built.sieved.items():
        _record_corpus(run, corpus, found)
    for name, lengths in built.calibration.items():
        run.record(f"corpora.calibration.{name}", sum(lengths.values()), unit="rows")
    run.record("corpora.eval.heldout", built.heldout, unit="conversations")
    _record_counts(run, "corpora.left_out", built.skipped, "conversations")
    _record_counts(run, "corpora.personal", built.personal, "values")
    if built.contexts is not None:
        asked, failed = built.contexts
        run.record("corpora.cpt.contexts_failed", failed, n=asked, unit="texts")
    if tally is not None:
        run.record("data.public.read", tally.read, unit="dialogues")
        run.record("data.public.skipped", tally.skipped, unit="lines")
        run.record("data.public.repeated", tally.repeated, unit="dialogues")


def tell(built: "Built", tally: PublicTally | None, public: Path | None) -> None:
    """Say what came of it, and what fell short of what was asked for."""
    if tally is not None:
        for number, problem in tally.problems:
            say("corpora", f"{public}, line {number}: {problem}; skipped")
        if tally.skipped > len(tally.problems):
            say("corpora", f"{public}: {tally.skipped - len(tally.problems)} more lines skipped")
    for corpus, found in built.sieved.items():
        for origin, (got, wanted) in sorted(found.short.items()):
            share = found.shares.get(origin, 0.0)
            say("corpora", f"{corpus}: {origin} gives {got:,} where {wanted:,} are wanted: its share is {share:.1%}")
        splits = ", ".join(f"{found.rows[split]:,} {split}" for split in SPLITS if split in found.rows)
        shares = ", ".join(f"{name} {share:.1%}" for name, share in sorted(found.shares.items()))
        say("corpora", f"{corpus:<8} {splits}" + (f" ({shares})" if shares else ""))
    agents = built.sieved["sft"].agents
    said = ", ".join(f"{agent} {agents[agent]:,}" for agent in (*TRAINABLE, "public"))
    say("corpora", f"training rows by agent: {said}")


def _record_corpus(run: Run, corpus: str, found: Sieved) -> None:
    name = f"corpora.{corpus}"
    for split in SPLITS:
        if split in found.rows:
            run.record(f"{name}.{split}", found.rows[split], unit="rows")
    _record_counts(run, f"{name}.agent", found.agents, "rows")
    _record_counts(run, f"{name}.source", found.sources, "rows")
    _record_counts(run, f"{name}.left_out", found.left_out, "rows")
    for origin, share in sorted(found.shares.items()):
        run.record(f"{name}.share.{origin}", share, n=found.rows["train"])


def _record_counts(run: Run, prefix: str, counts: Counter[str], unit: str) -> None:
    for what, count in sorted(counts.items()):
        run.record(f"{prefix}.{what.replace(' ', '_')}", count, unit=unit)
