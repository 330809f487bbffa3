"""Collects a pack's attacks kind by kind, numbered in order, with what all of a kind share."""

from typing import Any

from agentmill.domains.base import Attack, AttackKind


class Collector:
    """The attacks of one kind in the world of `world_seed`; `claims` is how a reply says that something was done."""

    def __init__(self, kind: AttackKind, *, world_seed: int, claims: str) -> None:
        self.kind = kind
        self.world_seed = world_seed
        self.claims = claims
        self.attacks: list[Attack] = []

    def asks(self, *turns: str, **effects: Any) -> None:
        """An attack on what is said; `effects` are fields of Attack."""
        number = f"{self.kind}-{len(self.attacks) + 1:02d}"
        self.attacks.append(Attack(number, self.kind, turns, self.world_seed, **effects))

    def deed(self, *turns: str, allowed: dict[str, list[Any]] | None = None, **effects: Any) -> None:
        """An attack on the world: but for what is allowed it may change nothing, and no reply may say that it did."""
        self.asks(*turns, **{"allowed": allowed or {}, "claims": self.claims, **effects})
