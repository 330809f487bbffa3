"""The plan language: a small subset of Python, parsed once.

A plan is assignments from tool calls, bare tool calls, `if` and `for` over a result. Expressions are literals,
variables, comparisons, `and`, `or`, `not`, and a look into a result by index or attribute (`slot.free` means
`slot["free"]` and is rewritten to it). Everything else is refused here, so nothing else reaches the checks or the
sandbox. Invariant: `Plan.tree` was parsed from `Plan.code`, so positions in the tree are positions in the code.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from agentmill.domains.base import Violation

MAX_CHARACTERS = 4_000
MAX_DEPTH = 24
_FENCE = re.compile(r"^```[a-z]*\n(.*?)\n?```$", re.DOTALL)
_COMPARISONS = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn, ast.Is, ast.IsNot)
_LITERALS = (str, int, float, bool, type(None))
_ALLOWED = "a plan has only tool calls with keyword arguments, assignments from them, if and for"
_NAMES = {ast.While: "while", ast.Import: "import", ast.ImportFrom: "import", ast.FunctionDef: "def"}


class PlanError(ValueError):
    """A text that is no plan: a stable code (SYNTAX, FORBIDDEN, TOO_LONG, EMPTY) and a sentence for the Planner."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(f"{code}: {sentence}")
        self.code = code
        self.sentence = sentence

    @property
    def violation(self) -> Violation:
        """The same as a violation."""
        return Violation(code=self.code, message=self.sentence)


class NotLiteral:
    """Stands for an argument whose value is known only when the plan runs; equal to nothing else."""


NOT_LITERAL = NotLiteral()


@dataclass(frozen=True)
class ToolCall:
    """One call in a plan. `proven` holds what must be true for it to run: (earlier call, key of its result) pairs.

    `variable` is the name that the result is assigned to, or "".
    """

    tool: str
    arguments: Mapping[str, ast.expr]
    variable: str
    node: ast.Call
    proven: tuple[tuple["ToolCall", str], ...] = field(default=(), compare=False, repr=False)

    def value(self, name: str) -> Any:
        """The value of an argument that is written out in the plan, else NOT_LITERAL."""
        expression = self.arguments.get(name)
        return NOT_LITERAL if expression is None else literal(expression)


@dataclass(frozen=True)
class Plan:
    """A parsed plan. `code` is its normal form: attributes as indexes, one statement a line, no comments."""

    text: str
    code: str
    tree: ast.Module

    @classmethod
    def parse(cls, text: str) -> "Plan":
        """Read a plan; a Markdown fence around it is taken off.

        Raises:
            PlanError: when the text is empty, too long, no Python, or outside of the plan language.
        """
        source = unfenced(text)
        if len(source) > MAX_CHARACTERS:
            raise PlanError("TOO_LONG", f"the plan has {len(source)} characters; at most {MAX_CHARACTERS} are allowed")
        return read_plan(source)

    @cached_property
    def calls(self) -> tuple[ToolCall, ...]:
        """Every tool call in the order of the text, with what is proven where it stands."""
        return tuple(_Tracer().block(self.tree.body, {}, ()))

    @cached_property
    def variables(self) -> tuple[str, ...]:
        """The variables that tool calls are assigned to, in order of first assignment."""
        return tuple(dict.fromkeys(call.variable for call in self.calls if call.variable))


@lru_cache(maxsize=512)
def read_plan(source: str) -> Plan:
    """The plan of an unfenced text. The agents of a turn read the same one: it is parsed once and never changed."""
    tree = _read(source)
    _require_depth(tree)
    for statement in tree.body:
        _require_statement(statement)
    if not any(isinstance(node, ast.Call) for node in ast.walk(tree)):
        raise PlanError("EMPTY", "the plan does nothing; call at least one tool")
    code = ast.unparse(ast.fix_missing_locations(_Indexed().visit(tree)))
    return Plan(source, code, _read(code))


def unfenced(text: str) -> str:
    """The text without a Markdown fence around it and without white space at its ends."""
    fenced = _FENCE.match(text.strip())
    return (fenced.group(1) if fenced else text).strip()


def literal(expression: ast.expr) -> Any:
    """The value of an expression made of literals only, else NOT_LITERAL."""
    try:
        return ast.literal_eval(expression)
    except (ValueError, TypeError):
        return NOT_LITERAL


def _read(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except SyntaxError as error:
        raise PlanError("SYNTAX", f"line {error.lineno or 1}: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise PlanError("SYNTAX", "the plan cannot be read; write one short statement a line") from error


def _require_depth(tree: ast.AST) -> None:
    level: list[ast.AST] = [tree]
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return
    raise PlanError("FORBIDDEN", f"the plan is nested more than {MAX_DEPTH} levels deep; write it flat")


def _forbidden(node: ast.AST, what: str) -> PlanError:
    return PlanError("FORBIDDEN", f"line {getattr(node, 'lineno', 1)}: {what}; {_ALLOWED}")


def _require_statement(node: ast.stmt) -> None:
    match node:
        case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call() as call):
            _require_name(node, name)
            _require_call(call)
        case ast.Expr(value=ast.Call() as call):
            _require_call(call)
        case ast.If(test=test, body=body, orelse=orelse):
            _require_expression(test)
            for inner in body + orelse:
                _require_statement(inner)
        case ast.For(target=ast.Name(id=name), iter=iterated, body=body, orelse=[]):
            _require_name(node, name)
            _require_place(iterated)
            for inner in body:
                _require_statement(inner)
        case ast.Pass():
            return
        case ast.Assign() | ast.AnnAssign() | ast.AugAssign():
            raise _forbidden(node, "only one name = tool(...) can be assigned")
        case _:
            raise _forbidden(node, f"{_NAMES.get(type(node), type(node).__name__.lower())} is not allowed")


def _require_name(node: ast.AST, name: str) -> None:
    if name.startswith("_"):
        raise _forbidden(node, f"the name {name} is not allowed")


def _require_call(call: ast.Call) -> None:
    if not isinstance(call.func, ast.Name):
        raise _forbidden(call, "only a tool by its name can be called")
    _require_name(call, call.func.id)
    if call.args or any(keyword.arg is None for keyword in call.keywords):
        raise _forbidden(call, f"{call.func.id} takes keyword arguments only")
    names = [keyword.arg for keyword in call.keywords]
    for index, keyword in enumerate(call.keywords):
        if keyword.arg in names[:index]:
            raise PlanError("SYNTAX", f"line {call.lineno}: {call.func.id} gets {keyword.arg} twice; give it once")
        _require_expression(keyword.value)


def _require_place(node: ast.expr) -> None:
    """A variable, or a look into it."""
    match node:
        case ast.Name(id=name):
            _require_name(node, name)
        case ast.Attribute(value=value, attr=name):
            _require_name(node, name)
            _require_place(value)
        case ast.Subscript(value=value, slice=ast.Constant(value=str() | int()) | ast.UnaryOp() as index):
            _require_expression(index)
            _require_place(value)
        case _:
            raise _forbidden(node, f"{ast.unparse(node)} is no variable and no part of one")


def _require_expression(node: ast.expr) -> None:
    match node:
        case ast.Constant(value=value) if isinstance(value, _LITERALS):
            if node.end_lineno != node.lineno:
                raise _forbidden(node, "a text that goes over several lines is not allowed")
        case ast.Name() | ast.Attribute() | ast.Subscript():
            _require_place(node)
        case ast.BoolOp(values=parts) | ast.List(elts=parts):
            for part in parts:
                _require_expression(part)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            _require_expression(operand)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float())):
            return
        case ast.Compare(left=left, ops=ops, comparators=others) if all(isinstance(op, _COMPARISONS) for op in ops):
            for part in (left, *others):
                _require_expression(part)
        case ast.Dict(keys=keys, values=parts) if all(isinstance(key, ast.Constant) for key in keys):
            for part in (*filter(None, keys), *parts):
                _require_expression(part)
        case ast.Call():
            raise _forbidden(node, "a tool call stands alone or after name =, never inside an expression")
        case _:
            raise _forbidden(node, f"{ast.unparse(node)} is not allowed")


class _Indexed(ast.NodeTransformer):
    """Rewrites `slot.free` to `slot["free"]`."""

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        return ast.Subscript(node.value, ast.Constant(node.attr), ast.Load())


Known = dict[str, ToolCall]
Proven = tuple[tuple[ToolCall, str], ...]


class _Tracer:
    """Follows which call each variable certainly holds, and which of their keys are certainly true."""

    def block(self, body: list[ast.stmt], known: Known, proven: Proven) -> Iterator[ToolCall]:
        """The calls of a block; `known` is brought up to date in place."""
        for node in body:
            if isinstance(node, ast.If):
                yield from self._branch(node, known, proven)
            elif isinstance(node, ast.For):
                yield from self._loop(node, known, proven)
            elif isinstance(node, ast.Assign | ast.Expr) and isinstance(node.value, ast.Call):
                yield self._call(node, node.value, known, proven)

    def _call(self, node: ast.Assign | ast.Expr, call: ast.Call, known: Known, proven: Proven) -> ToolCall:
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        variable = target.id if isinstance(target, ast.Name) else ""
        assert isinstance(call.func, ast.Name)
        arguments = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
        found = ToolCall(call.func.id, arguments, variable, call, proven)
        if variable:
            known[variable] = found
        return found

    def _branch(self, node: ast.If, known: Known, proven: Proven) -> Iterator[ToolCall]:
        then, otherwise = dict(known), dict(known)
        yield from self.block(node.body, then, proven + tuple(_true_keys(node.test, known)))
        yield from self.block(node.orelse, otherwise, proven)
        known.clear()
        known.update({name: call for name, call in then.items() if otherwise.get(name) is call})

    def _loop(self, node: ast.For, known: Known, proven: Proven) -> Iterator[ToolCall]:
        for name in _assigned(node):
            known.pop(name, None)
        yield from self.block(node.body, dict(known), proven)


def _assigned(node: ast.For) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}


def _true_keys(test: ast.expr, known: Known) -> Iterator[tuple[ToolCall, str]]:
    """The (call, key) pairs whose value is true wherever `test` is true."""
    match test:
        case ast.BoolOp(op=ast.And(), values=values):
            for value in values:
                yield from _true_keys(value, known)
        case ast.Compare(left=left, ops=[ast.Eq() | ast.Is()], comparators=[ast.Constant(value=True)]):
            yield from _true_keys(left, known)
        case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=str(key))) if name in known:
            yield known[name], key
