"""One thing that `agentmill domain check` found: what it is about, and a sentence with the reason and the remedy."""

from collections.abc import Iterable
from dataclasses import dataclass

MAX_SHOWN = 3


@dataclass(frozen=True)
class Finding:
    """An error lets the check fail; a note (`error` False) is something to look at."""

    about: str
    sentence: str
    error: bool = True


def shortened(about: str, findings: Iterable[Finding]) -> list[Finding]:
    """The first few findings of one kind, and how many more there are."""
    found = list(findings)
    more = len(found) - MAX_SHOWN
    if more <= 0:
        return found
    return [*found[:MAX_SHOWN], Finding(about, f"and {more} more of this kind; mend the first and look again")]
