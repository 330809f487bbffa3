"""The traces of a run, one conversation at a time: its scenario, its turns and its refined calls.

Reads simulate/{conversations,turns} and refine/calls side by side, some rows at a time. Invariants: every conversation
is given once, in the order of the files; a refined call or turn that belongs to none of them is an error, never lost.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from agentmill.agents.frames import parse_frame
from agentmill.domains.base import Scenario
from agentmill.runs import Run, RunError
from simulation.corpora.personal import Disguise, known_values
from simulation.corpora.rows import Messages, Row, Split
from simulation.corpora.settings import PersonalKind, PersonalSettings
from simulation.tables import part_files, prompt_of, require_version

_AT_ONCE = 512
_TURN = ["sid", "turn", "utterance", "reply", "status"]
_CONVERSATION = ["sid", "scenario_json", "status", "success", "user_errors_json"]


@dataclass(frozen=True)
class Talk:
    """One conversation. `calls` are rows of refine/calls, their first two messages in `messages`.

    `user_error` says that the customer's simulator did something wrong in it.
    """

    sid: str
    scenario: Scenario
    status: str
    success: bool
    turns: Sequence[Row]
    calls: Sequence[Row]
    user_error: bool

    @property
    def split(self) -> Split:
        return self.scenario.split


class Traces:
    """The conversations of a run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.calls = sum(pq.read_metadata(path).num_rows for path in part_files(run.path("refine", "calls")))

    def talks(self) -> Iterator[Talk]:
        """Every conversation.

        Raises:
            RunError: when the files of calls or turns do not follow the order of the conversations.
        """
        calls = _BySid(self._run.path("refine", "calls"), None)
        turns = _BySid(self._run.path("simulate", "turns"), _TURN)
        folder = self._run.path("simulate", "conversations")
        for row in _rows(folder, _CONVERSATION):
            scenario = Scenario.model_validate_json(row["scenario_json"])
            yield Talk(
                sid=row["sid"],
                scenario=scenario,
                status=row["status"],
                success=row["success"],
                turns=turns.of(row["sid"]),
                calls=[_with_messages(call) for call in calls.of(row["sid"])],
                user_error=bool(json.loads(row["user_errors_json"])),
            )
        calls.require_end()
        turns.require_end()


def heldout_sids(run: Run) -> set[str]:
    """The conversations that are held out."""
    rows = _rows(run.path("simulate", "conversations"), ["sid", "split"])
    return {row["sid"] for row in rows if row["split"] == "heldout"}


def disguised(talk: Talk, disguise: Disguise, settings: PersonalSettings) -> Talk:
    """The same conversation with personal data replaced in every utterance, prompt, output and reply."""
    known = [pair for call in talk.calls for pair in _known(call, settings)]
    for goal in talk.scenario.goals:
        known += known_values(goal.slots, settings.entities)
    known += known_values(talk.scenario.profile, settings.entities)
    texts = [turn[name] for turn in talk.turns for name in ("utterance", "reply")]
    for call in talk.calls:
        texts += [*(message["content"] for message in call["messages"]), call["output"], call["refined"]]
    left = iter(disguise.texts(talk.sid, texts, known))
    turns = [{**turn, "utterance": next(left), "reply": next(left)} for turn in talk.turns]
    calls = []
    for call in talk.calls:
        messages = [{**message, "content": next(left)} for message in call["messages"]]
        calls.append({**call, "messages": messages, "output": next(left), "refined": next(left)})
    return replace(talk, turns=turns, calls=calls)


def _known(call: Row, settings: PersonalSettings) -> list[tuple[PersonalKind, str]]:
    """The personal values that a call's frame and an understanding name."""
    fields: dict[str, Any] = dict(parse_frame(call["messages"][-1]["content"]))
    for name in ("results", "memory", "entities"):
        fields[name] = _read(fields.get(name, ""))
    if call["agent"] == "understander":
        fields["heard"] = _read(call["refined"] or call["output"])
    return known_values(fields, settings.entities)


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None


def _with_messages(call: Row) -> Row:
    messages: Messages = prompt_of(call["messages_json"])
    return {**{name: value for name, value in call.items() if name != "messages_json"}, "messages": messages}


class _BySid:
    """The rows of a folder by conversation, as they come."""

    def __init__(self, folder: Path, columns: list[str] | None) -> None:
        self._folder = folder
        self._groups = ((sid, list(rows)) for sid, rows in groupby(_rows(folder, columns), lambda row: row["sid"]))
        self._next = next(self._groups, None)

    def of(self, sid: str) -> list[Row]:
        """The rows of the next conversation; none where it has none."""
        if self._next is None or self._next[0] != sid:
            return []
        rows = self._next[1]
        self._next = next(self._groups, None)
        return rows

    def require_end(self) -> None:
        if self._next is not None:
            raise RunError(
                f"{self._folder}: the rows of conversation {self._next[0]} stand where no conversation has them; "
                "run the stage that makes them again"
            )


def _rows(folder: Path, columns: list[str] | None) -> Iterator[Row]:
    for path in part_files(folder):
        file = pq.ParquetFile(path)
        require_version(path, file.schema_arrow)
        for batch in file.iter_batches(batch_size=_AT_ONCE, columns=columns):
            yield from batch.to_pylist()
