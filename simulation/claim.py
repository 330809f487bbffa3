"""Whose work a folder holds: written down before the first row is made, and compared by everyone who goes on with it.

Invariant: rows made under one configuration are never mixed with another's. A folder that holds rows of another one is
refused with the differences; one that holds none yet is taken over.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentmill.config import UserError, differences
from agentmill.runs import atomic_write_text

_FILE = "made-with.json"


class OtherWork(UserError):
    """A work folder has unfinished rows of another configuration. The message has the differences and the remedy."""


def claim(work: Path, made_with: Mapping[str, Any], stage: str) -> None:
    """Take `work` for rows that are made with `made_with` (JSON values: everything that decides what a row holds).

    Raises:
        OtherWork: when it holds rows that were made with something else.
    """
    file = work / _FILE
    wanted = json.loads(json.dumps(made_with))
    if file.is_file() and has_rows(work):
        there = json.loads(file.read_text(encoding="utf-8"))
        changed = differences(there, wanted)
        if changed:
            raise OtherWork(refusal(stage, work, changed))
    atomic_write_text(file, json.dumps(wanted, indent=2, ensure_ascii=False) + "\n")


def has_rows(work: Path) -> bool:
    """Whether a stage has rows in its work folder, or has put them together beside it already."""
    places = ((work / "out", "*.parquet"), (work / "kept", "*.parquet"), (work.parent, "*/part-*.parquet"))
    return any(next(folder.glob(pattern), None) is not None for folder, pattern in places)


def refusal(stage: str, work: Path, changed: list[str]) -> str:
    """Why a stage does not go on with unfinished work, and what can be done."""
    return (
        f"{stage}: {work} holds unfinished work of another configuration: {'; '.join(changed)}; the two are not mixed. "
        f"Go back to that configuration to finish it, give this one a run of its own with --name, or let "
        f"--fresh {stage} set the unfinished work aside"
    )
