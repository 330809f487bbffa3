"""What of a corpus is trained on and what is masked, in colour: on the terminal and in the report.

With the tokenizer of the run's base model, rows are rendered and masked by the code that trains on them, so that the
signs of the chat template and the end of sequence are seen; without it, the messages are shown as they stand.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq

from agentmill.config import nearest
from agentmill.runs import Run, RunError

Kind = Literal["masked", "trained", "rejected"]
STYLES: dict[Kind, str] = {"masked": "bright_black", "trained": "green", "rejected": "red"}
_OPEN = "(the student writes this before a drafter learns from it)"


@dataclass(frozen=True)
class Part:
    """A piece of a row's text: masked in the loss, trained on, or the refused side of a pair."""

    kind: Kind
    text: str


@dataclass(frozen=True)
class ShownRow:
    """A row as a person reads it. `tokens` are those of each part, None where no tokenizer was at hand."""

    agent: str
    source: str
    call_id: str
    sid: str
    parts: tuple[Part, ...]
    tokens: tuple[int, ...] | None

    @property
    def longest(self) -> int:
        """Tokens of the prompt with the longest answer to it, which is what has to fit; 0 where they are not known."""
        return self.tokens[0] + max(self.tokens[1:]) if self.tokens else 0


def print_rows(run: Run, corpus: str, split: str, agent: str | None, count: int) -> None:
    """Print the first rows of a split, of one agent where it is given.

    Raises:
        RunError: when the run has no such corpus or split, or the split no row of the agent.
    """
    from rich.console import Console
    from rich.text import Text

    tokenizer = tokenizer_of(run)
    console = Console()
    legend = Text.assemble(*[(f" {kind} ", STYLES[kind]) for kind in STYLES])
    note = "" if tokenizer else "; models/base has no tokenizer here: the text without the signs of the chat template"
    console.print(Text(f"{corpus}/{split} of {run.root}{note} ").append_text(legend))
    limit = _limit(run, corpus)
    for row in rows_of(run, corpus, split, agent, count):
        shown = show(row, tokenizer)
        size = _size(shown)
        lineage = " ".join(word for word in (shown.call_id, shown.sid and f"of {shown.sid}") if word)
        console.rule(Text(f"{shown.agent} ({shown.source}) {lineage}{size}"), align="left")
        if limit and shown.longest > limit[0]:
            fate = "left out" if limit[1] == "drop" else "stops the stage"
            console.print(Text(f"{shown.longest} tokens are over {corpus}.max_length={limit[0]}: {fate}", "yellow"))
        for part in shown.parts:
            if console.color_system is None:  # a file or a plain terminal: the kinds in words
                console.print(Text(f"-- {part.kind}:"))
            console.print(Text(part.text, STYLES[part.kind]), soft_wrap=True, end="" if console.color_system else "\n")
        console.print()


def rows_of(run: Run, corpus: str, split: str, agent: str | None, count: int) -> list[dict[str, Any]]:
    """The first rows of a split, of one agent where it is given.

    Raises:
        RunError: when the run has no such corpus or split, or the split no row of the agent.
    """
    file = _file(run, corpus, split)
    found: list[dict[str, Any]] = []
    agents: set[str] = set()
    for batch in pq.ParquetFile(file).iter_batches(batch_size=256):
        for row in batch.to_pylist():
            agents.add(row["agent"])
            if agent in (None, row["agent"]):
                found.append(row)
            if len(found) == count:
                return found
    if not found:
        there = f"it has {', '.join(sorted(agents))}" if agents else "it is empty"
        raise RunError(f"{file} has no row of the agent {agent}; {there}")
    return found


def show(row: dict[str, Any], tokenizer: Any | None) -> ShownRow:
    """A row in its parts, rendered with the tokenizer's chat template where there is one."""
    prompt = row["prompt"]
    tokens: tuple[int, ...] | None = None
    if "chosen" in row:
        (before, chosen), (_, rejected) = (_sides(prompt, row[side], tokenizer) for side in ("chosen", "rejected"))
        parts = [Part("masked", before[0]), Part("trained", chosen[0] + "\n"), Part("rejected", rejected[0])]
        tokens = _counts(before, chosen, rejected)
    elif not row["completion"]:
        parts = [Part("masked", _plain(prompt)), Part("trained", _OPEN)]
    else:
        before, learnt = _sides(prompt, row["completion"], tokenizer)
        parts, tokens = [Part("masked", before[0]), Part("trained", learnt[0])], _counts(before, learnt)
    names = {name: str(row.get(name) or "") for name in ("agent", "source", "call_id", "sid")}
    return ShownRow(parts=tuple(parts), tokens=tokens, **names)


def tokenizer_of(run: Run) -> Any | None:
    """The tokenizer of the run's base model; None where it or transformers is not there."""
    folder = run.root / "models" / "base"
    if not (folder / "tokenizer.json").is_file():
        return None
    try:
        from transformers import AutoTokenizer
    except ImportError:
        return None
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


_Side = tuple[str, int | None]  # the text and how many tokens it has


def _sides(prompt: list[dict[str, str]], learnt: list[dict[str, str]], tokenizer: Any | None) -> tuple[_Side, _Side]:
    """What is masked and what is trained of a prompt and a completion."""
    if tokenizer is None:
        return (_plain(prompt), None), (_plain(learnt), None)
    from raytrain.data import tokenise_rows

    row = {"prompt": prompt, "completion": learnt, "agent": "", "source": ""}
    [(ids, start, _)] = tokenise_rows([row], tokenizer, Path("corpus"))
    masked, trained = (tokenizer.decode(part, skip_special_tokens=False) for part in (ids[:start], ids[start:]))
    return (masked, start), (trained, len(ids) - start)


def _counts(*sides: _Side) -> tuple[int, ...] | None:
    counts = tuple(count for _, count in sides if count is not None)
    return counts if len(counts) == len(sides) else None


def _limit(run: Run, corpus: str) -> tuple[int, str] | None:
    """The length that the stage of this corpus takes, and what becomes of a row over it; None without such a stage."""
    settings = run.manifest.get("config", {}).get(corpus) or {}
    return (settings["max_length"], settings["overflow"]) if {"max_length", "overflow"} <= set(settings) else None


def _size(shown: ShownRow) -> str:
    if not shown.tokens:
        return ""
    return ", " + " + ".join(f"{n} {part.kind}" for n, part in zip(shown.tokens, shown.parts, strict=True)) + " tokens"


def _plain(messages: list[dict[str, str]]) -> str:
    return "".join(f"[{message['role']}] {message['content']}\n" for message in messages)


def _file(run: Run, corpus: str, split: str) -> Path:
    folder = run.root / "corpora"
    there = [path.relative_to(folder).with_suffix("").as_posix() for path in sorted(folder.glob("*/*.parquet"))]
    shown = [name for name in there if not name.startswith("eval/")]
    if not shown:
        raise RunError(f"{run.root} has no corpora; make them with `agentmill run CONFIG --until corpora`")
    wanted = f"{corpus}/{split}"
    if wanted not in shown:
        guess = nearest(wanted, shown)
        meant = f"did you mean {guess}? " if guess else ""
        raise RunError(f"{wanted} is no split of the corpora of {run.root}; {meant}there are: {', '.join(shown)}")
    return folder / f"{wanted}.parquet"
