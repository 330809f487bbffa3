"""A run whose traces are made by hand: conversations, turns and refined calls, and corpora built from them."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from agentmill.domains.base import Domain, Goal, Scenario
from agentmill.records import Conversation, Turn
from agentmill.runs import Run
from simulation import corpora
from simulation.corpora import CorporaSettings
from simulation.tables import REFINED_SCHEMA, compact, conversation_tables, write_table

Row = dict[str, Any]


class MadeRun:
    """Make conversations, give them turns and calls, then `build`."""

    def __init__(self, folder: Path, domain: Domain) -> None:
        self.run = Run.create(folder, {"domain": domain.name}, "test")
        self.domain = domain
        self.conversations: list[Conversation] = []
        self.turns: list[Turn] = []
        self.calls: list[Row] = []

    def conversation(self, sid: str, split: Any = "train", *, user_errors: tuple[str, ...] = (), **slots: str) -> None:
        goal = Goal(intent="small_talk", slots=slots, expect={})
        scenario = Scenario(sid=sid, seed=1, world_seed=1, persona="plain", goals=(goal,), split=split)
        self.conversations.append(
            Conversation(
                sid=sid, scenario_json=scenario.model_dump_json(), status="exit", success=True, reasons=(), turns=1,
                calls=1, world_json="{}", seconds=0.1, user_errors=user_errors,
            )
        )  # fmt: skip

    def turn(self, sid: str, utterance: str, reply: str) -> None:
        number = sum(turn.sid == sid for turn in self.turns)
        self.turns.append(
            Turn(
                sid=sid, turn=number, utterance=utterance, reply=reply, status="answered", intent="small_talk", plan="",
                complexity=0.0, replans=0, violations=(), results_json="{}", latency_s=0.1,
            )
        )  # fmt: skip

    def call(self, sid: str, frame: str, refined: str, *, agent: str = "explainer", **fields: Any) -> None:
        number = len(self.calls)
        system = self.domain.prompts["brief"][agent]  # type: ignore[index]
        messages = [{"role": "system", "content": system}, {"role": "user", "content": frame}]
        row = {
            "call_id": f"{sid}-0-{number}", "sid": sid, "turn": 0, "index": number, "agent": agent,
            "messages_json": compact(messages), "output": refined, "status": "ok", "verdict": "keep",
            "refined": refined, "reason": "", "criteria_json": "{}", "violations_json": "", "judged_as": "x",
            "second_verdict": "",
        }  # fmt: skip
        self.calls.append({**row, **fields})

    def build(self, settings: CorporaSettings, public: Path | None = None) -> Path:
        """Write the traces and build the corpora; returns their folder."""
        self.write()
        corpora.run(self.run, settings, domain=self.domain.name, seed=0, public=public)
        return self.run.path("corpora")

    def write(self) -> None:
        """Write the traces as the stages before would, each table in the order of the conversations."""
        order = [conversation.sid for conversation in self.conversations]
        turns = sorted(self.turns, key=lambda turn: order.index(turn.sid))
        tables = conversation_tables(self.conversations, turns, [])
        for name in ("conversations", "turns"):
            write_table(tables[name], self.run.path("simulate", name, "part-00000.parquet"))
        calls = sorted(self.calls, key=lambda call: order.index(call["sid"]))
        table = pa.Table.from_pylist(calls, schema=REFINED_SCHEMA)
        write_table(table, self.run.path("refine", "calls", "part-00000.parquet"))

    def figure(self, name: str) -> Any:
        """The value of a recorded figure."""
        return self.run.figures()[name].value

    def rows(self, corpus: str, split: str = "train") -> list[Row]:
        """The rows of a built corpus."""
        file = self.run.path("corpora", corpus, f"{split}.parquet")
        found: list[Row] = pq.read_table(file).to_pylist()
        return found


def learnt(row: Row) -> str:
    """What a row teaches."""
    return "".join(message["content"] for message in row["completion"])


def write_dialogues(folder: Path, count: int, *, broken: bool = False) -> Path:
    """A file of `count` dialogues that are nothing like each other, of one question and one answer each."""
    path = folder / "public.jsonl"
    lines = []
    for i in range(count):
        words = [f"{word}{i}" for word in ("alpha", "beta", "gamma", "delta", "epsilon")]
        said = [{"role": "user", "content": " ".join(words)}, {"role": "assistant", "content": " ".join(words[::-1])}]
        lines.append(json.dumps({"services": ["Words_1"], "messages": said}))
    path.write_text("\n".join([*lines, *(["{broken"] if broken else [])]))
    return path
