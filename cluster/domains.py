"""`agentmill domain check`: everything that is missing or inconsistent in a domain pack, as a table.

Tables that contradict each other come first and alone: nothing else could be looked at. Then what the tables show,
what another process draws, and what the pack's expert does when it plays some tens of conversations.
"""

import asyncio
from collections.abc import Sequence

from agentmill.domains.base import Domain
from agentmill.domains.check import findings_of, guarded
from agentmill.domains.check.elsewhere import process_findings
from agentmill.domains.check.finding import Finding
from agentmill.domains.consistency import inconsistencies
from agentmill.domains.packs import build_pack
from agentmill.log import say

CONVERSATIONS = 40


def check_pack(name: str, conversations: int = CONVERSATIONS) -> list[Finding]:
    """Look at the pack of this name; its expert plays about so many conversations.

    Raises:
        ConfigError: when there is no such pack, or it gives no Domain.
    """
    domain = build_pack(name)
    torn = [Finding("tables", sentence) for sentence in inconsistencies(domain)]
    if torn:
        return torn
    say("check", f"{domain.title}: {_sizes(domain)}")
    found = [*findings_of(domain), *guarded("other process", lambda: process_findings(name, domain))]
    return [*found, *guarded("expert", lambda: _rehearsed(domain, conversations))]


def print_findings(findings: Sequence[Finding]) -> None:
    """Print the findings, errors first, and a closing line."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    if findings:
        table = Table("", "about", "finding")
        for finding in sorted(findings, key=lambda finding: not finding.error):
            mark = "[bold red]ERROR[/]" if finding.error else "[yellow]note[/]"
            table.add_row(mark, escape(finding.about), escape(finding.sentence))
        console.print(table)
    errors = sum(finding.error for finding in findings)
    notes = len(findings) - errors
    told = f"{_count(errors, 'error')}, {_count(notes, 'note')}" if findings else "nothing is missing"
    console.print(told, highlight=False)


def _rehearsed(domain: Domain, conversations: int) -> list[Finding]:
    from simulation.rehearsal import chosen, rehearse

    scenarios, spare = chosen(domain, conversations)
    say("check", f"the expert plays {len(scenarios)} conversations")
    return asyncio.run(rehearse(domain, scenarios, spare))


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}{'' if number == 1 else 's'}"


def _sizes(domain: Domain) -> str:
    sizes = (
        (domain.intents, "intents"), (domain.entities, "entities"), (domain.tools, "tools"), (domain.rules, "rules"),
    )  # fmt: skip
    return ", ".join(f"{len(table)} {unit}" for table, unit in sizes)
