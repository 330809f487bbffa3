"""Which checkpoints count: those whose files are all there, whatever a kill or a full disk left behind."""

import json
import os
from pathlib import Path

import pytest

from raytrain.checkpoints import Saved, clear_broken, find, folder_name, prune, read, upload


def saved(storage: Path, step: int, attempt: str = "aa", *, nodes: int = 1, present: int | None = None) -> Path:
    """A checkpoint of `nodes` nodes, of which the first `present` came to the end of their upload."""
    target = storage / folder_name(step, attempt)
    for node in range(nodes if present is None else present):
        local = storage.parent / f"local-{step}-{attempt}-{node}"
        (local / "global_step").mkdir(parents=True)
        (local / "global_step" / f"shard-{node}.pt").write_bytes(bytes(100 + step))
        (local / f"rng-{node}.pth").write_bytes(b"random")
        upload(local, target, step=step, workers=2 * nodes, node=node, nodes=nodes)
    return target


def test_the_newest_whole_checkpoint_is_found(tmp_path: Path) -> None:
    storage = tmp_path / "ray"
    saved(storage, 4)
    newest = saved(storage, 12)
    saved(storage, 8, "bb")
    assert find(storage).newest == Saved(newest, 12, 2)
    assert find(storage).passed_over == ()
    assert find(tmp_path / "nothing").newest is None


def test_a_file_cut_short_passes_the_checkpoint_over_and_says_which(tmp_path: Path) -> None:
    storage = tmp_path / "ray"
    before = saved(storage, 4)
    shard = saved(storage, 8) / "global_step" / "shard-0.pt"
    shard.write_bytes(shard.read_bytes()[:50])
    found = find(storage)
    assert found.newest == Saved(before, 4, 2)
    assert found.passed_over == (
        "the checkpoint step_000008-aa does not count: global_step/shard-0.pt has 50 bytes in place of 108",
    )


@pytest.mark.parametrize("lost", ["rng-0.pth", "global_step/shard-0.pt", "whole-0.json"])
def test_a_lost_file_passes_the_checkpoint_over(tmp_path: Path, lost: str) -> None:
    storage = tmp_path / "ray"
    before = saved(storage, 4)
    (saved(storage, 8) / lost).unlink()
    assert find(storage).newest == Saved(before, 4, 2)
    assert len(find(storage).passed_over) == 1


def test_a_checkpoint_counts_only_with_the_files_of_every_node(tmp_path: Path) -> None:
    storage = tmp_path / "ray"
    whole = saved(storage, 4, nodes=3)
    partial = saved(storage, 8, nodes=3, present=2)
    assert read(whole) == Saved(whole, 4, 6)
    assert read(partial) == "the files of node 2 of 3 are not all there"
    assert find(storage).newest == Saved(whole, 4, 6)


def test_the_marker_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload that ends at any file before the last leaves no checkpoint that counts."""
    local = tmp_path / "local"
    local.mkdir()
    for name in ("a", "b", "c"):
        (local / name).write_text(name)
    target = tmp_path / "ray" / folder_name(4, "aa")
    real = os.fsync
    left = iter([True, True, False])

    def full_disk(descriptor: int) -> None:
        if not next(left):
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr("raytrain.checkpoints.os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        upload(local, target, step=4, workers=2, node=0, nodes=1)
    assert read(target) == "it was not saved to the end"


def test_only_the_newest_whole_ones_are_kept(tmp_path: Path) -> None:
    storage = tmp_path / "ray"
    for step in (4, 8, 12):
        saved(storage, step)
    (saved(storage, 6) / "whole-0.json").unlink()  # left by a kill, long ago
    (saved(storage, 16) / "whole-0.json").unlink()  # being uploaded
    prune(storage, keep=2)
    assert sorted(path.name for path in storage.iterdir()) == ["step_000008-aa", "step_000012-aa", "step_000016-aa"]
    clear_broken(storage)
    assert sorted(path.name for path in storage.iterdir()) == ["step_000008-aa", "step_000012-aa"]


def test_two_starts_that_save_the_same_step_do_not_share_a_folder(tmp_path: Path) -> None:
    storage = tmp_path / "ray"
    first, second = saved(storage, 8, "aa"), saved(storage, 8, "bb")
    (first / "whole-0.json").unlink()
    assert find(storage).newest == Saved(second, 8, 2)


def test_a_marker_names_every_file_with_its_size(tmp_path: Path) -> None:
    folder = saved(tmp_path / "ray", 8)
    assert json.loads((folder / "whole-0.json").read_text()) == {
        "step": 8,
        "workers": 2,
        "nodes": 1,
        "files": {"global_step/shard-0.pt": 108, "rng-0.pth": 6},
    }
