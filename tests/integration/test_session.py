"""The local Ray session: quiet, cleaned up after a kill, and never at another's expense."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from agentmill import lineage
from agentmill.lineage import MemoryShortage
from cluster import session
from cluster.session import RayNotStarted, ray_session, stop_recorded

DRIVER = """
import sys, time
from pathlib import Path
from cluster.session import ray_session

with ray_session(record=Path(sys.argv[1])):
    import ray
    print(ray.get(ray.remote(lambda: 7).remote()), flush=True)
    time.sleep(300)
"""


def wait_for_processes(record: Path) -> list[dict[str, float]]:
    """The recorded processes once Ray's worker is among them."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if record.is_file():
            entries = json.loads(record.read_text())
            if any(str(entry["name"]).startswith("ray::") for entry in entries):
                return list(entries)
        time.sleep(0.5)
    raise AssertionError("the session wrote down no worker")


def alive(entries: list[dict[str, float]]) -> list[int]:
    found = []
    for entry in entries:
        try:
            process = psutil.Process(int(entry["pid"]))
            if abs(process.create_time() - entry["started"]) < 0.05 and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.NoSuchProcess:
            continue
    return found


def test_a_killed_session_is_cleaned_up_by_the_next(tmp_path: Path) -> None:
    record = tmp_path / "session.json"
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(record)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert driver.stdout is not None
    assert driver.stdout.readline().strip() == "7"
    entries = wait_for_processes(record)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    stop_recorded(record)
    assert alive(entries) == []
    assert not record.exists()


def test_a_process_that_only_has_the_same_id_is_left_alone(tmp_path: Path) -> None:
    record = tmp_path / "session.json"
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    started = psutil.Process(bystander.pid).create_time()
    record.write_text(json.dumps([{"pid": bystander.pid, "started": started - 100, "name": "raylet"}]))
    assert stop_recorded(record) == 0
    assert bystander.poll() is None
    record.write_text(json.dumps([{"pid": bystander.pid, "started": started, "name": "raylet"}]))
    assert stop_recorded(record) == 1
    assert bystander.poll() is not None


def test_too_little_memory_is_told_before_ray_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineage, "memory_gib", lambda: 0.5)
    told = r"needs about 2\.0 GiB of free memory and 0\.5 GiB is free; close other"
    with pytest.raises(MemoryShortage, match=told), ray_session():
        raise AssertionError("started")


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "INFO")
    session.prepare_environment()
    assert os.environ["VLLM_LOGGING_LEVEL"] == "INFO"
    assert os.environ["RAY_AUTH_MODE"] == "token"


def test_a_ray_that_does_not_come_up_is_told_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def init(**_: object) -> None:
        raise Exception("The current node timed out during startup. This could happen because ...")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(RayNotStarted, match="close other programs"), ray_session():
        pass
