"""The local Ray session of one command: started once, quiet, on the loopback interface, and gone when we are.

Invariant: processes of an earlier session that was killed are stopped before a new one starts, and only those: a
process is ours when its id *and* its start time are those that the earlier session wrote down.
"""

import json
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from agentmill.errors import UserError
from agentmill.lineage import require_memory
from agentmill.log import say
from agentmill.runs import atomic_write_text

LOGICAL_CPUS = 16  # Ray's CPUs are bookkeeping: with the machine's own two, replicas would wait for ever.
SESSION_GIB = 2.0
OBJECT_STORE_BYTES = 1 << 30
RECORD_EVERY_S = 3.0
_START_TOLERANCE_S = 0.05
SLOW_START = "timed out during startup"  # in Ray's message

ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",  # both sides must agree; a driver of its own would else be refused
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # 15 by default: on a busy machine workers took minutes to start
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # else the core's own lines cross ours on the terminal; failures reach us anyway
    "RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE": "1",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}


class RayNotStarted(UserError):
    """Ray's own processes did not come up. The message says what to do."""


def prepare_environment() -> None:
    """Set what Ray, vLLM and the Hugging Face libraries read when they start; what the user has set stays."""
    from rayserve.settings import ENVIRONMENT as SERVE

    for name, value in {**ENVIRONMENT, **SERVE}.items():
        os.environ.setdefault(name, value)


@contextmanager
def ray_session(record: Path | None = None, logs: Path | None = None) -> Iterator[None]:
    """Run the block with Ray initialised; shut it down afterwards, on the error path too.

    `record` is the file in which the session writes down its processes, so that a killed one can be cleaned up.
    `logs` is where Ray's own logs of this session are kept.

    Raises:
        MemoryShortage: when there is not enough free memory to start.
        RayNotStarted: when Ray's own processes do not come up in Ray's time.
    """
    if record is not None:
        left = stop_recorded(record)
        if left:
            say("ray", f"stopped {left} processes that an earlier, killed session had left behind")
    require_memory(SESSION_GIB, "a local Ray session", "close other programs or stop other runs")
    prepare_environment()
    import ray

    on_sigterm = signal.getsignal(signal.SIGTERM)
    with _quiet_start(), _started_in_time():
        ray.init(
            address="local",
            num_cpus=LOGICAL_CPUS,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address="127.0.0.1",
        )
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray puts its own there, which leaves without a word
    _quieten()
    folder = Path(ray._private.worker._global_node.get_session_dir_path()) / "logs"
    stop = threading.Event()
    watcher = threading.Thread(target=_keep_record, args=(record, stop), daemon=True)
    if record is not None:
        watcher.start()
    try:
        yield
    finally:
        stop.set()
        ray.shutdown()
        if record is not None:
            watcher.join()
            stop_recorded(record)
        if logs is not None:
            _keep_logs(folder, logs)


@contextmanager
def _started_in_time() -> Iterator[None]:
    """Tell what to do where Ray gave up waiting for its own processes, which it says with a bare Exception."""
    try:
        yield
    except Exception as error:
        if SLOW_START not in str(error):
            raise
        raise RayNotStarted(
            "Ray's own processes did not start in its time, as happens where the machine is very busy; close other "
            "programs and start the same command again"
        ) from error


def stop_recorded(record: Path) -> int:
    """Stop what is left of the session that `record` describes; returns how many processes that were."""
    if not record.is_file():
        return 0
    left = [process for process in _recorded(record) if process.pid != os.getpid()]
    for process in left:
        _send(process, force=False)
    _, stubborn = psutil.wait_procs(left, timeout=5)
    for process in stubborn:
        _send(process, force=True)
    psutil.wait_procs(stubborn, timeout=5)
    record.unlink(missing_ok=True)
    return len(left)


def describe_processes() -> list[dict[str, float | int | str]]:
    """Ray's processes below this one, and theirs: id, start time, name."""
    found: list[dict[str, float | int | str]] = []
    for child in psutil.Process().children():
        try:
            if not any("/ray/" in argument for argument in child.cmdline()):
                continue
            for process in (child, *child.children(recursive=True)):
                found.append({"pid": process.pid, "started": process.create_time(), "name": process.name()})
        except psutil.NoSuchProcess:
            continue
    return found


def _recorded(record: Path) -> list[psutil.Process]:
    alive = []
    for entry in json.loads(record.read_text(encoding="utf-8")):
        try:
            process = psutil.Process(entry["pid"])
            if abs(process.create_time() - entry["started"]) < _START_TOLERANCE_S:
                alive.append(process)
        except psutil.NoSuchProcess:
            continue
    return alive


def _send(process: psutil.Process, *, force: bool) -> None:
    try:
        if force:
            process.kill()
        else:
            process.terminate()
    except psutil.NoSuchProcess:
        return


def _keep_record(record: Path, stop: threading.Event) -> None:
    """Write down our processes until told to stop. One that ended stays in the list: its start time tells it apart."""
    seen: dict[tuple[int, float], dict[str, float | int | str]] = {}
    while True:
        fresh = {(int(p["pid"]), float(p["started"])): p for p in describe_processes()}
        if not fresh.keys() <= seen.keys():
            seen.update(fresh)
            atomic_write_text(record, json.dumps(list(seen.values())))
        if stop.wait(RECORD_EVERY_S):
            return


@contextmanager
def _quiet_start() -> Iterator[None]:
    """Keep the core's greeting (that it reads RAY_BACKEND_LOG_LEVEL) off the terminal; errors are exceptions."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _quieten() -> None:
    """Keep Ray's own information lines out of the terminal; warnings of Data and Serve are in the session's logs."""
    for name in ("ray", "ray.data", "ray.serve", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _keep_logs(session: Path, target: Path) -> None:
    """Copy Ray's logs into the run, in place of the last session's."""
    if not session.is_dir():
        return
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(session, target, ignore_dangling_symlinks=True)
