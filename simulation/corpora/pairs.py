"""Pairs for preference tuning that people make, in a file: YAML (a list, made for writing plans by hand) or JSONL.

A pair says what an agent was asked, what it said and what it should have said. `new_pairs` starts one from a recorded
call; a person writes `chosen`; `check_pairs` says what is wrong with it. Invariants: a file is taken whole or not at
all; what is taught parses, keeps the rules, runs in a fresh world and states nothing that its prompt does not hold.
"""

import asyncio
import json
from collections.abc import Iterable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from agentmill.config import ConfigError, Strict, UserError
from agentmill.domains.base import Domain
from agentmill.models.chat import AgentName, Message
from agentmill.plans.sandbox import Sandbox
from agentmill.runs import Run, RunError, digest_json
from simulation.chunks import Conversations, Deed
from simulation.corpora.dpo import differ
from simulation.corpora.rows import Candidate, assistant, lineage
from simulation.judge import TRAINABLE
from simulation.verify import Place, Verifier

HAND = "hand"
_YAML = (".yaml", ".yml")


class PairError(UserError):
    """A file of pairs that cannot be used. Every problem is named with its pair."""


class HandPair(Strict):
    """One pair. `sid` says which conversation the call is from, `world_seed` and `before` (requests, plan, switches in
    force of the turns that had changed the world) how the call found the world; `note` is for people.
    """

    agent: AgentName
    prompt: tuple[Message, ...] = Field(min_length=1)
    rejected: str = Field(min_length=1)
    chosen: str = ""
    call_id: str = ""
    sid: str = ""
    world_seed: int = 1
    before: tuple[Deed, ...] = ()
    note: str = ""

    @property
    def name(self) -> str:
        """How messages and rows call it."""
        return self.call_id or f"hand-{digest_json(self.model_dump(mode='json'))[:16]}"


def read_pairs(path: Path) -> list[HandPair]:
    """The pairs of a file.

    Raises:
        PairError: when the file cannot be read, or a pair has an unknown key, lacks one or has a wrong value.
    """
    pairs: list[HandPair] = []
    problems: list[str] = []
    for number, record in enumerate(_records(path), 1):
        try:
            pairs.append(HandPair.model_validate(record))
        except ValidationError as error:
            for found in error.errors(include_url=False):
                where = ".".join(map(str, found["loc"])) or "the pair"
                problems.append(f"pair {number}: {where}: {found['msg']}")
    if problems:
        raise PairError("\n".join(f"{path}: {problem}" for problem in problems))
    return pairs


def check_pairs(path: Path, domain: Domain) -> list[HandPair]:
    """The pairs of a file, checked: filled in, about an agent of the domain, really different, right in the world.

    Raises:
        PairError: when something is wrong with one of them; every problem is named.
    """
    pairs = read_pairs(path)
    if not pairs:
        raise PairError(f"{path}: there is no pair in it; start one with `agentmill pairs new RUN --call ID`")
    found = asyncio.run(_problems(pairs, domain))
    problems = [f"pair {number} ({pairs[number - 1].name}): {what}" for number, what in found]
    if problems:
        raise PairError("\n".join(f"{path}: {problem}" for problem in problems))
    return pairs


def hand_rows(pairs: Iterable[HandPair], run: str) -> Iterator[Candidate]:
    """Checked pairs as rows for training."""
    for pair in pairs:
        sides = {"chosen": assistant(pair.chosen), "rejected": assistant(pair.rejected)}
        origin = lineage(agent=pair.agent, call_id=pair.name, sid=pair.sid, source=HAND, run=run)
        yield Candidate({"prompt": [m.model_dump() for m in pair.prompt], **sides, **origin}, "train", HAND)


def new_pairs(run: Run, domain: Domain, calls: list[str], evaluation: str | None, count: int) -> list[HandPair]:
    """Pairs to fill in: from recorded calls by their ids, and from calls that an evaluation found wrong.

    Raises:
        RunError: when a call is not in the run, or the evaluation was not done or found nothing wrong.
    """
    made = [_from_call(run, domain, call_id) for call_id in calls]
    if evaluation is not None:
        made += _from_evaluation(run, domain, evaluation, count)
    return made


def add_pairs(path: Path, pairs: Iterable[HandPair]) -> None:
    """Add pairs to the end of a file, which is made where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        for pair in pairs:
            stream.write(_written(pair, path.suffix.lower() in _YAML))


async def _problems(pairs: list[HandPair], domain: Domain) -> list[tuple[int, str]]:
    async with Sandbox(1) as sandbox:
        verifier = Verifier(domain, sandbox)
        found = [(number, await _problem(pair, verifier)) for number, pair in enumerate(pairs, 1)]
    return [(number, what) for number, what in found if what]


async def _problem(pair: HandPair, verifier: Verifier) -> str:
    if pair.agent not in TRAINABLE:
        return f"agent={pair.agent} is not trained; the agents that are: {', '.join(TRAINABLE)}"
    if not pair.chosen.strip():
        return "chosen is empty; write what the agent should have said"
    if not differ(pair.agent, pair.chosen, pair.rejected):
        return "chosen and rejected mean the same; change chosen, or remove the pair"
    if pair.prompt[-1].role != "user":
        return f"prompt ends with a message of the {pair.prompt[-1].role}; it must end with the user's"
    place = Place(pair.world_seed, before=pair.before)
    try:
        wrong = await verifier.problem(pair.agent, pair.prompt[-1].content, pair.chosen, place)
    except ValueError as error:
        return f"prompt cannot be read as an agent's frame: {error}"
    return f"chosen: {wrong}; mend it" if wrong else ""


def _records(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise PairError(f"{path}: there is no such file; start one with `agentmill pairs new RUN --call ID`")
    text = path.read_text(encoding="utf-8")
    if path.suffix.lower() in _YAML:
        yield from _yaml_records(path, text)
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise PairError(f"{path}, line {number}: not JSON: {error.msg} at character {error.pos}") from error


def _yaml_records(path: Path, text: str) -> list[Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        records = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise PairError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if records is None:
        return []
    if not isinstance(records, list):
        raise PairError(
            f"{path}: the top level is a {type(records).__name__}; write a list of pairs, each begun by `-`"
        )
    return records


def _written(pair: HandPair, as_yaml: bool) -> str:
    """A pair as text: in YAML, texts of several lines stand as blocks."""
    value = pair.model_dump(mode="json")
    if not as_yaml:
        return json.dumps(value, ensure_ascii=False) + "\n"
    from ruamel.yaml import YAML
    from ruamel.yaml.scalarstring import walk_tree

    writer = YAML()
    writer.width = 10_000
    walk_tree(value)
    stream = StringIO()
    writer.dump([value], stream)
    return stream.getvalue()


def _from_call(run: Run, domain: Domain, call_id: str) -> HandPair:
    names = ["call_id", "sid", "turn", "agent", "messages_json", "output"]
    for folder in _call_folders(run):
        for part in sorted(folder.glob("*.parquet")):
            for row in pq.read_table(part, columns=names, filters=[("call_id", "=", call_id)]).to_pylist():
                prompt = json.loads(row["messages_json"])[:2]
                place = _place(folder.parent, domain, row["sid"], row["turn"])
                return _stub(row["agent"], call_id, row["sid"], prompt, row["output"], place)
    raise RunError(
        f"{run.root} has no call {call_id}; ids stand in simulate/calls, evaluate/*/calls and evaluate/*/agents.parquet"
    )


def _call_folders(run: Run) -> list[Path]:
    return [run.root / "simulate" / "calls", *sorted(run.root.glob("evaluate/*/calls"))]


def _from_evaluation(run: Run, domain: Domain, stage: str, count: int) -> list[HandPair]:
    file = run.root / "evaluate" / stage / "agents.parquet"
    if not file.is_file():
        there = ", ".join(sorted(path.parent.name for path in run.root.glob("evaluate/*/agents.parquet"))) or "none"
        raise RunError(f"--evaluation {stage}: {run.root} has no such evaluation; there are: {there}")
    rows = [row for row in pq.read_table(file).to_pylist() if not row["right"] and row["output"].strip()]
    if not rows:
        raise RunError(f"--evaluation {stage}: no answer of the agents was wrong; there is nothing to make a pair of")
    made = []
    for row in rows[:count]:
        sid, turn, _ = row["call_id"].rsplit("-", 2)
        place = _place(run.root / "simulate", domain, sid, int(turn))
        note = f"the judge's own answer: {row['reference']}"
        prompt = json.loads(row["prompt_json"])
        made.append(_stub(row["agent"], row["call_id"], sid, prompt, row["output"], place, note))
    return made


def _stub(
    agent: AgentName, call_id: str, sid: str, prompt: list[Any], output: str, place: Place, note: str = ""
) -> HandPair:
    try:
        return HandPair(
            agent=agent, prompt=tuple(prompt), rejected=output, call_id=call_id, sid=sid, world_seed=place.world_seed,
            before=place.before, note=note,
        )  # fmt: skip
    except ValidationError as error:
        raise ConfigError(f"call {call_id} gives no pair: {error.errors()[0]['msg']}") from error


def _place(folder: Path, domain: Domain, sid: str, turn: int) -> Place:
    """How a turn of a conversation found the world."""
    for part in sorted((folder / "conversations").glob("*.parquet")):
        if pq.read_table(part, columns=["sid"], filters=[("sid", "=", sid)]).num_rows:
            return Conversations(folder, domain).place(part.name, sid, turn)
    raise RunError(f"{folder}: conversation {sid} is not in conversations; simulate again")
