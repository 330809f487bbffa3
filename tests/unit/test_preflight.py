"""What fits is let through, what does not is refused with changes that fit."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.config import RunConfig, read_config
from cluster.memory import forecasts, memory_table
from raytrain.footprint import KERNELS_GIB, Batch, largest_batch
from raytrain.hardware import HardwareSettings, read_hardware
from raytrain.preflight import MemoryRefused, drafted_tokens, remedies, require_fit, weigh
from raytrain.settings import DpoSettings, DrafterSettings, LoraSettings, SftSettings, StageSettings, WorkerSettings
from raytrain.shape import shape_of
from tests.llama8b import LLAMA_8B

PAPER = Path(__file__).parents[2] / "configs" / "paper.yaml"
LLAMA = shape_of(LLAMA_8B)


def full(**worker: object) -> SftSettings:
    settings = WorkerSettings.model_validate({"workers": 8, "device": "gpu", **worker})
    return SftSettings(lora=None, max_length=4096, tokens_per_batch=8192, worker=settings)


@pytest.fixture
def llama_8b(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    return tmp_path


def paper(model: Path, *assignments: str) -> RunConfig:
    return read_config(PAPER, [f"base.model={model}", *assignments])


def test_the_papers_configuration_fits_on_its_hardware(llama_8b: Path) -> None:
    found = {one.stage: one for one in forecasts(paper(llama_8b))}
    assert list(found) == ["cpt", "sft", "dpo", "drafter"]
    assert all(one.verdict.fits for one in found.values())
    assert found["cpt"].trained == found["cpt"].parameters == LLAMA.expanded(4).parameters
    assert found["sft"].trained == LLAMA.expanded(4).adapters(128, "all-linear")


def test_40_gb_do_not_hold_the_papers_pretraining_but_do_with_the_optimizer_on_the_host(llama_8b: Path) -> None:
    (cpt, *_) = forecasts(paper(llama_8b, "hardware=p4d"))
    assert not cpt.verdict.fits
    assert any("offload=optimizer" in remedy for remedy in cpt.remedies)
    (cpt, *_) = forecasts(paper(llama_8b, "hardware=p4d", "cpt.worker.offload=optimizer"))
    assert cpt.verdict.fits
    assert cpt.verdict.host_need_gib < 1100


def test_the_table_says_what_would_fit(llama_8b: Path) -> None:
    from rich.console import Console

    console = Console(width=300, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(memory_table(list(forecasts(paper(llama_8b, "hardware=p4d"))), "p4d"))
    text = console.export_text()
    assert "9,775,157,248" in text
    assert "no; " in text and "offload=optimizer (" in text


def test_a_refusal_has_both_figures_and_changes_that_each_fit() -> None:
    hardware, settings = read_hardware("p4d"), full(zero_stage=1)
    batch = largest_batch(settings)
    with pytest.raises(MemoryRefused, match=r"8 workers with ZeRO 1 .* of 37\.4 GiB a worker .*what fits: ") as refused:
        require_fit("sft", LLAMA, settings, batch, hardware, on_gpu=True)
    found = remedies(LLAMA, settings, batch, hardware, on_gpu=True)
    assert found
    for what, gib in found:
        assert gib <= 0.95 * 39.4
        if found.index((what, gib)) < 4:
            assert f"{what} ({gib:.1f} GiB)" in str(refused.value)


def test_several_changes_together_where_one_is_not_enough() -> None:
    settings = full(zero_stage=1, workers=2)
    batch = Batch(65536, 8192, 4096)
    settings = settings.model_copy(update={"tokens_per_batch": 65536})
    ((what, gib),) = remedies(LLAMA, settings, batch, read_hardware("p4d"), on_gpu=True)
    assert ", " in what and gib < 39.4


def test_no_remedy_makes_batches_too_small_for_a_pair() -> None:
    worker = WorkerSettings(workers=8, device="gpu")
    settings = DpoSettings(max_length=4096, tokens_per_batch=262144, worker=worker)
    small = read_hardware("p4d").model_copy(update={"device_memory_gib": 30.0})
    named = [what for what, _ in remedies(LLAMA, settings, Batch(262144, 131072, 4096), small, on_gpu=True)]
    assert any("tokens_per_batch=8192" in what for what in named)
    assert not any("tokens_per_batch=4096" in what for what in named)


def test_nothing_helps_where_nothing_can() -> None:
    settings = full(workers=1)
    small = HardwareSettings(name="toy", device_memory_gib=1.0, host_memory_gib=8.0, devices=1)
    with pytest.raises(MemoryRefused, match="nothing that these settings offer fits: take a smaller model"):
        require_fit("sft", LLAMA, settings, largest_batch(settings), small, on_gpu=True)


def test_moving_to_the_host_counts_against_the_hosts_memory() -> None:
    small_host = read_hardware("p4d").model_copy(update={"host_memory_gib": 100.0})
    verdict = weigh(LLAMA, full(zero_stage=3, offload="optimizer"), Batch(4096, 512, 4096), small_host, on_gpu=True)
    assert verdict.need_gib < (verdict.have_gib or 0)
    assert verdict.host_need_gib > 100
    assert not verdict.fits


def test_known_cases_of_the_field() -> None:
    """Full fine-tuning of 8B takes 8 devices of 80 GB with ZeRO 3 and not one; LoRA takes one."""
    p5, batch = read_hardware("p5"), Batch(8192, 8192, 4096)

    def fits(settings: StageSettings) -> bool:
        return weigh(LLAMA, settings, batch, p5, on_gpu=True).fits

    assert fits(full(zero_stage=3, gradient_checkpointing=True))
    assert not fits(full(workers=1, gradient_checkpointing=True))
    lora = full(workers=1, gradient_checkpointing=True).model_copy(update={"lora": LoraSettings(rank=64)})
    assert fits(lora)


def test_on_cores_the_memory_of_the_machine_is_shared_among_workers() -> None:
    settings = full(device="cpu", workers=4)
    machine = HardwareSettings(host_memory_gib=64)
    with pytest.raises(MemoryRefused, match="do not fit on this machine's memory") as refused:
        require_fit("sft", LLAMA, settings, Batch(1024, 512, 512), machine, on_gpu=False)
    assert "offload" not in str(refused.value)


def test_compiled_kernels_count_on_cores_in_bf16_alone() -> None:
    hardware, batch = HardwareSettings(host_memory_gib=64.0), Batch(1024, 512, 512)
    parts = {
        (precision, on_gpu): weigh(LLAMA, full(workers=1, precision=precision), batch, hardware, on_gpu=on_gpu).parts
        for precision in ("bf16", "fp32")
        for on_gpu in (False, True)
    }
    assert [key for key, one in parts.items() if "kernels" in one] == [("bf16", False)]
    assert parts["bf16", False]["kernels"] == KERNELS_GIB


def test_a_drafter_that_is_made_has_the_logits_of_its_own_vocabulary(tmp_path: Path) -> None:
    assert drafted_tokens(tmp_path / "none") is None
    (tmp_path / "config.json").write_text(json.dumps({"draft_vocab_size": 512}))
    size = drafted_tokens(tmp_path)
    assert size == 512
    batch, hardware, settings = Batch(2048, 600, 409), HardwareSettings(host_memory_gib=64.0), DrafterSettings()
    largest = weigh(LLAMA, settings, batch, hardware, on_gpu=False).parts["logits"]
    known = weigh(replace(LLAMA, drafted=size), settings, batch, hardware, on_gpu=False).parts["logits"]
    assert known == pytest.approx(largest * 512 / 32000)
