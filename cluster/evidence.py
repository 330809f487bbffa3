"""What the report shows, read from a run directory: samples of the corpora, loss curves, conversations call by call.

Everything is optional: a part that a run does not have (yet) is empty. Invariant: nothing is computed here that is
stated as a figure; figures come from figures.json alone.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from agentmill.runs import Run
from cluster.view import ShownRow, show, tokenizer_of

SCAN_ROWS = 4096


@dataclass(frozen=True)
class ShownCall:
    """One model call: who, what it was asked, what it said, what it cost; `latency_s` is None where nobody measured."""

    agent: str
    messages: list[tuple[str, str]]
    output: str
    status: str
    error: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    latency_s: float | None


@dataclass(frozen=True)
class ShownTurn:
    """One customer turn and the calls that answered it. The Executor calls no model: plan and results are its work."""

    utterance: str
    reply: str
    status: str
    plan: str
    results: str
    calls: list[ShownCall] = field(default_factory=list)


@dataclass(frozen=True)
class ShownConversation:
    """One held-out conversation, turn by turn."""

    sid: str
    success: bool
    reasons: list[str]
    status: str
    goals: list[tuple[str, str]]
    turns: list[ShownTurn]


def samples(run: Run, count: int) -> list[ShownRow]:
    """Training rows from the beginning of the SFT corpus, the agents (and real dialogues) in turn."""
    by_kind: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in _rows(run.root / "corpora" / "sft" / "train.parquet", SCAN_ROWS):
        by_kind[row["source"] if row["source"] == "public" else row["agent"]].append(row)
    chosen: list[dict[str, Any]] = []
    depth = 0
    while len(chosen) < count and any(len(rows) > depth for rows in by_kind.values()):
        chosen += [rows[depth] for _, rows in sorted(by_kind.items()) if len(rows) > depth]
        depth += 1
    tokenizer = tokenizer_of(run) if chosen else None
    return [show(row, tokenizer) for row in chosen[:count]]


def conversations(run: Run, count: int, model: str | None) -> list[ShownConversation]:
    """Conversations of the evaluation of a model, completed ones and a third of failed ones; none without a model."""
    if model is None:
        return []
    folder = run.root / "evaluate" / model
    rows = list(_rows(folder / "conversations"))
    failed, passed = [r for r in rows if not r["success"]], [r for r in rows if r["success"]]
    chosen = [*passed[: count - min(len(failed), count // 3)], *failed[: count // 3]][:count]
    wanted = {str(row["sid"]) for row in chosen}
    turns, calls = _by_sid(folder / "turns", wanted), _by_sid(folder / "calls", wanted)
    timings = _by_sid(folder / "timings", wanted)
    return [_conversation(row, *(rows[str(row["sid"])] for rows in (turns, calls, timings))) for row in chosen]


def _conversation(
    row: dict[str, Any], turns: list[dict[str, Any]], calls: list[dict[str, Any]], timings: list[dict[str, Any]]
) -> ShownConversation:
    seconds = {(t["turn"], t["index"]): float(t["seconds"]) for t in timings if t["kind"] == "call"}
    by_turn: dict[int, list[ShownCall]] = defaultdict(list)
    for call in sorted(calls, key=lambda c: (c["turn"], c["index"])):
        by_turn[int(call["turn"])].append(_call(call, seconds.get((call["turn"], call["index"]))))
    goals = json.loads(row["scenario_json"]).get("goals", [])
    return ShownConversation(
        sid=str(row["sid"]),
        success=bool(row["success"]),
        reasons=[str(reason) for reason in json.loads(row["reasons_json"] or "[]")],
        status=str(row["status"]),
        goals=[(str(goal["intent"]), _slots(goal.get("slots", {}))) for goal in goals],
        turns=[
            ShownTurn(
                utterance=turn["utterance"],
                reply=turn["reply"],
                status=turn["status"],
                plan=turn["plan"],
                results=turn["results_json"] if turn["results_json"] not in ("", "null", "{}") else "",
                calls=by_turn[int(turn["turn"])],
            )
            for turn in sorted(turns, key=lambda t: t["turn"])
        ],
    )


def _call(row: dict[str, Any], seconds: float | None) -> ShownCall:
    return ShownCall(
        agent=row["agent"],
        messages=_messages(json.loads(row["messages_json"])),
        output=row["output"],
        status=row["status"],
        error=row["error"] or "",
        model=row["model"],
        prompt_tokens=row["prompt_tokens"],
        completion_tokens=row["completion_tokens"],
        latency_s=seconds,
    )


def _slots(slots: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in slots.items())


def _messages(value: Any) -> list[tuple[str, str]]:
    return [(str(message["role"]), str(message["content"])) for message in value or []]


def _by_sid(path: Path, wanted: set[str]) -> dict[str, list[dict[str, Any]]]:
    grouped: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in _rows(path):
        if str(row.get("sid")) in wanted:
            grouped[str(row["sid"])].append(row)
    return grouped


def _rows(path: Path, limit: int | None = None) -> Iterator[dict[str, Any]]:
    """Rows of a Parquet file, of `path` + .parquet, or of the Parquet files in a folder."""
    files = [path] if path.is_file() else sorted(path.glob("*.parquet")) or [path.with_name(path.name + ".parquet")]
    left = limit
    for file in files:
        if not file.is_file():
            continue
        table: pa.Table = pq.read_table(file)
        if left is not None:
            table = table.slice(0, left)
            left -= table.num_rows
        yield from table.to_pylist()
