"""Switches: the pack holds together once one took hold, scenarios plan every kind, and each can be made in its world.

What refers to nothing is refused when the pack is loaded (`agentmill.domains.consistency`).
"""

from collections.abc import Iterator

from agentmill.domains.base import ALL, Domain, PlannedSwitch, Scenario
from agentmill.domains.check.finding import Finding, shortened
from agentmill.domains.check.worlds import opened, shown
from agentmill.domains.consistency import inconsistencies
from agentmill.domains.switching import Switch, UnknownSwitch, found

DRAWN = 120
Plan = tuple[Scenario, PlannedSwitch]


def switch_findings(domain: Domain) -> Iterator[Finding]:
    """What stands in the way of changing the business in the middle of a conversation; nothing without switches."""
    planned = [
        (scenario, switch)
        for mix in (ALL, *domain.mixes)
        for split in ("train", "heldout")
        for scenario in domain.source(mix)(DRAWN, 0, split)
        for switch in scenario.switches
    ]
    unknown = list(_unknown(domain, planned))
    yield from shortened("scenarios", unknown)
    if unknown:
        return
    for switch in domain.switches.values():
        yield from shortened(f"switch {switch.name}", _torn(domain, switch))
    kinds = {found(domain.switches, plan.name)[0].kind for _, plan in planned}
    for kind in dict.fromkeys(switch.kind for switch in domain.switches.values()):
        if kind not in kinds:
            told = "no scenario of any mix plans one, so it is neither taught nor tested; draw it"
            yield Finding(f"switches of the kind {kind}", told)
    yield from _made(domain, planned)


def _unknown(domain: Domain, planned: list[Plan]) -> Iterator[Finding]:
    for scenario, plan in planned:
        try:
            found(domain.switches, plan.name)
        except UnknownSwitch as error:
            yield Finding("scenarios", f"{scenario.sid} plans what the pack has not: {error}")
        if not 0 <= plan.turn < scenario.max_turns:
            told = f"it has {scenario.max_turns} turns at most, so this would never come; plan it earlier"
            yield Finding("scenarios", f"{scenario.sid} plans {plan.name} before turn {plan.turn}: {told}")


def _torn(domain: Domain, switch: Switch) -> Iterator[Finding]:
    """What contradicts itself, and what a plan could not know, once the switch took hold."""
    about = f"switch {switch.name}"
    under = domain.under([f"{switch.name}:value" if switch.takes_value else switch.name])
    for sentence in inconsistencies(under):
        yield Finding(about, f"once it took hold, {sentence}")
    for name, tool in switch.tools.items():
        new = [
            parameter
            for parameter, shape in tool.parameters.items()
            if parameter not in domain.tools[name].parameters and shape.default is shape.empty
        ]
        for intent in under.intents.values():
            slots = (*intent.required, *intent.optional)
            for parameter in new if switch.renames.get(name, name) in intent.tools else ():
                if parameter not in slots:
                    told = f"{name} then needs {parameter}, which {intent.name} never asks for"
                    yield Finding(about, f"{told}; name it in asks={{{intent.name!r}: ({parameter!r},)}}")


def _made(domain: Domain, planned: list[Plan]) -> Iterator[Finding]:
    """Make each switch once, in the world of the first scenario that plans it."""
    first: dict[str, Plan] = {}
    for plan in planned:
        first.setdefault(found(domain.switches, plan[1].name)[0].name, plan)
    for scenario, chosen in first.values():
        switch, value = found(domain.switches, chosen.name)
        if switch.apply is None:
            continue
        about, seed = f"switch {switch.name}", scenario.world_seed
        with opened(domain, seed, "check-one") as one, opened(domain, seed, "check-two") as two:
            before = shown(two)
            try:
                switch.apply(one, value)
                one.commit()
            except Exception as error:  # noqa: BLE001  (the pack's code is not ours, and its faults are what is looked for)
                told = f"it cannot be made in the world of scenario {scenario.sid}, which plans {chosen.name}"
                yield Finding(about, f"{told}: {type(error).__name__}: {error}; mend either")
                continue
            if shown(two) != before:
                yield Finding(about, "it shows in another conversation's world; change the session's own alone")
