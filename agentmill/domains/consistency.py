"""Whether a pack's tables hold together: names that are keys, references that lead somewhere, tools that can be called.

In goes a Domain, out come sentences of four parts (what, the rule, the reason, the remedy), none where all is well. A
pack with one of them is refused when it is loaded: it would fail later, in a worker, and say less. What is merely
missing (a test, a scenario) is for `agentmill domain check`.
"""

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from agentmill.config import nearest
from agentmill.domains.base import RESERVED_KEYS, Domain, Entity, Intent, Tool
from agentmill.domains.switching import Switch
from agentmill.models.chat import AgentName

KINDS = (str, int, float, bool)
STYLES = ("brief", "full")
PROMPTED = tuple(name for name in get_args(AgentName) if name != "executor")  # the Executor asks no model
CORE_CODES = frozenset(
    "SYNTAX FORBIDDEN TOO_LONG EMPTY SHADOWED_TOOL UNKNOWN_NAME UNKNOWN_TOOL WRONG_TOOL UNKNOWN_ARGUMENT "
    "MISSING_ARGUMENT WRONG_TYPE EXECUTION INCOMPLETE_PLAN NEEDLESS_CALL".split()
)  # CONFIRM_FIRST is not among them: a pack may state that rule of the core in its own words
_KEY = re.compile(r"[a-z][a-z_]*")
_CODE = re.compile(r"[A-Z][A-Z0-9_]*")


def inconsistencies(domain: Domain) -> list[str]:
    """Everything that contradicts itself in the domain's tables."""
    parts = (_names, _entities, _intents, _tools, _rules, _prompts, _switches)
    return [sentence for part in parts for sentence in part(domain)]


def _names(domain: Domain) -> Iterator[str]:
    tables: tuple[tuple[str, Mapping[str, Any]], ...] = (
        ("entities", domain.entities), ("intents", domain.intents), ("tools", domain.tools),
        ("switches", domain.switches),
    )  # fmt: skip
    for title, table in tables:
        for key, value in table.items():
            if value.name != key:
                yield f"{title}[{key!r}] is named {value.name!r}; key and name must be one, so mend either"
    if not any(intent.tools for intent in domain.intents.values()):
        yield "intents: none has tools, so no plan could ever be made; give at least one intent its tools"


def _entities(domain: Domain) -> Iterator[str]:
    for name, entity in domain.entities.items():
        if name in RESERVED_KEYS:
            yield f"entity {name!r} is a key of every prompt's frame, where it would be overwritten; rename it"
        elif not _KEY.fullmatch(name):
            yield f"entity {name!r}: a key of a frame has small letters and underscores only; rename it"
        yield from _values(entity)


def _values(entity: Entity) -> Iterator[str]:
    if entity.kind not in KINDS:
        kinds = ", ".join(kind.__name__ for kind in KINDS)
        yield f"entity {entity.name!r} has kind={entity.kind!r}; values travel as JSON, so use one of {kinds}"
        return
    wrong = [choice for choice in entity.choices if type(choice) is not entity.kind]
    if wrong:
        kind = entity.kind.__name__
        yield f"entity {entity.name!r} offers {wrong[0]!r}, which is no {kind} and would be refused; mend its choices"


def _intents(domain: Domain) -> Iterator[str]:
    for name, intent in domain.intents.items():
        if not _KEY.fullmatch(name):
            yield f"intent {name!r}: names have small letters and underscores only; rename it"
        yield from _unknown(f"intent {name!r}: tools", intent.tools, domain.tools, "tool")
        for field in ("required", "optional", "any_of", "supplies"):
            yield from _unknown(f"intent {name!r}: {field}", getattr(intent, field), domain.entities, "entity")
        yield from _slots(intent)


def _slots(intent: Intent) -> Iterator[str]:
    for slot in intent.any_of:
        if slot not in intent.optional:
            yield (
                f"intent {intent.name!r}: any_of names {slot!r}, which is not among its optional entities and would "
                "not reach its prompts; add it to optional"
            )
    for slot in set(intent.required) & set(intent.optional):
        yield f"intent {intent.name!r}: {slot!r} is both required and optional; leave it in one of them"


def _unknown(what: str, names: tuple[str, ...], table: Mapping[str, object], kind: str) -> Iterator[str]:
    for name in names:
        if name not in table:
            guess = nearest(name, table)
            hint = f"did you mean {guess}?" if guess else f"add it, or name one of {', '.join(table)}"
            yield f"{what} names {name!r}, and there is no such {kind}; {hint}"


def _tools(domain: Domain) -> Iterator[str]:
    tools: Mapping[str, object] = domain.tools
    for name, tool in tools.items():
        if not isinstance(tool, Tool):
            yield f"tool {name!r} is a {type(tool).__name__}; mark the function with @tool()"
            continue
        if not inspect.getdoc(tool.function):
            yield f"tool {name!r} has no docstring, which is how the Planner knows what it does; write one line"
        yield from _signature(tool)


def _signature(tool: Tool) -> Iterator[str]:
    what, form = f"tool {tool.name!r}", "def tool(world, *, name: str)"
    try:
        signature = inspect.signature(tool.function, eval_str=True)
    except (NameError, TypeError, AttributeError) as error:
        yield f"{what}: its annotations cannot be read ({error}), and arguments are checked by them; import their types"
        return
    first, *others = signature.parameters.values() or (None,)
    if first is None or first.kind not in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD):
        yield f"{what} does not take the world first, which it is always given; write {form}"
        return
    for parameter in others:
        if parameter.kind is not parameter.KEYWORD_ONLY:
            yield f"{what}: {parameter.name} is not keyword-only, and plans give keywords only; write {form}"
        elif parameter.annotation is parameter.empty:
            yield f"{what}: {parameter.name} has no type, so nothing would check what a plan gives; write {form}"


def _rules(domain: Domain) -> Iterator[str]:
    codes = [rule.code for rule in domain.rules]
    for code in dict.fromkeys(codes):
        if codes.count(code) > 1:
            yield f"rule {code}: {codes.count(code)} rules have this code, and feedback names the code; rename them"
        if code in CORE_CODES:
            yield f"rule {code}: the core's own checks have this code; rename the rule"
        if not _CODE.fullmatch(code):
            yield f"rule {code!r}: a code has capitals, digits and underscores only, such as ONE_LOAN; rename it"


def _prompts(domain: Domain) -> Iterator[str]:
    for style in STYLES:
        texts = domain.prompts.get(style, {})
        for agent in PROMPTED:
            if not texts.get(agent, "").strip():
                yield f"prompts[{style!r}][{agent!r}] is missing, and the {agent}'s model is asked with it; write it"


def _switches(domain: Domain) -> Iterator[str]:
    switches = () if domain.pack is not None else domain.switches.values()  # those in force are part of it already
    for switch in switches:
        what = f"switch {switch.name!r}"
        if not _KEY.fullmatch(switch.name):
            yield f"{what}: names have small letters and underscores only; rename it"
        if not switch.notice.strip():
            yield f"{what} has no notice, and the agents know of it by nothing else; write what they are told"
        if switch.apply is None and not switch.in_system:
            yield f"{what} changes neither the world nor what may be planned; give it apply, renames, tools or rules"
        yield from _references(domain, what, switch)
        for other in domain.switches.values():
            if other.name != switch.name and other.heard(switch.told("value")) is not None:
                told = f"its notice reads as that of {other.name!r} too, so a frame would not tell them apart"
                yield f"{what}: {told}; reword it"


def _references(domain: Domain, what: str, switch: Switch) -> Iterator[str]:
    yield from _unknown(f"{what}: renames", tuple(switch.renames), domain.tools, "tool")
    yield from _unknown(f"{what}: tools", tuple(switch.tools), domain.tools, "tool")
    for name, tool in switch.tools.items():
        if tool.logged != name:
            told = f"tools[{name!r}] is the function {tool.logged!r}, and the world's log keeps functions apart by name"
            yield f"{what}: {told}; call the function {name}"
    for new in switch.renames.values():
        if not _KEY.fullmatch(new) or new in domain.tools:
            yield f"{what}: renames a tool to {new!r}, which is no name or a tool already; choose another"
    for field, table, kind in (("asks", domain.entities, "entity"), ("serves", domain.tools, "tool")):
        given: Mapping[str, tuple[str, ...]] = getattr(switch, field)
        yield from _unknown(f"{what}: {field}", tuple(given), domain.intents, "intent")
        for names in given.values():
            yield from _unknown(f"{what}: {field}", names, table, kind)
