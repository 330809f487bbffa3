"""Weights in safetensors, read and written a tensor at a time: what others write we read, and the reverse."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from raytrain.memory import peak_rise
from raytrain.shards import INDEX, WEIGHTS, Weights, WeightsError, computed, copied, write_weights, zeros_like

TENSORS = {
    "b.weight": torch.randn(5, 7, dtype=torch.bfloat16),
    "a.weight": torch.randn(3, dtype=torch.float32),
    "scalar": torch.tensor(2.5, dtype=torch.float16),
    "empty": torch.zeros(0, 4),
    "counts": torch.arange(6, dtype=torch.int64),
    "odd": torch.tensor([True, False, True]),
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(TENSORS, folder / WEIGHTS)
    return folder


def test_tensors_are_read_as_safetensors_reads_them(model: Path) -> None:
    weights = Weights(model)
    assert {tensor.name for tensor in weights} == set(TENSORS)
    assert weights.parameters == sum(tensor.numel() for tensor in TENSORS.values())
    for name in ("b.weight", "a.weight", "scalar", "empty"):
        loaded = weights[name].load()
        assert loaded.dtype == TENSORS[name].dtype
        assert torch.equal(loaded, TENSORS[name])


@pytest.mark.parametrize("limit", [1, 80, 1 << 20])
def test_what_is_written_safetensors_reads(model: Path, tmp_path: Path, limit: int) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write_weights(out, [copied(tensor) for tensor in Weights(model)], limit)
    files = sorted(out.glob("*.safetensors"))
    read = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert read.keys() == TENSORS.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in TENSORS.items())
    assert {tensor.name for tensor in Weights(out)} == set(TENSORS)
    with safe_open(files[0], framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    if limit < 1 << 20:
        index = json.loads((out / INDEX).read_text())
        assert index["metadata"]["total_size"] == Weights(model).size
        assert {(out / name) for name in index["weight_map"].values()} == set(files)
    else:
        assert [file.name for file in files] == [WEIGHTS]


def test_computed_tensors_and_zeros_keep_type_and_shape(model: Path, tmp_path: Path) -> None:
    source, out = Weights(model), tmp_path / "out"
    out.mkdir()
    twice = computed(source["b.weight"], lambda: 2 * source["b.weight"].load().float())
    write_weights(out, [twice, zeros_like(source["counts"], "none"), copied(source["a.weight"], "c")])
    read = load_file(out / WEIGHTS)
    assert torch.equal(read["b.weight"], 2 * TENSORS["b.weight"])
    assert torch.equal(read["none"], torch.zeros(6, dtype=torch.int64))
    assert torch.equal(read["c"], TENSORS["a.weight"])


def test_other_files_of_the_folder_are_no_weights(model: Path) -> None:
    save_file({"x": torch.zeros(1)}, model / "consolidated.safetensors")
    assert "x" not in Weights(model)


def test_a_folder_without_weights_is_told(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"has neither model\.safetensors nor"):
        Weights(tmp_path)


def test_a_missing_shard_is_named(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write_weights(out, [copied(tensor) for tensor in Weights(model)], 1)
    lost = sorted(out.glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(WeightsError, match=f"{lost.name} is missing"):
        Weights(out)


def test_an_index_that_is_not_of_these_shards_is_told(model: Path, tmp_path: Path) -> None:
    (model / WEIGHTS).rename(model / "model-00001-of-00001.safetensors")
    (model / INDEX).write_text(json.dumps({"weight_map": {"other": "model-00001-of-00001.safetensors"}}))
    with pytest.raises(WeightsError, match="says that other is in"):
        Weights(model)


def test_a_file_that_was_cut_short_is_told(model: Path) -> None:
    file = model / WEIGHTS
    whole = file.read_bytes()
    file.write_bytes(whole[:-3])
    with pytest.raises(WeightsError, match="was cut short"):
        Weights(model)
    file.write_bytes(whole[:40])
    with pytest.raises(WeightsError, match="header cannot be read"):
        Weights(model)


def test_quantised_numbers_are_copied_and_not_computed_with(model: Path) -> None:
    assert b"".join(Weights(model)["odd"].chunks()) == b"\x01\x00\x01"
    with pytest.raises(WeightsError, match="has the type BOOL"):
        Weights(model)["odd"].load()


def test_copying_holds_a_part_of_a_tensor_at_most(tmp_path: Path) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    base.mkdir()
    out.mkdir()
    save_file({name: torch.zeros(32 << 20, dtype=torch.float32) for name in ("a", "b")}, base / WEIGHTS)
    with peak_rise() as rise:
        write_weights(out, [copied(tensor) for tensor in Weights(base)])
        assert rise() < 64
    assert (out / WEIGHTS).stat().st_size > 256 << 20
