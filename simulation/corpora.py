"""The stage `corpora`: refined calls become rows that TRL trains on, with real dialogues mixed in at a chosen share.

    refine/calls (+ public dialogues) -> corpora/sft/{train,heldout,public_heldout}.parquet, README.md, samples.json

Invariants: only what the judge kept or rewrote is taught (y*); no scenario is in two splits; a held-out row's prompt
is in no training row; rows are in TRL's conversational prompt/completion form; the folder appears whole.
"""

import json
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field

from agentmill.agents.frames import parse_frame
from agentmill.config import Strict
from agentmill.domains.base import Domain, load_domain
from agentmill.log import say
from agentmill.models.chat import Message
from agentmill.plans.parse import Plan
from agentmill.runs import Run, atomic_dir, digest_json
from simulation.card import dataset_card
from simulation.judge import TRAINABLE
from simulation.public import Dialogue, PublicData, draw_exchanges, read_public, split_dialogues
from simulation.tables import SFT_SCHEMA, compact, iter_parts, prompt_of, scenarios_by_sid, write_table

_TOLD = 10
Row = dict[str, Any]


class CorporaSettings(Strict):
    """What becomes of the refined calls.

    `max_duplicates` caps rows with the same prompt and completion. `rule_verdicts` adds Evaluator rows for recorded
    plans that break a rule: the checks in code are their truth, and without them it would only ever see good plans.
    """

    max_duplicates: int = Field(3, ge=1)
    rule_verdicts: bool = True
    public_heldout_share: float = Field(0.05, ge=0.0, lt=1.0)
    public_heldout_rows: int = Field(500, ge=1)
    public_max_characters: int = Field(1200, ge=1)
    samples: int = Field(4, ge=0)


@dataclass
class Corpus:
    """The rows of both splits, and how many were left out, by reason."""

    train: list[Row] = field(default_factory=list)
    heldout: list[Row] = field(default_factory=list)
    public_heldout: list[Row] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def run(
    run: Run, settings: CorporaSettings, *, domain: str, seed: int, public: Path | None, public_share: float
) -> None:
    """Build the corpora; records `corpora.*` and `data.public.*`.

    Raises:
        PublicDataError: when `public` holds no usable dialogue.
    """
    corpus = domain_rows(run, settings, load_domain(domain))
    data = None
    if public is not None:
        data = read_public(public)
        _tell_problems(public, data)
        mix_public(corpus, data.dialogues, settings, share=public_share, seed=seed)
    random.Random(seed).shuffle(corpus.train)
    with atomic_dir(run.path("corpora")) as folder:
        write_table(pa.Table.from_pylist(corpus.train, schema=SFT_SCHEMA), folder / "sft" / "train.parquet")
        write_table(pa.Table.from_pylist(corpus.heldout, schema=SFT_SCHEMA), folder / "sft" / "heldout.parquet")
        if data is not None:
            table = pa.Table.from_pylist(corpus.public_heldout, schema=SFT_SCHEMA)
            write_table(table, folder / "sft" / "public_heldout.parquet")
        samples = json.dumps(_samples(corpus, settings.samples), indent=2, ensure_ascii=False)
        (folder / "samples.json").write_text(samples + "\n", encoding="utf-8")
        card = dataset_card(domain, counts(corpus), corpus.left_out, public=public)
        (folder / "README.md").write_text(card, encoding="utf-8")
    _record(run, corpus, data)


def domain_rows(run: Run, settings: CorporaSettings, domain: Domain) -> Corpus:
    """The rows made from this run's refined calls."""
    scenarios = scenarios_by_sid(run.path("simulate", "conversations"))
    corpus = Corpus()
    seen: Counter[str] = Counter()
    for part in iter_parts(run.path("refine", "calls")):
        for call in part.to_pylist():
            for row in _rows_of(call, settings, domain, corpus.left_out):
                split = scenarios[call["sid"]].split
                key = digest_json([row["prompt"], row["completion"]])
                seen[split + key] += 1
                if seen[split + key] > settings.max_duplicates:
                    corpus.left_out["duplicate"] += 1
                else:
                    (corpus.train if split == "train" else corpus.heldout).append(row)
    trained = {compact(row["prompt"]) for row in corpus.train}
    fresh = [row for row in corpus.heldout if compact(row["prompt"]) not in trained]
    corpus.left_out["heldout prompt in train"] += len(corpus.heldout) - len(fresh)
    corpus.heldout = fresh
    return corpus


def mix_public(
    corpus: Corpus, dialogues: list[Dialogue], settings: CorporaSettings, *, share: float, seed: int
) -> None:
    """Add real dialogues so that they are `share` of the training rows, and a held-out set of them."""
    train, heldout = split_dialogues(dialogues, settings.public_heldout_share)
    wanted = round(len(corpus.train) * share / (1.0 - share))
    limit = settings.public_max_characters
    rows = [_public_row(pair) for pair in draw_exchanges(train, wanted, max_characters=limit, seed=seed)]
    if len(rows) < wanted:
        got = len(rows) / max(1, len(rows) + len(corpus.train))
        say("corpora", f"the public file has {len(rows):,} rows where {wanted:,} are wanted: its share is {got:.1%}")
    corpus.train.extend(rows)
    drawn = draw_exchanges(heldout, settings.public_heldout_rows, max_characters=limit, seed=seed)
    corpus.public_heldout = [_public_row(pair) for pair in drawn]


def counts(corpus: Corpus) -> dict[str, int]:
    """Rows by what they are: train, heldout, public_heldout, source.<source>, agent.<agent>."""
    total: Counter[str] = Counter(
        {"train": len(corpus.train), "heldout": len(corpus.heldout), "public_heldout": len(corpus.public_heldout)}
    )
    for row in corpus.train:
        total[f"agent.{row['agent']}"] += 1
        total[f"source.{row['source']}"] += 1
    return dict(total)


def _rows_of(call: Row, settings: CorporaSettings, domain: Domain, left_out: Counter[str]) -> list[Row]:
    """The rows that one refined call gives."""
    messages = prompt_of(call["messages_json"])
    rows = []
    if call["verdict"] == "unjudged":
        left_out["unjudged"] += 1
    else:
        source = "teacher" if call["verdict"] == "keep" else "refined"
        rows.append(_row(messages, call["refined"], call["agent"], call, source))
    if settings.rule_verdicts and call["agent"] == "planner":
        verdict = _rule_verdict(messages, call, domain)
        if verdict is not None:
            rows.append(verdict)
    return rows


def _rule_verdict(messages: list[dict[str, str]], call: Row, domain: Domain) -> Row | None:
    """The Evaluator's row for a recorded plan that breaks rules of the domain and nothing else."""
    frame = messages[-1]["content"]
    domain = domain.under(domain.changed_in(parse_frame(frame)))
    codes = json.loads(call["violations_json"] or "[]")
    if not codes or not set(codes) <= {rule.code for rule in domain.rules}:
        return None
    styles = [style for style, texts in domain.prompts.items() if texts["planner"] == messages[0]["content"]]
    if not styles:
        return None
    asked = [*_state_lines(frame), f"plan: {Plan.parse(call['output']).text}"]
    prompt = [
        {"role": "system", "content": domain.prompts[styles[0]]["evaluator"]},
        {"role": "user", "content": "\n".join(asked)},
    ]
    output = compact({"ok": False, "violations": list(dict.fromkeys(codes))})
    return _row(prompt, output, "evaluator", call, "rules")


def _state_lines(frame: str) -> list[str]:
    """The lines of a Planner's frame but for the refused plan: as the Evaluator sees them above the next plan."""
    return [f"{key}: {value}" for key, value in parse_frame(frame).items() if key != "plan"]


def _row(prompt: list[dict[str, str]], completion: str, agent: str, call: Row, source: str) -> Row:
    return {
        "prompt": prompt,
        "completion": [{"role": "assistant", "content": completion}],
        "agent": agent,
        "call_id": call["call_id"],
        "sid": call["sid"],
        "source": source,
    }


def _public_row(pair: tuple[Dialogue, Message]) -> Row:
    prompt, reply = [message.model_dump() for message in pair[0]], pair[1].model_dump()
    digest = digest_json([prompt, reply])
    return {
        "prompt": prompt,
        "completion": [reply],
        "agent": "public",
        "call_id": f"public-{digest[:16]}",
        "sid": "",
        "source": "public",
    }


def _samples(corpus: Corpus, count: int) -> list[Row]:
    """The first `count` training rows of each agent and of the public data."""
    kinds = (*TRAINABLE, "public")
    return [row for kind in kinds for row in [r for r in corpus.train if r["agent"] == kind][:count]]


def _tell_problems(path: Path, data: PublicData) -> None:
    for number, problem in data.problems[:_TOLD]:
        say("corpora", f"{path}, line {number}: {problem}; skipped")
    if len(data.problems) > _TOLD:
        say("corpora", f"{path}: {len(data.problems) - _TOLD} more lines skipped")


def _record(run: Run, corpus: Corpus, data: PublicData | None) -> None:
    total = counts(corpus)
    run.forget("data.public")  # an earlier corpus may have had public data
    for name, count in sorted(total.items()):
        if name != "public_heldout" or data is not None:
            run.record(f"corpora.sft.{name}", count, unit="rows")
    for reason, count in sorted(corpus.left_out.items()):
        run.record(f"corpora.sft.left_out.{reason.replace(' ', '_')}", count, unit="rows")
    if data is not None:
        run.record("data.public.read", len(data.dialogues), unit="dialogues")
        run.record("data.public.skipped", len(data.problems), unit="lines")
        run.record("data.public.repeated", data.repeated, unit="dialogues")
        share = total.get("source.public", 0) / max(1, total["train"])
        run.record("corpora.sft.public_share", share, n=total["train"])
    agents = ", ".join(f"{agent} {total.get(f'agent.{agent}', 0):,}" for agent in (*TRAINABLE, "public"))
    say("corpora", f"{total['train']:,} training rows ({agents}), {total['heldout']:,} held out")
