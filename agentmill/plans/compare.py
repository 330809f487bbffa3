"""Whether two plans are the same but for the names of their variables and the order of keyword arguments.

`equivalent` decides it for whole plans: statements are compared in order. `calls_of` gives a plan's calls, to be
compared as a multiset. Attribute and index are one (the parser rewrites the first to the second), and a number is
equal to another only with the same type, as it is for the tools.
"""

import ast
import hashlib
from collections import Counter

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


def calls_of(plan: Plan) -> Counter[str]:
    """A plan's calls, each as a text without names of variables and with its keywords sorted.

    A variable stands as a digest of what it holds, so that texts stay short however calls depend on each other.
    """
    found: Counter[str] = Counter()
    held: dict[str, str] = {}
    for node in _in_order(plan.tree):
        match node:
            case ast.For(target=ast.Name(id=name), iter=iterated):
                held[name] = _digest(f"each {_with(held, iterated)}")
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call() as call):
                found[text := _call(call, held)] += 1
                held[name] = _digest(text)
            case ast.Expr(value=ast.Call() as call):
                found[_call(call, held)] += 1
    return found


def _call(call: ast.Call, held: dict[str, str]) -> str:
    arguments = sorted(f"{keyword.arg}={_with(held, keyword.value)}" for keyword in call.keywords)
    return f"{ast.unparse(call.func)}({', '.join(arguments)})"


def _with(held: dict[str, str], expression: ast.expr) -> str:
    """An expression's text with every variable replaced by what it holds."""
    copied = ast.parse(ast.unparse(expression), mode="eval")
    for node in ast.walk(copied):
        if isinstance(node, ast.Name):
            node.id = held.get(node.id, node.id)
    return ast.unparse(copied)


def _digest(text: str) -> str:
    return f"<{hashlib.sha256(text.encode()).hexdigest()[:16]}>"
