"""A plan's text with its tools called by other names. Nothing else in the text changes, whatever its arguments say."""

import ast
from collections.abc import Mapping


def with_tools_named(text: str, names: Mapping[str, str]) -> str:
    """The text of a plan that parses, every call of a tool in `names` under its other name."""
    if not any(name in text for name in names):
        return text
    lines = [line.encode() for line in text.splitlines(keepends=True)]
    called = (node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
    found = [node for node in called if isinstance(node, ast.Name) and node.id in names]
    for node in sorted(found, key=lambda node: (node.lineno, node.col_offset), reverse=True):
        line, end = lines[node.lineno - 1], node.col_offset + len(node.id.encode())
        lines[node.lineno - 1] = line[: node.col_offset] + names[node.id].encode() + line[end:]
    return b"".join(lines).decode()
