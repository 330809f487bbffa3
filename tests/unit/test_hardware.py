"""Kinds of machines: every shipped file, whose choice wins, and where workers are put."""

from pathlib import Path

import pytest

from agentmill.config import ConfigError, validate
from cluster.config import RunConfig, read_config
from raytrain.hardware import (
    SHIPPED,
    HardwareError,
    HardwareSettings,
    Placement,
    check_fabric,
    memory_of_worker,
    place,
    read_hardware,
)
from raytrain.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
NAMES = sorted(file.stem for file in SHIPPED.glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_hardware_is_read_under_its_name_and_survives_a_run_file(name: str) -> None:
    hardware = read_hardware(name)
    assert hardware.name == name
    assert read_hardware(hardware.model_dump(mode="json")) == hardware
    if hardware.devices:
        assert hardware.peak_tflops and hardware.device_memory_gib and hardware.accelerator
        workers = WorkerSettings.model_validate(hardware.worker_defaults("sft")).workers
        assert workers == hardware.devices


def test_the_kinds_that_the_project_names_are_there() -> None:
    assert {"cpu", "1xh200", "p4d", "p5"} <= set(NAMES)
    assert (read_hardware("p4d").efa, read_hardware("p5").efa) == (4, 32)


def test_what_a_stage_says_wins_over_its_hardware_and_the_rest_is_the_hardwares() -> None:
    config = read_config(ROOT / "configs" / "paper.yaml", ["hardware=p5", "sft.worker.workers=16"])
    worker = config.sft.worker
    assert (worker.workers, worker.device, worker.zero_stage, worker.gradient_checkpointing) == (16, "gpu", 2, True)


def test_a_stage_has_its_own_defaults(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("worker: {workers: 4, zero_stage: 2}\nstages: {cpt: {zero_stage: 3}}\n")
    config = read_config(ROOT / "configs" / "paper.yaml", [f"hardware={file}", "cpt.learning_rate=1e-4"])
    assert config.cpt is not None
    assert (config.cpt.worker.workers, config.cpt.worker.zero_stage) == (4, 3)
    assert (config.sft.worker.workers, config.sft.worker.zero_stage) == (4, 2)


def test_hardware_brings_no_stage_into_a_run_that_leaves_it_out() -> None:
    config = read_config(ROOT / "configs" / "paper.yaml", ["hardware=p5", "dpo="])
    assert config.dpo is None


def test_without_hardware_nothing_is_assumed() -> None:
    config = read_config(ROOT / "configs" / "local.yaml", ["sft={}"])
    assert config.sft.worker == WorkerSettings()
    assert config.hardware.peak_tflops is None


def test_a_run_file_gives_the_same_configuration_again() -> None:
    config = read_config(ROOT / "configs" / "paper.yaml")
    assert validate(RunConfig, config.resolved(), "run.json") == config


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("p55", r"hardware=p55 is no file of configs/hardware; did you mean p5\?"),
        ({"devices": 0}, "devices=0: input should be greater than or equal to 1"),
        ({"efas": 4}, "efas is no known key"),
        ({"stages": {"cpt": {"offload": "parameters"}}}, "offload=parameters needs zero_stage=3"),
    ],
)
def test_hardware_that_cannot_be_is_refused(given: object, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read_hardware(given)


def test_workers_get_what_the_hardware_says() -> None:
    hardware = read_hardware("p5")
    worker = WorkerSettings(device="gpu", workers=16)
    placement = place(worker, {"CPU": 384, "GPU": 16}, hardware)
    assert placement.worker_resources == {"CPU": 23, "GPU": 1}
    assert (placement.nodes, placement.accelerator, placement.threads) == (2, "H100", 23)
    assert placement.peak_flops == 989e12
    assert placement.environment["FI_PROVIDER"] == "efa"
    with pytest.raises(HardwareError, match=r"needs a GPU for each of worker\.workers=16 and Ray has 8"):
        place(worker, {"GPU": 8}, hardware)


def test_ray_train_is_told_where_workers_go_and_what_they_find(tmp_path: Path) -> None:
    from raytrain.worker import ON_CORES, scaling, worker_environment

    placement = place(WorkerSettings(device="gpu", workers=8), {"GPU": 8}, read_hardware("p4d"))
    config = scaling(8, placement)
    assert (config.num_workers, config.use_gpu, config.placement_strategy) == (8, True, "PACK")
    assert config.accelerator_type == "A100"
    assert config._resources_per_worker_not_none["CPU"] == 11
    assert worker_environment(placement)["env_vars"]["FI_EFA_USE_HUGE_PAGE"] == "0"
    on_cores = place(WorkerSettings(device="cpu"), {"CPU": 2})
    assert worker_environment(on_cores) == {"env_vars": ON_CORES}
    assert "ONEDNN_PRIMITIVE_CACHE_CAPACITY" not in worker_environment(placement)["env_vars"]
    assert scaling(2, on_cores).accelerator_type is None


def test_workers_on_cores_share_what_the_node_has() -> None:
    assert memory_of_worker(HardwareSettings(host_memory_gib=16), 4, on_gpu=False) == 4
    assert memory_of_worker(HardwareSettings(host_memory_gib=16, devices=2), 4, on_gpu=False) == 8
    assert memory_of_worker(HardwareSettings(device_memory_gib=80), 4, on_gpu=True) == 80


def test_a_node_without_its_adapters_stops_a_stage_over_several_nodes(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"efa_{number}").mkdir()
    several = Placement("gpu", 1, "bf16", nodes=2, efa=4)
    with pytest.raises(HardwareError, match=r"hardware\.efa=4, and node .* shows 3 network adapters"):
        check_fabric(several, tmp_path)
    with pytest.raises(HardwareError, match="shows 0 network adapters"):
        check_fabric(several, tmp_path / "none")
    check_fabric(Placement("gpu", 1, "bf16", nodes=1, efa=4), tmp_path)
    (tmp_path / "efa_3").mkdir()
    check_fabric(several, tmp_path)
