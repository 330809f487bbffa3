"""Plans from a hostile model, by the thousand: no crash, no escape, no change from a plan that was refused.

Texts of two kinds: built from the language's parts and what is forbidden in it, and the expert's own plans with an
argument exchanged, a line repeated or put into a loop, which mostly pass the checks. How many, tests.fuzzing says.
"""

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmill.agents.contracts import ExecutorTask
from agentmill.agents.executor import Executor
from agentmill.agents.state import DialogueState
from agentmill.domains.automotive.canonical import canonical_plan
from agentmill.domains.automotive.seed import world_data
from agentmill.domains.base import Domain, Json, load_domain
from agentmill.plans.check import check
from agentmill.plans.parse import Plan, PlanError
from agentmill.plans.sandbox import Limits, Sandbox, SandboxError
from tests.fuzzing import FUZZ

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
_requests = st.sampled_from([*DOMAIN.intents, "none", "nonsense"])
_states = st.builds(
    DialogueState,
    intent=_requests,
    also=st.lists(_requests, max_size=2).map(tuple),
    entities=st.dictionaries(st.sampled_from(list(DOMAIN.entities)), st.one_of(_texts, st.integers()), max_size=5),
    confirmed=st.booleans(),
    proposed=st.booleans(),
)

DATA = world_data(1)
_cars = [car for car in DATA.vehicles if car.status == "available"][:3]
_people = [person for person in DATA.customers if person.valid][:2]
_orders = [order for order in DATA.business.orders if order.status != "delivered"][:2]
REAL: dict[str, list[Any]] = {
    "stock": [car.stock for car in _cars],
    "other_stock": [car.stock for car in _cars],
    "reference": [*(row.reference for row in DATA.bookings[:2]), *(row.reference for row in DATA.business.visits[:2])],
    "order": [order.number for order in _orders],
    "name": [*(person.name for person in _people), *(order.name for order in _orders)],
    "licence": [person.licence for person in _people],
    "phone": ["555-0100", "555-0199"],
    "plate": ["ABC1234"],
    "service": ["brakes", "tyres"],
    "day": ["monday", "tuesday", "sunday"],
    "time": ["10:00", "15:00", "03:00"],
    "score": [450, 800],
    "term": [48, 49],
    "down_payment": [100, 5000],
    "discount": [1, 90],
    "max_price": [30_000, -1],
    "place": ["airport"],
    "body": ["sedan"],
    "vin": [_cars[0].vin],
    "make": ["Honda"],
    "model": ["Civic"],
    "year": [2020],
    "mileage": [50_000],
    "condition": ["good"],
}
_planned = [name for name, intent in DOMAIN.intents.items() if intent.tools]


@st.composite
def _near_plans(draw: st.DrawFn) -> tuple[str, DialogueState]:
    """The expert's plan for a state with values of the world, changed a little, and the state."""
    requests = tuple(draw(st.lists(st.sampled_from(_planned), min_size=1, max_size=2, unique=True)))
    entities = {name: draw(st.sampled_from(REAL[name])) for name in DOMAIN.slots_of(requests) if name in REAL}
    state = DialogueState(
        intent=requests[0], also=requests[1:], entities=entities, confirmed=draw(st.integers(0, 4)) > 0, proposed=True
    )
    lines = canonical_plan(requests, entities, confirmed=True).split("\n")
    for _ in range(draw(st.integers(0, 3))):
        lines = draw(st.sampled_from([_exchanged, _repeated, _looped, _joined]))(draw, lines)
    return "\n".join(lines), state


def _exchanged(draw: st.DrawFn, lines: list[str]) -> list[str]:
    """An argument that is another value of its kind, or a part of a result."""
    given = [(place, name) for place, line in enumerate(lines) for name in re.findall(r"(\w+)=", line) if name in REAL]
    if not given:
        return lines
    place, name = draw(st.sampled_from(given))
    value = draw(st.one_of(st.sampled_from(REAL[name]).map(repr), _places()))
    changed = re.sub(rf"\b{name}=[^,)]+", lambda _: f"{name}={value}", lines[place])
    return [*lines[:place], changed, *lines[place + 1 :]]


def _repeated(draw: st.DrawFn, lines: list[str]) -> list[str]:
    place = draw(st.integers(0, len(lines) - 1))
    return [*lines[: place + 1], *lines[place:]]


def _looped(draw: st.DrawFn, lines: list[str]) -> list[str]:
    head = draw(st.sampled_from(["for x in slot:", "for x in cars:", 'for x in slot["instead"]:', "if slot:"]))
    return ['slot = check_slot(stock="A1", day="monday", time="03:00")', head, *(f"    {line}" for line in lines)]


def _joined(draw: st.DrawFn, lines: list[str]) -> list[str]:
    """The plan after another one, of a request that was not made."""
    intent = draw(st.sampled_from(_planned))
    values = {name: draw(st.sampled_from(REAL[name])) for name in DOMAIN.slots_of([intent]) if name in REAL}
    return [*canonical_plan((intent,), values, confirmed=True).split("\n"), *lines]


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
@given(st.one_of(st.tuples(_plans, _states), _near_plans()))
def test_the_checks_never_fail_and_let_no_unconfirmed_change_pass(pair: tuple[str, DialogueState]) -> None:
    text, state = pair
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

    before, after, error = loop.run_until_complete(executed(sandbox, text, state))
    if error is not None:
        assert after == before
    if not state.confirmed:
        assert {**after, "activity": None} == {**before, "activity": None}


@FUZZ
@given(pair=_near_plans())
def test_a_plan_that_nearly_is_the_experts_changes_only_what_was_confirmed(
    loop: asyncio.AbstractEventLoop, sandbox: Sandbox, pair: tuple[str, DialogueState]
) -> None:
    """It too goes straight to the Executor: what rules would refuse must change nothing else either."""
    text, state = pair
    before, after, error = loop.run_until_complete(executed(sandbox, text, state))
    if error is not None or not state.confirmed:
        assert {**after, "activity": None} == {**before, "activity": None}
    assert {call["tool"] for call in after["activity"]} <= set(DOMAIN.tools_of(state.requests))
    deeds = [call for call in after["activity"] if call["tool"] in CHANGES]
    assert len(deeds) <= len(state.requests)
    for call in deeds:
        assert state.confirmed
        said = {name: value for name, value in state.entities.items() if name in call["arguments"]}
        assert {name: call["arguments"][name] for name in said} == said


async def executed(sandbox: Sandbox, text: str, state: DialogueState) -> tuple[Json, Json, str | None]:
    """The world before and after a plan that nobody checked, and what stopped it."""
    executor = Executor(DOMAIN, sandbox)
    await executor.open("s", 1)
    before = await executor.snapshot("s")
    ran = await executor.run(ExecutorTask(session="s", plan=text, state=state))
    after = await executor.snapshot("s")
    await executor.close("s")
    return before, after, ran.error


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
