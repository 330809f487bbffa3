"""The system texts: every tool, intent, entity and code that they name must exist, and the full ones name them all.

What reads as a name is told by its form: `name(` is a call, `two_words` in small letters a tool, intent or entity,
`TWO_WORDS` a rule's code, and what begins a list's line is a name of any of them.
"""

import inspect
import re
from collections.abc import Iterable, Iterator

from agentmill.config import nearest
from agentmill.domains.base import RESERVED_KEYS, Domain
from agentmill.domains.check.finding import Finding, shortened
from agentmill.domains.consistency import CORE_CODES
from agentmill.domains.kit.personas import PERSONAS
from agentmill.plans.check import CONFIRM_FIRST

SAMPLE = 100
_CALL = re.compile(r"(?<![\w.])([a-z][a-z0-9_]*)\(")
_SNAKE = re.compile(r"(?<![\w.\-])([a-z][a-z0-9]*(?:_[a-z0-9]+)+)(?![\w\-])")
_CODE = re.compile(r"(?<!\w)([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)(?!\w)")
_QUOTED = re.compile(r"""["'](\w+)["']""")
_LINE_CODE = re.compile(r"^\s*- ([A-Z][A-Z0-9_]+): ", re.MULTILINE)


def prompt_findings(domain: Domain) -> Iterator[Finding]:
    """Names in prompts that nothing has, and names that a full prompt leaves out."""
    codes = {rule.code for rule in domain.rules} | CORE_CODES | {CONFIRM_FIRST}
    names = _names(domain)
    for style, texts in domain.prompts.items():
        for agent, text in texts.items():
            about = f"prompt {style} {agent}"
            found = [
                *_unknown(about, _CALL.findall(text), domain.tools, "tool"),
                *_unknown(about, _SNAKE.findall(_CALL.sub(" ", text)), names, "tool, intent or entity"),
                *_unknown(about, [*_CODE.findall(text), *_LINE_CODE.findall(text)], codes, "rule"),
            ]
            yield from shortened(about, found)
    yield from _left_out(domain)


def _names(domain: Domain) -> set[str]:
    """Everything in small letters that a prompt may speak of."""
    parameters = {name for tool in domain.tools.values() for name in tool.parameters}
    choices = {str(choice) for entity in domain.entities.values() for choice in entity.choices}
    slots = {slot for split in ("train", "heldout") for scenario in domain.scenarios(SAMPLE, 0, split)
             for goal in scenario.goals for slot in goal.slots}  # fmt: skip
    known = {*domain.tools, *domain.intents, *domain.entities, *parameters, *choices, *slots, *RESERVED_KEYS, *PERSONAS}
    return known | _result_keys(domain)


def _result_keys(domain: Domain) -> set[str]:
    """The words that stand in quotes where the tools are written: the keys of their results are among them."""
    modules = {inspect.getmodule(tool.function) for tool in domain.tools.values()}
    return {word for module in modules if module is not None for word in _QUOTED.findall(inspect.getsource(module))}


def _unknown(about: str, said: Iterable[str], known: Iterable[str], kind: str) -> Iterator[Finding]:
    known = set(known)
    for name in dict.fromkeys(said):
        if name not in known:
            guess = nearest(name, sorted(known))
            hint = f"did you mean {guess}?" if guess else "take it out, or add it to the pack"
            yield Finding(
                about, f"it names {name}, and there is no such {kind}, so a model would follow it in vain; {hint}"
            )


def _left_out(domain: Domain) -> Iterator[Finding]:
    """What an untrained model is not told: the full prompts are all that it knows."""
    due = (
        ("understander", [*domain.intents]), ("understander", [*domain.entities]), ("planner", [*domain.tools]),
        ("planner", [rule.code for rule in domain.rules]), ("evaluator", [rule.code for rule in domain.rules]),
    )  # fmt: skip
    for agent, names in due:
        text = domain.prompts["full"][agent]  # type: ignore[index]
        for name in names:
            if not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text):
                yield Finding(
                    f"prompt full {agent}",
                    f"it does not name {name}, which an untrained model has from nowhere else; add it",
                )
