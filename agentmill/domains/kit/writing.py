"""Plans as text: single calls from known values, and a plan's tree written back in the words that it was read from."""

import ast
import json
from collections.abc import Mapping, Sequence
from typing import Any


def call(tool: str, known: Mapping[str, Any], *names: str, **references: str) -> str:
    """One tool call as plan text, with those of `names` that are known, then `references` as they are written."""
    arguments = [f"{name}={literal(known[name])}" for name in names if name in known]
    arguments += [f"{name}={expression}" for name, expression in references.items()]
    return f"{tool}({', '.join(arguments)})"


def literal(value: Any) -> str:
    """A value as a plan writes it: JSON, but for Python's True, False and None."""
    return str(value) if isinstance(value, bool) or value is None else json.dumps(value, ensure_ascii=False)


def written(body: Sequence[ast.stmt], text: str) -> str:
    """The statements as text, each in the words of the `text` that it was parsed from.

    Only the lists of statements and the parts of an `and` may have been changed.
    """
    return "\n".join(_lines(body, text))


def _lines(body: Sequence[ast.stmt], text: str) -> list[str]:
    lines: list[str] = []
    for node in body:
        match node:
            case ast.If(test=test, body=inner, orelse=orelse):
                lines += [f"if {_segment(test, text)}:", *_indented(inner, text)]
                lines += ["else:", *_indented(orelse, text)] if orelse else []
            case ast.For(target=target, iter=iterated, body=inner):
                lines += [f"for {_segment(target, text)} in {_segment(iterated, text)}:", *_indented(inner, text)]
            case _:
                lines.append(_segment(node, text))
    return lines


def _indented(body: Sequence[ast.stmt], text: str) -> list[str]:
    return [f"    {line}" for line in _lines(body, text)]


def _segment(node: ast.AST, text: str) -> str:
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
        return " and ".join(_operand(value, text) for value in node.values)
    return ast.get_source_segment(text, node) or ast.unparse(node)


def _operand(node: ast.expr, text: str) -> str:
    segment = _segment(node, text)
    return f"({segment})" if isinstance(node, ast.BoolOp) else segment
