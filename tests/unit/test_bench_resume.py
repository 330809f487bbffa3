"""When `agentmill bench resume` kills: at different random steps, the driver among them, the same for the same seed."""

import random

import pytest

from benchmarks.resume import ResumeFailed, draw_kills


def test_kills_come_in_order_and_before_the_end() -> None:
    for seed in range(50):
        kills = draw_kills(3, 20, random.Random(seed))
        steps = [kill.step for kill in kills]
        assert steps == sorted(set(steps))
        assert steps[0] >= 1
        assert steps[-1] < 20
        assert sorted(kill.target for kill in kills) == ["driver", "worker", "worker"]
    assert draw_kills(3, 20, random.Random(1)) == draw_kills(3, 20, random.Random(1))


def test_more_kills_than_steps_are_refused() -> None:
    with pytest.raises(ResumeFailed, match="--kills 4; give --steps more"):
        draw_kills(4, 4, random.Random(0))
