"""The command `agentmill pairs new`: pairs to fill in, and what to do with them next."""

from pathlib import Path

from agentmill.config import ConfigError
from agentmill.domains.base import load_domain
from agentmill.runs import Run
from simulation.corpora.pairs import add_pairs, new_pairs, read_pairs
from simulation.corpora.traces import heldout_sids


def start_pairs(run: Run, calls: list[str], evaluation: str | None, count: int, out: Path) -> list[str]:
    """Write pairs to the end of `out`; returns what to tell the person who fills them in.

    Raises:
        ConfigError: when neither a call nor an evaluation is given.
        RunError: when a call is not in the run, or the evaluation found nothing wrong.
        PairError: when `out` holds something else than pairs.
    """
    if not calls and evaluation is None:
        raise ConfigError("pairs new: nothing to make a pair of; give --call ID or --evaluation STAGE")
    if out.exists():
        read_pairs(out)
    pairs = new_pairs(run, load_domain(run.manifest["config"]["domain"]), calls, evaluation, count)
    add_pairs(out, pairs)
    held = heldout_sids(run) & {pair.sid for pair in pairs}
    lines = [f"{out}: {len(pairs)} pairs to fill in; write `chosen` of each, then `agentmill pairs check {out}`"]
    if held:
        lines.append(f"{len(held)} of their conversations are held out: the next corpora hold them out no more")
    return lines
