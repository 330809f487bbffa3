"""The bench of the worlds' copies: every pack, under its bound even here, recorded under its name."""

from pathlib import Path

import pytest

from agentmill.runs import Run
from benchmarks.world_copy import BOUND_MS, FIGURE, measure, packs


def test_every_pack_is_measured_and_a_copy_costs_less_than_its_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTMILL_BENCH_RUN", str(tmp_path / "bench"))
    timings = measure(copies=200)
    assert list(timings) == packs()
    assert "automotive" in timings
    figure = Run.open(tmp_path / "bench").figures()[FIGURE]
    assert (figure.unit, figure.n) == ("ms", 200)
    assert figure.value == max(timing.median_ms for timing in timings.values())
    assert figure.interval is not None
    assert figure.interval[0] <= float(figure.value) <= figure.interval[1]
    assert float(figure.value) < BOUND_MS
