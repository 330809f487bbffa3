"""Whether another process draws the same: `python -m agentmill.domains.check.elsewhere NAME` prints a pack's digest.

Every process hashes strings in its own way, so what is taken from a set in its order differs between workers, which a
second look in one process cannot show. In goes the pack's name, out comes one digest over scenarios, worlds and
prompts.
"""

import os
import subprocess
import sys
from collections.abc import Iterator

from agentmill.domains.base import ALL, Domain, load_domain
from agentmill.domains.check.finding import Finding
from agentmill.domains.check.worlds import opened
from agentmill.runs import digest_json

COUNT = 40
TIMEOUT_S = 120


def digest_of(domain: Domain) -> str:
    """One digest over what a run draws from the pack."""
    drawn = [
        scenario
        for mix in (ALL, *domain.mixes)
        for split in ("train", "heldout")
        for scenario in domain.source(mix)(COUNT, 0, split)
    ]
    worlds = []
    for seed in dict.fromkeys(scenario.world_seed for scenario in drawn[:3]):
        with opened(domain, seed, "check") as world:
            worlds.append([world.facts(), world.snapshot()])
    prompts = {style: dict(texts) for style, texts in domain.prompts.items()}
    return digest_json([[scenario.model_dump(mode="json") for scenario in drawn], worlds, prompts])


def process_findings(name: str, domain: Domain) -> Iterator[Finding]:
    """Draw the same in a process that hashes in another way."""
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    done = subprocess.run(
        [sys.executable, "-m", __name__, name],
        env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        yield Finding(
            "other process", f"the pack does not load in a process of its own, as workers do: {last}; mend it"
        )
    elif done.stdout.strip() != digest_of(domain):
        told = "another process draws other scenarios, worlds or prompts from the same seed, so workers would disagree"
        yield Finding("other process", f"{told}; take nothing from a set in its order, and nothing from hash()")


if __name__ == "__main__":
    print(digest_of(load_domain(sys.argv[1])))
