"""The grammar of the plan language, read by the engines' own backends: it holds the experts' plans, and only plans."""

import random
from typing import Annotated, Any, Literal

import pytest

from agentmill.agents.state import DialogueState
from agentmill.domains.base import Domain, Json, Tool, load_domain, tool
from agentmill.plans.check import check
from agentmill.plans.grammar import Bounds, plan_grammar
from agentmill.plans.parse import Plan
from tests.fakes import LEND_PLAN, library
from tests.matchers import Guidance, XGrammar, derive

BACKENDS = [Guidance, XGrammar]
DERIVED = 120
DOMAIN: Domain = load_domain("automotive")
PLANNED = [intent for intent in DOMAIN.intents.values() if intent.tools]
SIGNATURE = {"UNKNOWN_TOOL", "WRONG_TOOL", "UNKNOWN_ARGUMENT", "MISSING_ARGUMENT", "WRONG_TYPE"}


@tool()
def ask(
    world: Any,
    *,
    count: int,
    kind: Literal["a", 'b"c'] = "a",
    share: float | None = None,
    sure: bool = False,
    tags: list[str] | None = None,
    note: Annotated[str, "free"] = "",
    extra: dict[str, int] | None = None,
) -> Json:
    """Takes a parameter of every kind."""
    return {}


@tool()
def move(world: Any, *, what: str, to: int, at: str, gently: bool = True) -> Json:
    """Takes three that it needs."""
    return {}


@tool()
def ring(world: Any) -> Json:
    """Takes none."""
    return {}


TOOLS = (ask, move, ring)


def matcher(backend: Any, tools: tuple[Tool, ...] = TOOLS, **bounds: int) -> Any:
    return backend(grammar=plan_grammar(tools, Bounds(**bounds)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "plan",
    [
        "ring()",
        'move(at="a", what="b", to=1)\nmove(to=1, at="a", what="b")\nmove(what="b", to=1, at="a", gently=False)',
        "x = ring()\ny = ask(count=1)",
        'x = ask(count=-3, kind="b\\"c", share=0.5, sure=True, tags=["a", "b"], note="é \\"x\\" \\\\", extra={"a": 1})',
        'x = ring()\ny = ask(count=x[0].size, sure=x.sure, tags=[x], note=x[-1]["a b"])',
        'x = ring()\nif x["free"] and not x.from_:\n    y = ask(count=1)\nelif x == 1 or (x is None and x in [1, 2]):\n'
        "    for one in x.all:\n        ring()\n    ring()\nelse:\n    ring()\nring()",
        'x = ring()\nif "a" not in x and not (x.b < 3 or x.c != "d"):\n    z = ring()',
        "ask_more = ring()\nring2 = ring()\nfore = ring()\nnone = ring()\nis_ok = ring()",
    ],
)  # fmt: skip
def test_what_the_language_has_is_let_through(backend: Any, plan: str) -> None:
    assert Plan.parse(plan)
    assert matcher(backend).accepts(plan)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "plan",
    [
        'move(at="a", to=1)', 'move(at="a", at="a", what="b", to=1)', 'move(at="a", to=1, what=1)',
        "", "x = 1", "pass", "import os", "while x:\n    ring()", "x = other()", "x = ring(count=1)", "x = ask()",
        'x = ask(count="1")', "x = ask(count=1.5)", "x = ask(count=True)", 'x = ask(count=1, kind="d")',
        "x = ask(kind=\"a\", count=1)", "x = ask(count=1, count=2)", "x = ask(count=1, sure=1)", "x = ask(count=01)",
        "x = ask(count=1, tags=[1])", "for = ring()", "ask = ring()", "x = ring()\nif x.from:\n    ring()",
        "if x:\nring()", "if x:\n  ring()", "x = ring()\n", "_x = ring()", "x = ask(count=ring())", "x = x.y()",
        "x = ask(count=1 + 1)", "x = ask(count=x[07])", 'x = ask(count=1, note="a\nb")', 'x = ask(count=1, note="\\x")',
    ],
)  # fmt: skip
def test_what_the_language_or_the_tools_have_not_is_kept_out(backend: Any, plan: str) -> None:
    assert not matcher(backend).accepts(plan)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_derivation_is_a_plan_whose_calls_are_right(backend: Any) -> None:
    rng = random.Random(5)
    whole = 0
    for _ in range(DERIVED):
        intent = rng.choice(PLANNED)
        bounds = {"statements": rng.choice([2, 4, 8]), "text": rng.choice([4, 12]), "depth": rng.choice([0, 1, 2, 4])}
        text = derive(matcher(backend, tuple(DOMAIN.tools[name] for name in intent.tools), **bounds), rng)
        if text is None:
            continue
        whole += 1
        state = DialogueState(intent=intent.name, confirmed=True)
        found = {violation.code for violation in check(Plan.parse(text), DOMAIN, state, {"hours": {}})}
        assert not found & SIGNATURE, text
    assert whole > 0.8 * DERIVED


@pytest.mark.parametrize("backend", BACKENDS)
def test_derivations_over_parameters_of_every_kind_are_plans(backend: Any) -> None:
    rng = random.Random(6)
    asking = matcher(backend, text=8)
    for text in filter(None, (derive(asking, rng) for _ in range(DERIVED))):
        Plan.parse(text)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_bounds_hold(backend: Any) -> None:
    small = matcher(backend, statements=2, depth=1, text=3)
    assert small.accepts("ring()\nring()")
    assert not small.accepts("ring()\nring()\nring()")
    assert small.accepts('ask(count=1, note="abc")')
    assert not small.accepts('ask(count=1, note="abcd")')
    assert small.accepts("for x in y:\n    ring()")
    assert not small.accepts("for x in y:\n    for z in x:\n        ring()")
    least = matcher(backend, statements=1, depth=1, text=1)
    assert least.accepts("if x:\n    ring()")
    assert not least.accepts("if x:\n    ring()\n    ring()")
    assert not least.accepts("ring()\nring()")


def test_a_plan_needs_a_tool() -> None:
    with pytest.raises(ValueError, match="calls at least one tool"):
        plan_grammar([])


@pytest.mark.parametrize("backend", BACKENDS)
def test_another_domains_plan_is_let_through(backend: Any) -> None:
    assert matcher(backend, tuple(library().tools.values())).accepts(LEND_PLAN)
