"""The card and the calibration sets: every corpus loads with the real library, every set has its lengths."""

from pathlib import Path

import pytest

from agentmill.domains.base import Domain, load_domain
from simulation.corpora import CorporaSettings
from simulation.corpora.calibration import Calibration
from simulation.corpora.rows import Candidate, assistant, lineage
from simulation.corpora.settings import CalibrationSettings, Mixture, NearSettings, WithPublic
from tests.traces import MadeRun, write_dialogues

SPLITS = {
    "sft": {"train", "heldout", "public_heldout"},
    "cpt": {"train", "heldout", "public_heldout"},
    "dpo": {"train", "heldout"},
    "drafter": {"train", "heldout", "public_heldout"},
    "calibration": {"in_domain", "public", "mixed"},
    "eval": {"heldout"},
}


@pytest.fixture(scope="module")
def automotive() -> Domain:
    return load_domain("automotive")


@pytest.fixture
def made(tmp_path: Path, automotive: Domain) -> MadeRun:
    made = MadeRun(tmp_path / "run", automotive)
    for sid, split in (("train", "train"), ("held", "heldout")):
        made.conversation(sid, split)
        made.turn(sid, f"Hello {sid}", f"Welcome {sid}!")
        for i in range(8):
            made.call(sid, f"customer: {sid} {i}", f"Good {i}", output=f"Bad {i}", verdict="edit")
    return made


def test_every_corpus_and_split_loads_with_the_real_library(
    made: MadeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    folder = made.build(CorporaSettings(near_duplicates=NearSettings(threshold=None)), write_dialogues(tmp_path, 60))
    assert set(datasets.get_dataset_config_names(str(folder))) == set(SPLITS)
    for corpus, splits in SPLITS.items():
        loaded = datasets.load_dataset(str(folder), corpus, cache_dir=str(tmp_path / "cache"))
        assert set(loaded) == splits
        for split in splits:
            assert loaded[split].num_rows == len(made.rows(corpus, split)) > 0
    default = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert default.num_rows == len(made.rows("sft"))
    assert default[0]["prompt"][-1]["role"] == "user"


def test_an_empty_split_is_not_promised_and_the_card_says_what_there_is(made: MadeRun) -> None:
    made.conversations = made.conversations[:1]
    made.calls = [call for call in made.calls if call["sid"] == "train"]
    made.turns = made.turns[:1]
    card = (made.build(CorporaSettings()) / "README.md").read_text()
    assert "| sft | train | 8 |" in card
    assert "| sft | heldout | 0 |" in card
    assert "sft/heldout.parquet" not in card
    assert "There are no real dialogues in it" in card


def test_the_licence_of_real_dialogues_and_personal_data_stand_on_the_card(made: MadeRun, tmp_path: Path) -> None:
    path = write_dialogues(tmp_path, 30)
    path.write_text(path.read_text().replace("alpha7", "my name is Ann Lee"))
    card = (made.build(CorporaSettings(), path) / "README.md").read_text()
    assert "Real dialogues come from `public.jsonl`. The licence of that file holds" in card
    assert "person 1" in card
    assert "Ann Lee" not in str(made.rows("cpt"))


def candidate(number: int, length: int, origin: str) -> Candidate:
    text = f"{number}".ljust(length, "x")
    where = lineage(agent="planner", call_id=str(number), sid="s", source="teacher", run="r")
    return Candidate({"prompt": [], "completion": assistant(text), **where}, "train", origin)


def test_calibration_sets_take_their_rows_evenly_from_all_lengths(tmp_path: Path) -> None:
    settings = CalibrationSettings(rows=30, edges=(100, 200))
    calibration = Calibration(settings, Mixture(calibration=WithPublic(public=0.25)), 0)
    for number in range(1000):
        for origin in ("traces", "public"):
            calibration.add(candidate(number, 250 if number % 200 == 0 else 150 if number % 10 == 0 else 50, origin))
            calibration.add(candidate(number, 50, origin))
    counts = calibration.write(tmp_path)
    assert (
        counts["in_domain"] == {"over 200": 5, "up to 200": 13, "up to 100": 12}
        or sum(counts["in_domain"].values()) == 30
    )
    assert counts["in_domain"]["over 200"] == 5
    assert abs(counts["in_domain"]["up to 200"] - counts["in_domain"]["up to 100"]) <= 1
    assert sum(counts["mixed"].values()) == 40
    again = Calibration(settings, Mixture(calibration=WithPublic(public=0.25)), 0)
    for number in reversed(range(1000)):
        for origin in ("traces", "public"):
            again.add(candidate(number, 50, origin))
            again.add(candidate(number, 250 if number % 200 == 0 else 150 if number % 10 == 0 else 50, origin))
    (tmp_path / "again").mkdir()
    assert again.write(tmp_path / "again") == counts
    for name in counts:
        assert (tmp_path / "again" / f"{name}.parquet").read_bytes() == (tmp_path / f"{name}.parquet").read_bytes()
