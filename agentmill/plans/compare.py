"""Whether two plans are the same but for the names of their variables and the order of keyword arguments.

Statements are compared in order. Attribute and index are one (the parser rewrites the first to the second), and a
number is equal to another only with the same type, as it is for the tools.
"""

import ast

from agentmill.plans.parse import Plan


def equivalent(first: Plan, second: Plan) -> bool:
    """Decide it on the canonical forms."""
    return canonical(first) == canonical(second)


def canonical(plan: Plan) -> str:
    """A text that equivalent plans share: variables numbered by first assignment, keywords sorted."""
    tree = ast.parse(plan.code)
    names: dict[str, str] = {}
    for node in _in_order(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.setdefault(node.id, f"v{len(names)}")
        if isinstance(node, ast.Call):
            node.keywords.sort(key=lambda keyword: keyword.arg or "")
    tools = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and id(node) not in tools:
            node.id = names.get(node.id, node.id)
    return ast.dump(tree)


def _in_order(node: ast.AST) -> list[ast.AST]:
    """The nodes in the order of the text."""
    return [node] + [found for child in ast.iter_child_nodes(node) for found in _in_order(child)]
