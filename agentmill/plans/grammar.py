"""A grammar of the plan language, narrowed to some tools: text in GBNF, as engines take it for guided decoding.

`plan_grammar(tools, bounds)` derives plans in their usual spelling only: a call's arguments in the order of the tool's
signature (up to four required ones in any order), strings in double quotes, lower-case names, indentation by fours.
Every derivation is a plan that `Plan.parse` accepts and whose calls have a tool's own arguments, the required ones
included, with values of their types. What a grammar without context cannot know stays with the Evaluator: whether a
name was assigned before. The grammar is finite (`Bounds`), so that a model that means nothing comes to an end as well.
"""

import inspect
import json
import keyword
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from agentmill.domains.base import Tool

_FIRST = "abcdefghijklmnopqrstuvwxyz"
_LATER = _FIRST + "0123456789_"
# Control signs and signs without a picture, which no plan may hold (`agentmill.agents.frames.hides`). Those beyond
# one byte stand as themselves: llguidance 1.x drops the leading zeros of \u061c on its way to Lark, and then cannot
# read what is left. To be written as escapes when it keeps them.
_UNSEEN = (
    r"\x00-\x1f\x7f-\x9f\xad"
    "\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff"
)
_NAME_TAIL = 24  # characters of a name after it differs from every reserved word
_INDENT = "    "
_PERMUTED = 4  # required arguments of which every order is let through
_FIXED = {
    "integer": r'"-"? ("0" | [1-9] [0-9]{0,11})',
    "number": 'integer ("." [0-9]{1,6})?',
    "boolean": '"True" | "False"',
    "none": '"None"',
    "scalar": "string | number | boolean | none",
    "list": '"[" (scalar (", " scalar){0,11})? "]"',
    "mapping": '"{" (string ": " scalar (", " string ": " scalar){0,11})? "}"',
    # Derives nothing but the empty text. Reading GBNF, llguidance 1.7 makes a token of its lexer of every rule that is
    # not recursive, whole statements included: it then refused plans (the longest token wins) and was ten times slower.
    # To be removed when it does so only for rules of characters.
    "apart": '"" | apart',
    "place": 'apart name ("." name | "[" (key | "-"? ("0" | [1-9] [0-9]?)) "]"){0,4}',
    "compared": '(" == " | " != " | " < " | " <= " | " > " | " >= ") (scalar | place)',
    "within": '(" in " | " not in ") (list | place)',
    "same": '(" is " | " is not ") (boolean | none)',
    "truth": '"not "? place (compared | within | same)? | string (" in " | " not in ") place',
    "group": '"not "? "(" truth ((" and " | " or ") truth){0,3} ")"',
    "test": '(truth | group) ((" and " | " or ") (truth | group)){0,3}',
}


@dataclass(frozen=True)
class Bounds:
    """The largest plan: statements in a block, blocks inside each other, characters in a text."""

    statements: int = 8
    depth: int = 3
    text: int = 120


def plan_grammar(tools: Sequence[Tool], bounds: Bounds | None = None) -> str:
    """The grammar of the plans over `tools`; its first rule is `root`.

    Raises:
        ValueError: when there is no tool, since a plan calls one.
    """
    if not tools:
        raise ValueError("tools is empty: a plan calls at least one tool; make a grammar only for intents with tools")
    return _written(tuple(tools), bounds or Bounds())


@lru_cache(maxsize=256)
def _written(tools: tuple[Tool, ...], bounds: Bounds) -> str:
    rules = {**_blocks(bounds), "call": " | ".join(f"call-{index}" for index in range(len(tools)))}
    for index, tool in enumerate(tools):
        rules.update(_call(f"call-{index}", tool))
    rules.update(_FIXED)
    rules["string"] = rf'"\"" ([^"\\{_UNSEEN}] | "\\" ["\\nt]){{0,{bounds.text}}} "\""'
    rules["key"] = r'"\"" [A-Za-z0-9_ -]{1,32} "\""'
    rules.update(_Names({*keyword.kwlist, *(tool.name for tool in tools)}).rules())
    return "\n".join(f"{name} ::= {body}" for name, body in rules.items()) + "\n"


def _blocks(bounds: Bounds) -> dict[str, str]:
    """A rule for the statements of each depth, from the outermost to those that hold no others."""
    rules = {"root": f"statement-0 | statement-0 ({_line(0)} statement-0){{1,{bounds.statements - 1}}}"}
    if bounds.statements == 1:
        rules["root"] = "statement-0"  # no repetition may end at 0
    for depth in range(bounds.depth):
        line, block = _line(depth), f"block-{depth + 1}"
        rules[f"statement-{depth}"] = (
            f'(name " = ")? call | "for " name " in " place ":" {block} | '
            f'"if " test ":" {block} ({line} "elif " test ":" {block}){{0,2}} ({line} "else:" {block})?'
        )
        rules[block] = f"({_line(depth + 1)} statement-{depth + 1}){{1,{bounds.statements}}}"
    rules[f"statement-{bounds.depth}"] = '(name " = ")? call'
    return rules


def _line(depth: int) -> str:
    """A line break and the indentation of a depth, as a terminal of the grammar."""
    return json.dumps("\n" + _INDENT * depth)


def _call(rule: str, tool: Tool) -> dict[str, str]:
    """The rules of a call: every required argument, optional ones or not, in the order of the signature.

    The required ones alone, if they are few, may stand in any order.

    `rule-N` is what may follow from the N-th argument on, when one was given before it.
    """
    parameters = list(tool.parameters.values())
    given = [f'"{one.name}=" ({_value(one.annotation)} | place)' for one in parameters]
    needed = [one.default is inspect.Parameter.empty for one in parameters]
    rules = {f"{rule}-{len(parameters)}": '""'}
    for index in reversed(range(len(parameters))):
        rest = f"{rule}-{index + 1}"
        rules[f"{rule}-{index}"] = f'", " {given[index]} {rest}' if needed[index] else f'(", " {given[index]})? {rest}'
    starts = needed.index(True) + 1 if True in needed else len(parameters)
    first = [f"{given[index]} {rule}-{index + 1}" for index in range(starts)]
    arguments = first if True in needed else [*first, '""']
    required = [one for one, need in zip(given, needed, strict=True) if need]
    if 1 < len(required) <= _PERMUTED:
        rules.update(_permuted(f"{rule}-any", required))
        arguments.append(f"{rule}-any-0")
    rules[rule] = f'"{tool.name}(" ({" | ".join(arguments)}) ")"'
    return rules


def _permuted(rule: str, required: list[str]) -> dict[str, str]:
    """All of `required` in any order; `rule-N` is what may follow those whose bits are set in N."""
    whole = 2 ** len(required) - 1
    rules = {}
    for seen in range(whole):
        comma = '", " ' if seen else ""
        rest = [(one, seen | 1 << place) for place, one in enumerate(required) if not seen >> place & 1]
        rules[f"{rule}-{seen}"] = " | ".join(
            f"{comma}{one}" if now == whole else f"{comma}{one} {rule}-{now}" for one, now in rest
        )
    return rules


def _value(annotation: Any) -> str:
    """What may be written out for a parameter of this type."""
    return " | ".join(dict.fromkeys(_values(annotation)))


def _values(annotation: Any) -> Iterator[str]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _values(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for part in get_args(annotation):
            yield from _values(part)
    elif origin is Literal:
        yield from (_quoted(choice) for choice in get_args(annotation))
    elif origin is list:
        element = _value(get_args(annotation)[0])
        yield f'"[" (({element} | place) (", " ({element} | place)){{0,11}})? "]"'
    else:
        plain = {str: "string", float: "number", int: "integer", bool: "boolean", NoneType: "none", list: "list"}
        yield from [plain[annotation]] if annotation in plain else ("scalar", "list", "mapping")


def _quoted(choice: Any) -> str:
    """A choice of a Literal as a plan writes it, as a terminal of the grammar."""
    return json.dumps(json.dumps(choice, ensure_ascii=False) if isinstance(choice, str) else repr(choice))


@dataclass
class _Names:
    """Rules for the names that are no reserved word, spelt out letter by letter along the words' common beginnings."""

    reserved: Iterable[str]
    numbers: dict[str, int] = field(default_factory=dict)

    def rules(self) -> dict[str, str]:
        words = {word for word in self.reserved if word[0] in _FIRST}
        beginnings = sorted({word[:end] for word in words for end in range(len(word) + 1)})
        self.numbers = {beginning: number for number, beginning in enumerate(beginnings)}
        rules = {"name": "name-0", "tail": f"[a-z0-9_]{{0,{_NAME_TAIL}}}"}
        rules.update({f"name-{self.numbers[one]}": self._after(one, one in words) for one in beginnings})
        return rules

    def _after(self, beginning: str, reserved: bool) -> str:
        letters = _LATER if beginning else _FIRST
        longer = [letter for letter in letters if beginning + letter in self.numbers]
        others = "".join(letter for letter in letters if letter not in longer)
        parts = [f"[{others}] tail", *(f'"{one}" name-{self.numbers[beginning + one]}' for one in longer)]
        return " | ".join(parts if reserved or not beginning else [*parts, '""'])
