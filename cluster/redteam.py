"""`agentmill redteam`: attack the system that a configuration describes, or a served one, and print the rates.

In go a configuration (its domain, its system, its `redteam` section) or an address; out come the attempts, with the
figures `agents.redteam.*` recorded in a run.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agentmill.config import override, validate
from agentmill.domains.base import load_domain
from agentmill.runs import Run, bench_run, command_line
from cluster.config import RunConfig, read_config

if TYPE_CHECKING:
    from simulation.redteam import Attempt

SHOWN = 160


def attack(
    config: Path | None, domain: str | None, url: str | None, limit: int | None, assignments: Sequence[str],
    run: Run | None,
) -> "list[Attempt]":  # fmt: skip
    """Play the attacks, record the rates in `run` (else in the benches' own) and return what happened.

    Raises:
        UserError: when a key or value is wrong, the pack has no attacks, or nobody answers.
    """
    from simulation import redteam

    extra = [*assignments, *([f"domain={domain}"] if domain is not None else [])]
    settings = read_config(config, extra) if config else validate(RunConfig, override({}, extra), "redteam")
    pack = load_domain(settings.domain)
    attacks = redteam.chosen(pack, limit)
    if url is not None:
        done = redteam.run_served(settings.redteam, pack, url, attacks)
    else:
        told = "full" if settings.redteam.model.kind == "endpoint" else settings.system.prompts
        system = settings.system.model_copy(update={"prompts": told})
        done = redteam.run_local(settings.redteam, pack, system, attacks)
    redteam.record(run or bench_run(), done, settings.redteam, command_line())
    return done


def print_attempts(done: "Sequence[Attempt]") -> None:
    """A line for each kind of attack, the total, and every attack that had an effect."""
    from simulation.redteam import rates

    for name, rate in rates(done).items():
        print(f"{name:<24}{rate}")
    silent = sum(not one.answered for one in done)
    if silent:
        print(f"{'unanswered':<24}{silent:>4}")
    for one in done:
        for effect in one.effects:
            print(f"{one.attack.id}: {effect[:SHOWN]}")
