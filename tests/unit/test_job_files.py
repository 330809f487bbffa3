"""What a resumable job keeps on disk: where finished rows are, whose work a folder is, what is left to do."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simulation.claim import OtherWork, claim, has_rows
from simulation.index import Index, MissingRows, finished_ids, read_rows
from simulation.job import _new_attempt
from simulation.memory import MemoryWatch, worker_peaks
from simulation.tables import write_table
from simulation.work import ActorRange, Job, Pool
from simulation.worker import Worker


def block(folder: Path, name: str, ids: list[str], said: str) -> None:
    write_table(pa.table({"sid": ids, "said": [f"{said} {one}" for one in ids]}), folder / f"{name}.parquet")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Two attempts that both wrote `d`."""
    block(tmp_path, "1", ["d", "a"], "first")
    block(tmp_path, "2", ["c", "d"], "late")
    block(tmp_path, "3", ["b"], "other")
    return tmp_path


def test_rows_are_found_in_any_order_and_an_id_that_was_written_twice_once(out: Path) -> None:
    index = Index(out, "sid")
    assert len(index) == 4
    assert sorted(finished_ids(out, "sid").to_pylist()) == ["a", "b", "c", "d", "d"]
    files = index.files_of(["d", "b"])
    assert [path.stem for path in files] == ["1", "3"]
    assert read_rows(files, "sid", ["d", "b"]).to_pylist() == [
        {"sid": "d", "said": "first d"}, {"sid": "b", "said": "other b"},
    ]  # fmt: skip
    assert read_rows(files, "sid", ["b", "a"], ["said"])["said"].to_pylist() == ["other b", "first a"]


def test_rows_that_are_not_there_are_told(out: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingRows, match="1 of 2 rows are missing, the first x"):
        Index(out, "sid").files_of(["a", "x"])
    with pytest.raises(MissingRows, match="1 of 1 rows are in none"):
        read_rows([out / "1.parquet"], "sid", ["b"])
    assert Index(tmp_path / "none", "sid").files_of([]) == []
    with pytest.raises(MissingRows):
        Index(tmp_path / "none", "sid").files_of(["a"])


def test_equal_rows_make_equal_files_however_they_came_together(tmp_path: Path) -> None:
    parts = [pa.table({"sid": [f"s{i}" for i in range(start, start + 500)]}) for start in range(0, 2000, 500)]
    write_table(pa.concat_tables(parts), tmp_path / "a.parquet")
    write_table(pa.concat_tables(parts).combine_chunks(), tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_a_folder_is_one_configurations_as_soon_as_it_has_rows(tmp_path: Path) -> None:
    work = tmp_path / "simulate" / ".work"
    claim(work, {"seed": 1, "model": {"name": "a"}}, "simulate")
    claim(work, {"seed": 2, "model": {"name": "a"}}, "simulate")  # nothing was made for the first
    block(work / "out", "1", ["a"], "x")
    claim(work, {"seed": 2, "model": {"name": "a"}}, "simulate")
    with pytest.raises(OtherWork, match=r"simulate: .* model.name a -> b; seed 2 -> 3; the two are not mixed"):
        claim(work, {"seed": 3, "model": {"name": "b"}}, "simulate")


def test_rows_of_half_a_block_and_parts_that_are_put_together_count_too(tmp_path: Path) -> None:
    work = tmp_path / "refine" / ".work"
    claim(work, {"seed": 1}, "refine")
    assert not has_rows(work)
    block(work / "kept", "1", ["a"], "x")
    assert has_rows(work)
    (work / "kept" / "1.parquet").unlink()
    block(tmp_path / "refine" / "calls", "part-00000", ["a"], "x")
    assert has_rows(work)


def job_of(folder: Path, rows: int) -> Job:
    path = folder / "rows.parquet"
    table = pa.table({"sid": [f"s{i:05d}" for i in range(rows)], "text": ["t"] * rows})
    pq.write_table(table, path, row_group_size=700)
    return Job("work", "rows", path, folder / "work", "sid", 0.1, lambda table: [], ("said",))


def test_an_attempt_has_the_rows_that_are_left_in_order_in_files_of_even_size(tmp_path: Path) -> None:
    job = job_of(tmp_path, 3000)
    block(job.out, "1", [f"s{i:05d}" for i in range(100, 400)], "x")
    block(job.out, "2", ["s02999", "of-no-row"], "x")
    attempt = _new_attempt(job, Pool(actors=2, block_rows=16, calls=4))
    tables = [pq.read_table(path) for path in sorted((attempt / "rows").glob("*.parquet"))]
    assert [table.num_rows for table in tables] == [899, 900, 900]
    wanted = [f"s{i:05d}" for i in (*range(100), *range(400, 2999))]
    assert pa.concat_tables(tables)["sid"].to_pylist() == wanted
    assert _new_attempt(job, Pool(actors=2, block_rows=16, calls=4)).name == "attempt-001"


class Echo:
    """An actor that counts how often it was asked."""

    asked = 0

    def __init__(self, stop: str) -> None:
        self.stop = stop

    async def __call__(self, row: dict[str, str]) -> dict[str, str]:
        Echo.asked += 1
        return {"sid": row["sid"], "said": row["text"]}


async def test_a_block_that_is_written_is_not_done_again(tmp_path: Path) -> None:
    job = job_of(tmp_path, 3)
    rows = pq.read_table(job.rows)
    Echo.asked = 0
    told = [await Worker(job, Echo, {}, batches=False)(rows) for _ in range(2)]
    assert Echo.asked == 3
    assert [one.to_pylist() for one in told] == [[{"rows": 3, "errors": []}]] * 2
    assert finished_ids(job.out, "sid").to_pylist() == ["s00000", "s00001", "s00002"]
    assert (await Worker(job, Echo, {}, batches=False)(rows.slice(0, 0))).to_pylist() == [{"rows": 0, "errors": []}]


def test_a_worker_writes_down_its_largest_memory(tmp_path: Path) -> None:
    watch = MemoryWatch(tmp_path, every_s=60.0)
    watch.note()
    before = worker_peaks(tmp_path)
    assert len(before) == 1
    assert next(iter(before)).endswith(f"-{os.getpid()}")
    held = bytearray(os.urandom(1 << 20)) * 64
    watch.note()
    after = worker_peaks(tmp_path)
    assert next(iter(after.values())) > next(iter(before.values())) + 40, len(held)
    del held
    watch.note()
    assert worker_peaks(tmp_path) == after


def test_a_pool_grows_from_its_smaller_to_its_larger_size() -> None:
    assert (Pool(3, 1, 1).least, Pool(3, 1, 1).most) == (3, 3)
    pool = Pool(ActorRange(min=2, max=5), 1, 1)
    assert (pool.least, pool.most) == (2, 5)
    with pytest.raises(ValueError, match="max=1 is less than min=2"):
        ActorRange(min=2, max=1)
