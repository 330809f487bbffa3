"""The preflight's figure beside what a training, or quantising, takes in a process of its own."""

import pytest

from benchmarks.footprint import cases, measure, measure_inference


def test_what_is_computed_is_within_a_factor_of_two_of_what_is_taken() -> None:
    found = measure(cases()["full_more_tokens"])
    assert 0.5 < found.ratio < 2
    assert 0.2 < found.before < 1.8  # the process with its libraries


@pytest.mark.parametrize("case", ["drafter_demo", "quantize_demo"])
def test_what_is_told_before_inference_is_within_a_quarter_of_what_is_used(case: str) -> None:
    found = measure_inference(case)
    assert found.told is not None
    assert 0.75 < found.told / found.peak < 1.25
    assert found.rise > 0.05
