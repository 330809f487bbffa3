"""Plans from a hostile model, by the thousand: no crash, no escape, no change from a plan that was refused.

2,000 examples a property; AGENTMILL_FUZZ=100000 tries that many.
"""

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentmill.agents.contracts import ExecutorTask
from agentmill.agents.executor import Executor
from agentmill.agents.state import DialogueState
from agentmill.domains.base import Domain, load_domain
from agentmill.plans.check import check
from agentmill.plans.parse import Plan, PlanError
from agentmill.plans.sandbox import Limits, Sandbox, SandboxError

EXAMPLES = int(os.environ.get("AGENTMILL_FUZZ", "2000"))
FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
DOMAIN: Domain = load_domain("automotive")
CHANGES = [name for name, tool in DOMAIN.tools.items() if tool.changes]

_names = st.sampled_from([*DOMAIN.tools, "slot", "check", "booking", "car", "x", "print", "open", "eval", "__import__"])
_keys = st.sampled_from(
    [name for tool in DOMAIN.tools.values() for name in tool.parameters] + ["free", "verified", "found", "extra", "0"]
)
_texts = st.one_of(
    st.sampled_from(["monday", "15:00", "A1234", "T12345", "' OR 1=1 --", "; DROP TABLE bookings", "Ana Weber"]),
    st.text(max_size=12),
)
_numbers = st.one_of(st.integers().map(str), st.floats().map(repr))
_literals = st.one_of(_texts.map(repr), _numbers, st.sampled_from(["None", "True"]))
_hostile = st.sampled_from(
    [
        "import os", "from os import system", "open('/etc/passwd')", "exec('1')", "x = (lambda: 1)()",
        "x = ().__class__.__bases__[0].__subclasses__()", "while True:\n    pass", "x = 10 ** 10 ** 9",
        "x = [0] * 10 ** 9", "def f():\n    return f()\nf()", "x = [y for y in range(9)]", "global x", "del x",
        "x: int = 1", "@f\nclass A: pass", "x = f'{y}'", "try:\n    pass\nfinally:\n    pass", "assert False",
        "with open('x') as f:\n    pass", "return 1", "x = yield 1", "await f()", "x = y = z()", "x, y = f()",
        "x.y = f()", "x[0] = f()", "raise ValueError", "if (x := f()):\n    pass", "f(*x)", "f(**x)", "f(1)",
        "match x:\n    case 1:\n        pass", "\x00", "x = '\ud800'",
    ]
)  # fmt: skip


@st.composite
def _calls(draw: st.DrawFn) -> str:
    """A call of a tool, mostly with its own arguments, and now and then with others."""
    tool = draw(_names)
    own = list(DOMAIN.tools[tool].parameters) if tool in DOMAIN.tools else []
    names = draw(st.lists(st.one_of(st.sampled_from(own or ["extra"]), _keys), max_size=5, unique=True))
    values = [draw(st.one_of(_literals, _places())) for _ in names]
    return f"{tool}({', '.join(f'{name}={value}' for name, value in zip(names, values, strict=True))})"


@st.composite
def _places(draw: st.DrawFn) -> str:
    key = draw(_keys)
    return draw(_names) + draw(st.sampled_from(["", f".{key}", f'["{key}"]', "[0]", "[-1]", "[x]", "[0:1]"]))


def _block(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    heads = st.one_of(
        _places().map(lambda place: f"if {place}:"),
        st.tuples(_places(), _literals).map(lambda pair: f"if {pair[0]} == {pair[1]} and not x:"),
        st.tuples(_names, _places()).map(lambda pair: f"for {pair[0]} in {pair[1]}:"),
        st.just("while x:"),
    )
    return st.tuples(heads, st.lists(inner, min_size=1, max_size=3)).map(
        lambda pair: "\n".join([pair[0], *("    " + line for text in pair[1] for line in text.split("\n"))])
    )


_statements = st.recursive(
    st.one_of(_calls(), st.tuples(_names, _calls()).map(lambda pair: f"{pair[0]} = {pair[1]}"), _hostile),
    _block,
    max_leaves=6,
)
_plans = st.one_of(st.lists(_statements, min_size=1, max_size=5).map("\n".join), st.text(max_size=200))
_states = st.builds(
    DialogueState,
    intent=st.sampled_from([*DOMAIN.intents, "none", "nonsense"]),
    entities=st.dictionaries(st.sampled_from(list(DOMAIN.entities)), st.one_of(_texts, st.integers()), max_size=5),
    confirmed=st.booleans(),
    proposed=st.booleans(),
)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with asyncio.Runner() as runner:
        yield runner.get_loop()


@pytest.fixture(scope="module")
def sandbox(loop: asyncio.AbstractEventLoop) -> Iterator[Sandbox]:
    pool = Sandbox(1, Limits(seconds=0.2, memory_mib=16))
    loop.run_until_complete(pool.__aenter__())
    yield pool
    loop.run_until_complete(pool.__aexit__(None, None, None))


def parsed(text: str) -> Plan | None:
    try:
        return Plan.parse(text)
    except PlanError:
        return None


@FUZZ
@given(_plans)
def test_a_text_is_a_plan_or_a_plan_error_and_its_normal_form_is_stable(text: str) -> None:
    plan = parsed(text)
    if plan is not None:
        again = Plan.parse(plan.code)
        assert again.code == plan.code
        assert [call.tool for call in again.calls] == [call.tool for call in plan.calls]


@FUZZ
@given(_plans, _states)
def test_the_checks_never_fail_and_let_no_unconfirmed_change_pass(text: str, state: DialogueState) -> None:
    plan = parsed(text)
    if plan is None:
        return
    found = check(plan, DOMAIN, state, {"hours": {}})
    if any(call.tool in CHANGES for call in plan.calls) and not state.confirmed:
        assert found


@FUZZ
@given(text=_plans, state=_states)
def test_whatever_runs_the_world_keeps_what_was_not_confirmed(
    loop: asyncio.AbstractEventLoop, sandbox: Sandbox, text: str, state: DialogueState
) -> None:
    """Every text goes straight to the Executor, as if the checks had let it through."""

    async def attempt() -> tuple[Any, Any, str | None]:
        executor = Executor(DOMAIN, sandbox)
        await executor.open("s", 1)
        before = await executor.snapshot("s")
        ran = await executor.run(ExecutorTask(session="s", plan=text, state=state))
        after = await executor.snapshot("s")
        await executor.close("s")
        return before, after, ran.error

    before, after, error = loop.run_until_complete(attempt())
    if error is not None:
        assert after == before
    if not state.confirmed:
        assert {**after, "activity": None} == {**before, "activity": None}


@FUZZ
@given(text=st.one_of(_plans, _hostile))
def test_code_that_was_never_parsed_stays_in_the_sandbox(
    loop: asyncio.AbstractEventLoop, sandbox: Sandbox, text: str
) -> None:
    try:
        results = loop.run_until_complete(sandbox.run_code(text, {"check_slot": lambda **given: {"free": True}}))
    except SandboxError:
        return
    assert results == {}
