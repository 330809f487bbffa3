"""The chaos bench itself: that it kills workers and the driver, and that it would see a difference."""

import random
from pathlib import Path

import pyarrow as pa

from benchmarks.chaos import differences, draw_kills
from simulation.tables import write_table


def simulation(folder: Path, sids: list[str], said: str = "x") -> Path:
    for name in ("calls", "turns", "conversations", "timings"):
        table = pa.table({"sid": sids, "said": [f"{name} {said}"] * len(sids)})
        write_table(table, folder / name / "part-00000.parquet")
    write_table(pa.table({"sid": sids}), folder / "scenarios.parquet")
    return folder


def test_kills_are_at_random_moments_and_of_both_kinds_the_last_while_the_parts_are_written() -> None:
    kills = draw_kills(10, random.Random(1))
    assert len(kills) == 10
    assert kills == draw_kills(10, random.Random(1)) != draw_kills(10, random.Random(2))
    assert [kill.share for kill in kills] == sorted(kill.share for kill in kills)
    assert {kill.target for kill in kills[:-1]} == {"worker", "driver"}
    assert (kills[-1].share, kills[-1].target) == (1.0, "driver")


def test_equal_simulations_do_not_differ_whatever_the_clock_said(tmp_path: Path) -> None:
    one, other = simulation(tmp_path / "one", ["a", "b"]), simulation(tmp_path / "other", ["a", "b"])
    write_table(pa.table({"seconds": [1.5]}), other / "timings" / "part-00000.parquet")
    assert differences(one, other) == []


def test_every_file_and_every_id_that_is_not_the_same_is_a_difference(tmp_path: Path) -> None:
    one, other = simulation(tmp_path / "one", ["a", "b"]), simulation(tmp_path / "other", ["a", "b"])
    write_table(pa.table({"sid": ["a", "b"], "said": ["calls y"] * 2}), other / "calls" / "part-00000.parquet")
    write_table(pa.table({"sid": ["a", "a"], "said": ["x"] * 2}), other / "conversations" / "part-00000.parquet")
    write_table(pa.table({"sid": ["z"]}), other / "turns" / "part-00001.parquet")
    assert differences(one, other) == [
        "calls/part-00000.parquet differs",
        "turns/part-00001.parquet is in one only",
        "conversations/part-00000.parquet differs",
        "conversation b is in one only",
        "1 ids are there twice",
    ]
