"""Near-duplicates: what is near is found, what is not is kept, held-out rows never stay beside a training row."""

import random
from pathlib import Path

import numpy as np
import pytest

from simulation.corpora.near import NearDuplicates, rows_of_band, shingles
from simulation.corpora.settings import NearSettings


def words(rng: random.Random, count: int) -> list[str]:
    return [f"w{rng.randrange(10_000)}" for _ in range(count)]


def jaccard(first: str, second: str) -> float:
    a, b = set(shingles(first)), set(shingles(second))
    return len(a & b) / len(a | b)


def found(texts: list[str], folder: Path, *, held: frozenset[int] = frozenset(), **settings: float) -> np.ndarray:
    near = NearDuplicates(NearSettings(**settings), folder / "signatures")
    for number, text in enumerate(texts):
        near.add(text, "planner", held=number in held)
    return near.find().drop


def test_planted_near_duplicates_are_found_and_nothing_else(tmp_path: Path) -> None:
    rng = random.Random(5)
    texts, planted = [], set()
    for _ in range(200):
        text = words(rng, 120)
        texts.append(" ".join(text))
        changed = [*text]
        changed[60] = "changed"
        planted.add(len(texts))
        texts.append(" ".join(changed))
        for place in range(0, 120, 6):
            changed[place] = "other"
        texts.append(" ".join(changed))
    assert jaccard(texts[0], texts[1]) > 0.94
    assert jaccard(texts[0], texts[2]) < 0.5
    dropped = set(np.flatnonzero(found(texts, tmp_path, threshold=0.9, keep=1)).tolist())
    assert dropped <= planted
    assert len(dropped) >= 0.97 * len(planted)


def test_a_held_out_text_near_to_a_training_text_leaves_whatever_came_first(tmp_path: Path) -> None:
    text = " ".join(words(random.Random(1), 60))
    drop = found([text, text + " more", text], tmp_path, held=frozenset([0]), threshold=0.9, keep=3)
    assert drop.tolist() == [True, False, False]


def test_texts_of_other_agents_are_not_compared(tmp_path: Path) -> None:
    text = " ".join(words(random.Random(1), 60))
    near = NearDuplicates(NearSettings(keep=1), tmp_path / "signatures")
    for group in ("planner", "explainer"):
        near.add(text, group, held=False)
    assert not near.find().drop.any()


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.9, 0.95, 1.0])
def test_a_pair_at_the_threshold_is_compared_nearly_always(threshold: float) -> None:
    rows = rows_of_band(threshold, 128)
    assert 1 - (1 - threshold**rows) ** (128 // rows) >= 0.99
    assert rows >= 1


def test_nothing_at_all_is_no_problem(tmp_path: Path) -> None:
    assert found([], tmp_path).tolist() == []
    assert found(["", ""], tmp_path, keep=1).tolist() == [False, True]
