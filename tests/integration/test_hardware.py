"""What a kind of machine says reaches the workers of a real worker group."""

import json
from pathlib import Path
from typing import Any

from raytrain.hardware import HardwareSettings, place
from raytrain.settings import WorkerSettings
from raytrain.worker import launch


def test_workers_find_the_environment_of_the_hardware(ray_local: None, tmp_path: Path) -> None:
    import ray

    def write_environment(config: dict[str, Any]) -> dict[str, Any]:
        import os

        Path(config["out"]).write_text(json.dumps(dict(os.environ)))
        return {}

    settings = WorkerSettings(workers=1, threads=1, device="cpu")
    hardware = HardwareSettings(environment={"FI_PROVIDER": "efa"}, placement="STRICT_PACK", cpus_per_worker=2)
    launch(
        write_environment,
        {"out": str(tmp_path / "environment.json")},
        label="hardware",
        storage=tmp_path / "ray",
        stop=tmp_path / "stop",
        settings=settings,
        placement=place(settings, ray.cluster_resources(), hardware),
    )
    found = json.loads((tmp_path / "environment.json").read_text())
    assert found["FI_PROVIDER"] == "efa"
    assert found["WORLD_SIZE"] == "1"
