"""Changes of the business in the middle of a conversation: how a pack states them, and the pack once some took hold.

A planned switch is named `name` or `name:value` ("vehicle_sold:N4821"). Its part in the world is applied to the
conversation's own copy; its part in the system gives other tools, rules and needed entities. Invariants: a tool keeps
the name that the pack gave it in the log of the world and inside of rules, whatever it is called in plans; the agents
know of a switch by its notice alone, and a frame that shows the notice tells the switch.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from agentmill.agents.frames import fold
from agentmill.config import nearest
from agentmill.domains.base import Domain, Intent, Json, Rule, Tool
from agentmill.plans.parse import Plan
from agentmill.plans.rename import with_tools_named

SwitchKind = Literal["hours", "stock", "incentive", "rename", "argument", "rule"]
KINDS: tuple[SwitchKind, ...] = get_args(SwitchKind)
VALUE = "{value}"
_VALUE = re.compile(r"\w[\w .\-]{0,59}")
Table = Mapping[str, "Switch"]


class UnknownSwitch(ValueError):
    """The pack has no such switch, or its value is none."""


def _no_rules(tools: Mapping[str, Tool], intents: Mapping[str, Intent]) -> Sequence[Rule]:
    return ()


@dataclass(frozen=True)
class Switch:
    """One change of the business. `notice` is what the agents are told, with `{value}` where it takes one.

    `apply(world, value)` changes the world, inside a transaction that the Executor ends. `tools` take the place of
    those with their names, `renames` says what tools are called from now on, `asks` which entities an intent needs in
    addition, `serves` which tools in addition may serve it. `rules` are made of the tools and intents that hold
    then; one of a code that is there takes its place.
    """

    name: str
    kind: SwitchKind
    notice: str
    apply: Callable[[Any, str], None] | None = None  # gets the pack's own world
    tools: Mapping[str, Tool] = field(default_factory=dict)
    renames: Mapping[str, str] = field(default_factory=dict)
    asks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    serves: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rules: Callable[[Mapping[str, Tool], Mapping[str, Intent]], Sequence[Rule]] = _no_rules

    @property
    def takes_value(self) -> bool:
        return VALUE in self.notice

    @property
    def in_system(self) -> bool:
        """Whether it changes more than the world: what may be planned, or must be known."""
        return bool(self.tools or self.renames or self.asks or self.serves or self.rules is not _no_rules)

    def told(self, value: str) -> str:
        """The notice with its value."""
        return fold(self.notice.replace(VALUE, value))

    def heard(self, notice: str) -> str | None:
        """The planned name that has this notice, None where it is another switch's."""
        pattern = re.escape(self.notice).replace(re.escape(VALUE), "(.+)")
        match = re.fullmatch(pattern, notice)
        if match is None:
            return None
        return f"{self.name}:{match[1]}" if self.takes_value else self.name


def found(switches: Table, name: str) -> tuple[Switch, str]:
    """The switch that a planned name means, and its value ("" where it takes none).

    Raises:
        UnknownSwitch: when there is none of this name, or the value is missing, needless or not one line of words.
    """
    base, colon, value = name.partition(":")
    if base not in switches:
        guess = nearest(base, switches)
        hint = f"did you mean {guess}?" if guess else f"there are: {', '.join(switches) or 'none'}"
        raise UnknownSwitch(f"switch={name!r}: the pack has no switch {base!r}; {hint}")
    switch = switches[base]
    if switch.takes_value and not _VALUE.fullmatch(value):
        raise UnknownSwitch(f"switch={name!r}: it says about what after a colon; write {base}:VALUE, one line of words")
    if colon and not switch.takes_value:
        raise UnknownSwitch(f"switch={name!r}: {base} takes no value; leave out {value!r}")
    return switch, value


def notices(switches: Table, names: Iterable[str]) -> list[str]:
    """What the agents are told of the switches in force, in order."""
    told = (found(switches, name) for name in names)
    return [switch.told(value) for switch, value in told]


def names_in(switches: Table, told: Sequence[str]) -> tuple[str, ...]:
    """The planned names behind notices.

    Raises:
        UnknownSwitch: for a notice that no switch gives.
    """
    names = []
    for notice in told:
        name = next((name for switch in switches.values() if (name := switch.heard(notice))), None)
        if name is None:
            raise UnknownSwitch(f"changes: no switch of the pack gives the notice {notice!r}")
        names.append(name)
    return tuple(names)


def intents_under(intents: Mapping[str, Intent], switches: Table, names: Iterable[str]) -> dict[str, Intent]:
    """The intents with what the switches ask for and let serve in addition; tools by the names that the pack gave."""
    after = dict(intents)
    for switch in (found(switches, name)[0] for name in names):
        for intent, asked in switch.asks.items():
            known = after[intent]
            optional = tuple(slot for slot in known.optional if slot not in asked)
            after[intent] = replace(known, required=_joined(known.required, asked), optional=optional)
        for intent, served in switch.serves.items():
            after[intent] = replace(after[intent], tools=_joined(after[intent].tools, served))
    return after


def system_part(switches: Table, names: Iterable[str]) -> tuple[str, ...]:
    """The names of those switches that change more than the world, each once."""
    return tuple(dict.fromkeys(switch.name for switch, _ in (found(switches, n) for n in names) if switch.in_system))


def switched(domain: Domain, names: Sequence[str]) -> Domain:
    """The domain with the system's part of the switches in force: tools, intents, rules and full prompts.

    Tools are replaced and rules made under the pack's own names; renaming comes last, around all of it.
    """
    active = [found(domain.switches, name)[0] for name in names]
    tools = dict(domain.tools)
    for switch in active:
        tools.update(switch.tools)
    intents = intents_under(domain.intents, domain.switches, names)
    rules = {rule.code: rule for rule in domain.rules}
    for switch in active:
        rules.update({rule.code: rule for rule in switch.rules(tools, intents)})
    renames = {old: new for switch in active for old, new in switch.renames.items()}
    after = replace(
        domain,
        tools={renames.get(name, name): _called(tool, renames.get(name, "")) for name, tool in tools.items()},
        intents={name: _with_tools(intent, renames) for name, intent in intents.items()},
        rules=tuple(_renamed(rule, renames) for rule in rules.values()),
        renames=renames,
        pack=domain,
    )
    return after if domain.reworded is None else replace(after, prompts=domain.reworded(after))


def retold(text: str, renames: Mapping[str, str]) -> str:
    """A text that speaks of tools, with the names that they have now."""
    if not renames:
        return text
    names = "|".join(sorted(map(re.escape, renames), key=len, reverse=True))
    return re.sub(rf"\b(?:{names})\b", lambda match: renames[match[0]], text)


def _joined(known: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*known, *more)))


def _called(tool: Tool, name: str) -> Tool:
    return replace(tool, called=name) if name else tool


def _with_tools(intent: Intent, renames: Mapping[str, str]) -> Intent:
    return replace(intent, tools=tuple(renames.get(tool, tool) for tool in intent.tools))


def _renamed(rule: Rule, renames: Mapping[str, str]) -> Rule:
    """The rule over plans that call tools by their new names: it still sees, and is written in, the pack's own."""
    if not renames:
        return rule
    back = {new: old for old, new in renames.items()}

    def check(plan: Plan, state: Any, facts: Json) -> str | None:
        sentence = rule.check(Plan.parse(with_tools_named(plan.text, back)), state, facts)
        return None if sentence is None else retold(sentence, renames)

    return Rule(rule.code, retold(rule.description, renames), check)
