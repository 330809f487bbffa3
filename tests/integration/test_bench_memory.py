"""The preflight's figure beside what a training takes in a process of its own."""

from benchmarks.footprint import cases, measure


def test_what_is_computed_is_within_a_factor_of_two_of_what_is_taken() -> None:
    found = measure(cases()["full_more_tokens"])
    assert 0.5 < found.ratio < 2
    assert 0.2 < found.before < 1.8  # the process with its libraries
