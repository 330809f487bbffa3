"""Per-agent measures: what counts as right, and how sure the numbers are."""

import json
from typing import Any

import pytest

from simulation.metrics import compare_understanding, entity_f1, rate, same_plan, same_verdict


def understanding(intent: str = "find", confirmed: bool = False, question: str | None = None, **entities: Any) -> str:
    return json.dumps({"intent": intent, "entities": entities, "confirmed": confirmed, "question": question})


RIGHT = understanding(make="Toyota", year=2019)


def test_an_understanding_is_compared_part_by_part() -> None:
    found = compare_understanding(RIGHT, understanding("other", make="Toyota", day="friday"))
    assert (found.intent, found.exact, found.hits, found.wrong, found.missed) == (False, False, 1, 1, 1)
    same = compare_understanding(RIGHT, understanding(year=2019, make="Toyota"))
    assert (same.intent, same.exact, same.hits, same.wrong, same.missed) == (True, True, 2, 0, 0)


def test_a_number_is_not_its_text() -> None:
    assert compare_understanding(RIGHT, understanding(make="Toyota", year="2019")).hits == 1


@pytest.mark.parametrize("output", ["", "no json", "[]", '{"intent": "find", "entities": [1]}', "null"])
def test_what_cannot_be_read_is_wrong_and_never_missing(output: str) -> None:
    found = compare_understanding(RIGHT, output)
    assert not found.exact
    assert (found.hits, found.missed) == (0, 2)


def test_nothing_to_hear_and_nothing_readable_is_not_right() -> None:
    assert not compare_understanding(understanding(), "no json").exact
    assert compare_understanding(understanding(), understanding()).exact


def test_f1_is_over_pairs_with_an_interval_around_it() -> None:
    right = compare_understanding(RIGHT, RIGHT)
    half = compare_understanding(RIGHT, understanding(make="Toyota", year=2018))
    f1 = entity_f1([right] * 30 + [half] * 30)
    assert f1.value == pytest.approx(0.75)
    assert f1.n == 60
    assert 0.6 < f1.interval[0] < 0.75 < f1.interval[1] < 0.9
    assert entity_f1([right] * 5).interval == (1.0, 1.0)


def test_f1_without_any_pair_is_one_and_without_any_call_nothing() -> None:
    silent = compare_understanding(understanding(), understanding())
    assert entity_f1([silent]).value == 1.0
    assert entity_f1([]).n == 0


def test_a_rate_has_n_and_a_wilson_interval() -> None:
    measure = rate([True] * 8 + [False] * 2)
    assert (measure.value, measure.n) == (0.8, 10)
    assert measure.interval == pytest.approx((0.490, 0.943), abs=1e-3)
    assert rate([]).interval == (0.0, 1.0)


def test_plans_are_the_same_up_to_names() -> None:
    assert same_plan('a = find(x=1)\nif a["y"]:\n    b = go(z="1")', 'q = find(x=1)\nif q.y:\n  r = go(z="1")')
    assert not same_plan("a = find(x=1)", 'a = find(x="1")')
    assert not same_plan("a = find(x=1)", "import os")


def test_verdicts_agree_on_the_violations_in_any_order() -> None:
    assert same_verdict('{"ok":false,"violations":["A","B"]}', '{"ok":false,"violations":["B","A"]}')
    assert not same_verdict('{"ok":false,"violations":["A"]}', '{"ok":false,"violations":["B"]}')
    assert not same_verdict('{"ok":true,"violations":[]}', "yes")
