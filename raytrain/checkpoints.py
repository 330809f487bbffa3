"""Checkpoints on the shared storage of a run: which are whole, which one training goes on from, how many are kept.

A checkpoint is a folder `step_<step>-<attempt>`: every start of the workers writes folders of its own, so that no two
writers ever share one. Each node copies its ranks' files into it and writes its marker `whole-<node>.json` last, with
the size of each of its files. Invariant: a checkpoint counts only when the markers of all its nodes are there and every
file has the size that its marker names; anything else is what a kill left behind, is passed over, and is told about.
"""

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from agentmill.runs import atomic_write_text

FOLDER = re.compile(r"step_(\d+)-[0-9a-f]+")
MARKER = "whole-{}.json"


@dataclass(frozen=True)
class Saved:
    """A whole checkpoint: its folder, the step it was saved after, and the number of workers that saved it."""

    folder: Path
    step: int
    workers: int


@dataclass(frozen=True)
class Found:
    """The newest whole checkpoint, None where there is none, and why newer ones do not count."""

    newest: Saved | None
    passed_over: tuple[str, ...]


def folder_name(step: int, attempt: str) -> str:
    """The name of the checkpoint of this step by the workers' start `attempt` (hexadecimal digits)."""
    return f"step_{step:06d}-{attempt}"


def upload(local: Path, target: Path, *, step: int, workers: int, node: int, nodes: int) -> None:
    """Copy this node's files into the checkpoint `target`, and mark them as all there.

    Files are synced to the disk before the marker is written: it never outlives them.
    """
    shutil.copytree(local, target, dirs_exist_ok=True, copy_function=_copy_synced)
    sizes = {str(file.relative_to(local)): file.stat().st_size for file in sorted(local.rglob("*")) if file.is_file()}
    marker = {"step": step, "workers": workers, "nodes": nodes, "files": sizes}
    atomic_write_text(target / MARKER.format(node), json.dumps(marker, indent=1))


def read(folder: Path) -> Saved | str:
    """The checkpoint in `folder`, or what it lacks."""
    first = folder / MARKER.format(0)
    if not first.is_file():
        return "it was not saved to the end"
    marker = json.loads(first.read_text(encoding="utf-8"))
    for node in range(marker["nodes"]):
        file = folder / MARKER.format(node)
        if not file.is_file():
            return f"the files of node {node} of {marker['nodes']} are not all there"
        for name, size in json.loads(file.read_text(encoding="utf-8"))["files"].items():
            lack = _lack(folder / name, size)
            if lack:
                return f"{name} {lack}"
    return Saved(folder, int(marker["step"]), int(marker["workers"]))


def find(storage: Path) -> Found:
    """Look for the newest whole checkpoint in `storage`; of two of the same step, the one written last."""
    passed_over: list[str] = []
    for folder in reversed(_folders(storage)):
        saved = read(folder)
        if isinstance(saved, Saved):
            return Found(saved, tuple(passed_over))
        passed_over.append(f"the checkpoint {folder.name} does not count: {saved}")
    return Found(None, tuple(passed_over))


def prune(storage: Path, keep: int) -> None:
    """Remove all but the `keep` newest whole checkpoints, and what is not whole and older than the newest whole one."""
    whole = 0
    for folder in reversed(_folders(storage)):
        if isinstance(read(folder), Saved):
            whole += 1
            if whole <= keep:
                continue
        if whole:
            shutil.rmtree(folder, ignore_errors=True)


def clear_broken(storage: Path) -> None:
    """Remove every checkpoint that is not whole; only while nobody writes one."""
    for folder in _folders(storage):
        if not isinstance(read(folder), Saved):
            shutil.rmtree(folder, ignore_errors=True)


def _folders(storage: Path) -> list[Path]:
    found = [(folder, FOLDER.fullmatch(folder.name)) for folder in storage.iterdir()] if storage.is_dir() else []
    ordered = sorted((int(match[1]), folder.stat().st_mtime_ns, folder) for folder, match in found if match)
    return [folder for _, _, folder in ordered]


def _lack(file: Path, size: int) -> str | None:
    if not file.is_file():
        return "is missing"
    there = file.stat().st_size
    return None if there == size else f"has {there:,} bytes in place of {size:,}"


def _copy_synced(source: str, target: str) -> None:
    shutil.copyfile(source, target)
    with open(target, "rb") as file:
        os.fsync(file.fileno())
