"""Quantisation of a small model and its drafter: scheme, what is saved, what it costs; and how clipping is counted."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from raytrain import attention
from raytrain.data import TokenRows, join
from raytrain.drafter.model import load_drafter_for_scoring, make_drafter
from raytrain.hardware import Placement
from raytrain.quantize.clip import calibrate, count_clipped, sequences_of, watched
from raytrain.quantize.drafter_work import (
    LEFT_OUT,
    DrafterOrder,
    QuantisedDrafter,
    beside,
    given_to,
    quantise_drafter,
)
from raytrain.quantize.ranges import saved_ranges
from raytrain.quantize.scheme import WrongScheme, check_saved, choose
from raytrain.quantize.work import Order, quantise
from raytrain.settings import DrafterSettings, QuantizeSettings, Scheme
from raytrain.shards import Weights
from tests.tiny_llama import write_tiny_llama


def rows(count: int = 6, seed: int = 0) -> TokenRows:
    draw = np.random.default_rng(seed)
    lengths = draw.integers(12, 40, count)
    return join([(draw.integers(5, 200, n).astype(np.int32), 6, "ab"[i % 2]) for i, n in enumerate(lengths)])


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("quantize") / "model", layers=3)


@pytest.fixture(scope="module")
def model(model_folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()


@pytest.mark.parametrize(
    ("asked", "capability", "scheme", "why"),
    [
        ("auto", None, "int8", "no GPU"),
        ("auto", (8, 0), "int8", "8.0) has no FP8"),
        ("auto", (8, 9), "fp8", "8.9) has FP8"),
        ("auto", (9, 0), "fp8", "9.0) has FP8"),
        ("fp8", None, "fp8", "as it is set"),
    ],
)
def test_the_scheme_follows_from_the_hardware_unless_it_is_set(
    asked: str, capability: tuple[int, int] | None, scheme: str, why: str
) -> None:
    found, because = choose(QuantizeSettings.model_validate({"scheme": asked}), capability)
    assert found == scheme
    assert why in because


@pytest.mark.parametrize("scheme", ["int8", "fp8"])
def test_a_model_is_written_in_8_bits_and_loses_little(model_folder: Path, tmp_path: Path, scheme: Scheme) -> None:
    for name in ("calibration", "heldout"):
        rows(seed=len(name)).save(tmp_path / name)
    (tmp_path / "out").mkdir()
    placement = Placement(device="cpu", threads=1, precision="bf16")
    parts = tmp_path / "calibration", tmp_path / "heldout"
    found = quantise(Order(model_folder, tmp_path / "out", scheme, True, *parts, 256, placement))
    assert found.quantized == pytest.approx(found.bf16, rel=0.02)
    assert found.quantized != found.bf16
    saved = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    (group,) = saved["config_groups"].values()
    assert group["weights"]["type"] == ("float" if scheme == "fp8" else "int")
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    assert (tmp_path / "out" / "ranges.json").is_file() == (scheme == "fp8") == (found.clipped is not None)
    other: Scheme = "fp8" if scheme == "int8" else "int8"
    with pytest.raises(WrongScheme, match=r"quantization_config\.weights\.type"):
        check_saved(tmp_path / "out", other, kv_cache=True)


def test_a_saved_fp8_folder_has_the_ranges_of_its_calibration_rows(
    model_folder: Path, model: PreTrainedModel, tmp_path: Path
) -> None:
    calibration, heldout = rows(seed=7), rows(seed=8)
    calibration.save(tmp_path / "calibration")
    heldout.save(tmp_path / "heldout")
    (tmp_path / "out").mkdir()
    placement = Placement(device="cpu", threads=1, precision="bf16")
    parts = tmp_path / "calibration", tmp_path / "heldout"
    found = quantise(Order(model_folder, tmp_path / "out", "fp8", False, *parts, 256, placement))
    saved = json.loads((tmp_path / "out" / "ranges.json").read_text())
    wanted = calibrate(model, [calibration.row(index)[0] for index in range(len(calibration))])
    assert saved == pytest.approx(wanted, rel=0.02)  # calibrated in bf16, which has 8 bits, and saved as a bf16 scale
    assert found.clipped is not None
    assert found.clipped.values == int(heldout.lengths.sum()) * 3 * (4 * 64 + 2 * 64 + 128)
    assert 0 < found.clipped.rate < 0.01


DRAFTS = DrafterSettings(vocabulary=1.0, draft_tokens=4)


def said_twice(count: int, seed: int) -> TokenRows:
    """Rows of random tokens whose answer says the prompt again, which a drafter that copies drafts untrained."""
    draw = np.random.default_rng(seed)
    said = [draw.permutation(np.arange(5, 105))[:24].astype(np.int32) for _ in range(count)]
    return join([(np.concatenate([one, one]), len(one), "a") for one in said])


Drafted = tuple[DrafterOrder, QuantisedDrafter]


@pytest.fixture(scope="module", params=["int8", "fp8"])
def drafted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Drafted:
    """A drafter in 8 bits for a student in 8 bits, each by both schemes."""
    root, placement = tmp_path_factory.mktemp(request.param), Placement(device="cpu", threads=1, precision="bf16")
    attention.register()
    model = write_tiny_llama(root / "model", layers=5)
    rows = {name: said_twice(count, count) for name, count in (("calibration", 12), ("heldout", 8))}
    for name, some in rows.items():
        some.save(root / name)
    make_drafter(model, DRAFTS, rows["calibration"], root / "drafter", seed=1)
    for name in ("student", "out"):
        (root / name).mkdir()
    parts = root / "calibration", root / "heldout"
    quantise(Order(model, root / "student", request.param, True, *parts, 128, placement))
    order = DrafterOrder(
        root / "drafter", root / "student", root / "out", request.param, *parts, 128, DRAFTS, placement
    )
    return order, quantise_drafter(order)


def test_a_drafter_is_written_in_8_bits_for_the_student_in_8_bits(drafted: Drafted) -> None:
    order, found = drafted
    (before, drafts), (after, _) = found.bf16, found.quantized
    assert before > 1.3 and after == pytest.approx(before, rel=0.05)
    assert 0 < drafts < 8 * 24
    config = json.loads((order.out / "config.json").read_text())
    assert config["speculators_config"]["verifier"]["name_or_path"] == str(order.student.resolve())
    assert config["quantization_config"]["ignore"] == list(LEFT_OUT)
    assert config["quantization_config"].get("kv_cache_scheme") is None
    kinds = {tensor.name: tensor.dtype for tensor in Weights(order.out)}
    eight = {"int8": "I8", "fp8": "F8_E4M3"}[order.scheme]
    own = {tensor.name for tensor in Weights(order.drafter)}
    assert {name for name, kind in kinds.items() if kind == eight} == {
        "fc.weight", *(name for name in own if "_proj" in name)
    }  # fmt: skip
    assert own <= set(kinds)


def test_a_drafter_s_ranges_are_those_of_every_step_on_the_states_of_the_student_in_8_bits(drafted: Drafted) -> None:
    order, found = drafted
    if order.scheme == "int8":
        assert saved_ranges(order.out) == {} and found.clipped is None
        return
    drafter = beside(load_drafter_for_scoring(order.drafter, order.placement), order.student)
    wanted: dict[int, dict[str, float]] = {1: {}, DRAFTS.draft_tokens: {}}
    rows = TokenRows.load(order.calibration)
    for steps, largest in wanted.items():

        def look(name: str, inputs: torch.Tensor, largest: dict[str, float] = largest) -> None:
            largest[name] = max(largest.get(name, 0.0), float(inputs.abs().max()))

        with watched(drafter, look), torch.no_grad():
            (given,) = given_to(drafter, rows, [list(range(len(rows)))], order)
            drafter(**given, ttt_steps=steps)
    first, every = wanted.values()
    assert saved_ranges(order.out) == pytest.approx(every, rel=0.02)
    assert max(every[name] / first[name] for name in first) > 1.05
    assert found.clipped is not None
    of_a_step = 3 * 2 * 64 + 64 + 2 * 64 + 128  # q, k, v; o; gate, up; down
    assert found.clipped.values == (8 * 48 - 1) * (3 * 64 + DRAFTS.draft_tokens * of_a_step)
    assert 0 <= found.clipped.rate < 0.01


def test_calibration_sequences_are_rows_one_after_another_and_begin_again() -> None:
    few = join([(np.arange(5, dtype=np.int32), 1, "a"), (np.arange(5, 8, dtype=np.int32), 1, "a")])
    found = [sequence.tolist() for sequence in sequences_of(few, 6, 2)]
    assert found == [[0, 1, 2, 3, 4, 5], [6, 7, 0, 1, 2, 3]]


def test_nothing_is_clipped_of_what_was_calibrated_on_and_everything_of_a_range_of_nothing(
    model: PreTrainedModel,
) -> None:
    test = rows(4)
    same = calibrate(model, [test.row(index)[0] for index in range(len(test))])
    assert len(same) == 3 * 7
    found = count_clipped(model, test, {"same": same, "none": dict.fromkeys(same, -1.0)}, (0, 16))
    assert found["same"].rate == 0
    assert found["none"].rate == 1
    widths = 3 * (4 * 64 + 2 * 64 + 128)  # q, k, v, o; gate, up; down
    assert found["same"].values == int(test.lengths.sum()) * widths


def test_a_longer_calibration_clips_less_and_counts_add_up(model: PreTrainedModel) -> None:
    test, calibration = rows(8, seed=5), rows(8, seed=6)
    ranges = {str(n): calibrate(model, sequences_of(calibration, n, 2)) for n in (4, 64)}
    found = count_clipped(model, test, ranges, (0, 8, 16))
    assert found["64"].rate < found["4"].rate
    for one in found.values():
        for counts in (one.by_group, one.by_position):
            assert [sum(c) for c in zip(*counts.values(), strict=True)] == [
                sum(c) for c in zip(*one.by_layer.values(), strict=True)
            ]
    assert set(found["4"].by_group) == {"a", "b"}
    assert set(found["4"].by_position) == {0, 8, 16}
