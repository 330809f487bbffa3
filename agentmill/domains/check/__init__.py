"""What is missing or inconsistent in a domain pack, as far as it shows without a conversation.

In goes a Domain that was loaded, out come findings. Every part looks at one thing and is a function of the domain
alone; a part that the pack's own code breaks off gives a finding in place of its others. Conversations are played by
`simulation.rehearsal`, the command is in `cluster.domains`.
"""

from collections.abc import Callable, Iterable
from functools import partial

from agentmill.domains.base import Domain
from agentmill.domains.check.finding import Finding
from agentmill.domains.check.prompts import prompt_findings
from agentmill.domains.check.rules import rule_findings
from agentmill.domains.check.scenarios import scenario_findings
from agentmill.domains.check.switches import switch_findings
from agentmill.domains.check.tables import table_findings
from agentmill.domains.check.worlds import world_findings
from agentmill.domains.packs import fault

PARTS: dict[str, Callable[[Domain], Iterable[Finding]]] = {
    "tables": table_findings,
    "rules": rule_findings,
    "prompts": prompt_findings,
    "scenarios": scenario_findings,
    "worlds": world_findings,
    "switches": switch_findings,
}


def findings_of(domain: Domain) -> list[Finding]:
    """Everything that every part finds."""
    return [finding for name, part in PARTS.items() for finding in guarded(name, partial(part, domain))]


def guarded(name: str, part: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """What a part finds; what the pack's own code raises in it is one finding more."""
    found: list[Finding] = []
    try:
        found.extend(part())
    except Exception as error:  # noqa: BLE001  (the pack's code is not ours, and its faults are what is looked for)
        found.append(Finding(name, f"the pack's code fails with {fault(error)}, so this cannot be looked at; mend it"))
    return found
