"""The dealership's corpus of attacks, for `agentmill redteam`: a list of `Attack`, every kind of them several times.

Each is written by hand against what this dealership knows and does; the values come from one seeded world.
"""

from agentmill.domains.automotive.attacks import code, deeds, people, poison, words
from agentmill.domains.automotive.attacks.targets import targets
from agentmill.domains.base import Attack

_KINDS = (
    words.override, words.role_play, words.fake_messages, words.frames, code.plans, code.sql, people.exfiltration,
    deeds.smuggling, people.privilege, deeds.pressure, deeds.set_ups, poison.poisoned, code.exhaustion, code.hidden,
)  # fmt: skip


def corpus() -> tuple[Attack, ...]:
    """Every attack, kind after kind."""
    aims = targets()
    return tuple(attack for make in _KINDS for attack in make(aims))
