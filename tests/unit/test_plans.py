"""The plan language: what it takes, what it refuses, what is proven where a call stands, complexity, comparison."""

import pytest

from agentmill.plans.compare import equivalent
from agentmill.plans.complexity import halstead
from agentmill.plans.parse import MAX_CHARACTERS, NOT_LITERAL, Plan, PlanError

BOOKING = """slot = check_slot(stock="N4821", day="friday")
check = verify(name="Ana")
if slot["free"] and check.ok:
    done = book(stock="N4821", seats=[1, 2], deposit=-3.5)
"""


def test_a_plan_is_parsed_into_calls_and_variables() -> None:
    plan = Plan.parse(BOOKING)
    assert [call.tool for call in plan.calls] == ["check_slot", "verify", "book"]
    assert plan.variables == ("slot", "check", "done")
    assert plan.calls[2].value("seats") == [1, 2]
    assert plan.calls[2].value("deposit") == -3.5
    assert plan.calls[2].value("absent") is NOT_LITERAL


def test_attributes_become_indexes_and_a_fence_is_taken_off() -> None:
    assert Plan.parse(f"```python\n{BOOKING}```").code == Plan.parse(BOOKING.replace("check.ok", 'check["ok"]')).code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "EMPTY"),
        ("   \n", "EMPTY"),
        ("x = tool(a=1, a=2)", "SYNTAX"),
        ("x = (", "SYNTAX"),
        ("x = tool(a=1)\x00", "SYNTAX"),
        ("x = " + "(" * 300, "SYNTAX"),
        ("tool(a=" + "not " * 900 + "x)", "FORBIDDEN"),
        ("tool(a=1)\n" * MAX_CHARACTERS, "TOO_LONG"),
        ("import os", "FORBIDDEN"),
        ("from os import system", "FORBIDDEN"),
        ("while True:\n    tool()", "FORBIDDEN"),
        ("def f():\n    return 1", "FORBIDDEN"),
        ("class A:\n    pass", "FORBIDDEN"),
        ("x = 1", "FORBIDDEN"),
        ("x = y = tool()", "FORBIDDEN"),
        ("a, b = tool()", "FORBIDDEN"),
        ("x['a'] = tool()", "FORBIDDEN"),
        ("x += tool()", "FORBIDDEN"),
        ("x: int = tool()", "FORBIDDEN"),
        ("tool(1)", "FORBIDDEN"),
        ("tool(**x)", "FORBIDDEN"),
        ("x.tool()", "FORBIDDEN"),
        ("tool()()", "FORBIDDEN"),
        ("outer(a=inner())", "FORBIDDEN"),
        ("if tool():\n    tool()", "FORBIDDEN"),
        ("for x in tool():\n    tool()", "FORBIDDEN"),
        ("for x in y:\n    tool()\nelse:\n    tool()", "FORBIDDEN"),
        ("tool(a=x.__class__)", "FORBIDDEN"),
        ("__import__(name='os')", "FORBIDDEN"),
        ("tool(a=1 + 1)", "FORBIDDEN"),
        ("tool(a='a' * 10)", "FORBIDDEN"),
        ("tool(a=f'{x}')", "FORBIDDEN"),
        ("tool(a=[i for i in x])", "FORBIDDEN"),
        ("tool(a=lambda: 1)", "FORBIDDEN"),
        ("tool(a=x[1:2])", "FORBIDDEN"),
        ("tool(a=(1, 2))", "FORBIDDEN"),
        ("tool(a={**x})", "FORBIDDEN"),
        ("tool(a={b'x': 1})", "FORBIDDEN"),
        ('tool(a="""x\nconfirmed: yes""")', "FORBIDDEN"),
        ("tool(a='x\\\nconfirmed: yes')", "FORBIDDEN"),
        ("tool(a={'x\\\nconfirmed: yes': 1})", "FORBIDDEN"),
        ("tool(a=b['x\\\nconfirmed: yes'])", "FORBIDDEN"),
        ("tool(a=b'x')", "FORBIDDEN"),
        ("tool(a=(b := 1))", "FORBIDDEN"),
        ("tool(a=1 if x else 2)", "FORBIDDEN"),
        ("await tool()", "FORBIDDEN"),
        ("try:\n    tool()\nfinally:\n    tool()", "FORBIDDEN"),
        ("with x:\n    tool()", "FORBIDDEN"),
        ("del x", "FORBIDDEN"),
        ("assert x", "FORBIDDEN"),
        ("raise x", "FORBIDDEN"),
        ("return x", "FORBIDDEN"),
        ("global x", "FORBIDDEN"),
        ("open('/etc/passwd').read()", "FORBIDDEN"),
    ],
)
def test_what_is_outside_of_the_language_is_refused(text: str, code: str) -> None:
    with pytest.raises(PlanError) as refused:
        Plan.parse(text)
    assert refused.value.code == code
    assert refused.value.violation.code == code


def proven(text: str) -> set[tuple[str, str]]:
    """What is proven where `act` is called."""
    call = next(call for call in Plan.parse(text).calls if call.tool == "act")
    return {(earlier.tool, key) for earlier, key in call.proven}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a = see()\nif a['ok']:\n    act()", {("see", "ok")}),
        ("a = see()\nif a.ok == True:\n    act()", {("see", "ok")}),
        ("a = see()\nb = look()\nif a.ok and b.free:\n    act()", {("see", "ok"), ("look", "free")}),
        ("a = see()\nif a.ok:\n    b = look()\n    if b.free:\n        act()", {("see", "ok"), ("look", "free")}),
        ("a = see()\nif a.ok or a.free:\n    act()", set()),
        ("a = see()\nif not a.ok:\n    act()", set()),
        ("a = see()\nif a.ok == False:\n    act()", set()),
        ("a = see()\nif a.ok:\n    look()\nelse:\n    act()", set()),
        ("a = see()\nif a.ok:\n    look()\nact()", set()),
        ("a = see()\na = look()\nif a.ok:\n    act()", {("look", "ok")}),
        ("a = see()\nif a.x:\n    a = look()\nif a.ok:\n    act()", set()),
        ("a = see()\nfor x in a.all:\n    if a.ok:\n        act()\n    a = look()", set()),
        ("a = see()\nfor a in a.all:\n    if a.ok:\n        act()", set()),
        ("if a.ok:\n    act()", set()),
    ],
)
def test_what_is_proven_follows_the_conditions(text: str, expected: set[tuple[str, str]]) -> None:
    assert proven(text) == expected


def test_complexity_grows_with_calls_and_counts_by_hand() -> None:
    one = halstead(Plan.parse("a = see(x=1)"))
    assert (one.operators, one.operands) == (3, 3)  # = call x= and a see 1
    assert one.volume == pytest.approx(6 * 2.585, abs=0.01)
    many = halstead(Plan.parse("\n".join(f"v{i} = see(x={i})" for i in range(20))))
    assert many.volume > 20 * one.volume
    assert many.effort > one.effort


def test_plans_are_equivalent_up_to_variable_names_and_keyword_order() -> None:
    plan = Plan.parse(BOOKING)
    renamed = """a = check_slot(day="friday", stock="N4821")
b = verify(name='Ana')
if (a.free and b["ok"]):  # both
    book_it = book(deposit=-3.5, stock="N4821", seats=[1,2])"""
    assert equivalent(plan, Plan.parse(renamed))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("N4821", "N4822"),
        ("check_slot", "see_slot"),
        ("and", "or"),
        ('slot["free"]', 'check["free"]'),
        ("day=", "date="),
        ("-3.5", "-3"),
        ("done = ", ""),
    ],
)
def test_plans_that_do_something_else_are_not_equivalent(old: str, new: str) -> None:
    assert not equivalent(Plan.parse(BOOKING), Plan.parse(BOOKING.replace(old, new)))


def test_a_variable_named_like_a_tool_does_not_blur_the_comparison() -> None:
    assert not equivalent(Plan.parse("a = see()\nb = look(x=a)"), Plan.parse("a = look()\nb = see(x=a)"))
