"""What the scenarios of a simulation cover, and how much of what the customers say is said once: figures and a file.

In go the finished conversations and turns, part by part in the order of the scenarios; out come the figures
`simulate.coverage.*` and `simulate.diversity.*` and `simulate/coverage.json`, which the report shows. A cell (intent,
persona, difficulty, switch) is covered when a scenario of that persona, difficulty and switch has a goal of that
intent. Memory does not grow with the run: cells are counted, and utterances are compared by 64-bit digests among the
first `SAMPLE`, and the first `PERSONA_SAMPLE` of each persona. Distinct n-grams become fewer the longer one looks, so
shares of samples of different sizes cannot be compared; each stands beside its n.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, NamedTuple

from agentmill.domains.base import Domain, Json, Scenario
from agentmill.domains.coverage import AXES, Cell, Coverage
from agentmill.log import say
from agentmill.runs import Run, atomic_write_text
from simulation.tables import iter_parts

SAMPLE, PERSONA_SAMPLE = 10_000, 2_000
NAMED_CELLS = 200
_TOLD = 5  # missing pairs named on the terminal; all of them stand in coverage.json and the report
LONGEST = 3
FILE = ("simulate", "coverage.json")
_WORD = re.compile(r"[\w$%]+(?:['’.,:-]\w+)*")


class Said(NamedTuple):
    """One utterance of a simulated customer; `opening` where it begins a conversation."""

    persona: str
    opening: bool
    text: str


@dataclass
class Diversity:
    """Utterances and their n-grams, compared up to case and punctuation; the first `limit` count."""

    limit: int
    utterances: int = 0
    openings: int = 0
    repeated: int = 0
    openings_repeated: int = 0
    ngrams: Counter[int] = field(default_factory=Counter)  # by length, repetitions included
    _seen: set[int] = field(default_factory=set)
    _openings: set[int] = field(default_factory=set)
    _ngrams: dict[int, set[int]] = field(default_factory=lambda: {n: set() for n in range(1, LONGEST + 1)})

    def add(self, said: Said) -> None:
        """Take an utterance in, unless there are enough."""
        if self.utterances >= self.limit:
            return
        words = _WORD.findall(said.text.casefold())
        whole = _digest(words)
        self.utterances += 1
        self.repeated += whole in self._seen
        self._seen.add(whole)
        if said.opening:
            self.openings += 1
            self.openings_repeated += whole in self._openings
            self._openings.add(whole)
        for length, seen in self._ngrams.items():
            for start in range(len(words) - length + 1):
                self.ngrams[length] += 1
                seen.add(_digest(words[start : start + length]))

    def shares(self) -> dict[str, tuple[float, int]]:
        """Name -> (share, n): distinct n-grams, utterances that were said before, openings that were."""
        found = {f"distinct_{n}": (len(seen), self.ngrams[n]) for n, seen in self._ngrams.items()}
        found["duplicates"] = (self.repeated, self.utterances)
        found["openings_repeated"] = (self.openings_repeated, self.openings)
        return {name: (count / n if n else 0.0, n) for name, (count, n) in found.items()}


def _digest(words: Sequence[str]) -> int:
    return int.from_bytes(hashlib.blake2b(" ".join(words).encode(), digest_size=8).digest())


class Covered:
    """The cells that scenarios were in, counted, against those that a pack can reach."""

    def __init__(self, coverage: Coverage) -> None:
        self.coverage = coverage
        self.counts: Counter[Cell] = Counter()

    def add(self, scenario: Scenario) -> None:
        """Count a scenario in each of its cells."""
        self.counts.update(set(self.coverage.covered(scenario)))

    def of(self, *axes: int) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
        """The reachable combinations of some axes, and those of them that no scenario is in."""
        possible = list(dict.fromkeys(tuple(cell[axis] for axis in axes) for cell in self.coverage.cells))
        there = {tuple(cell[axis] for axis in axes) for cell in self.counts}
        return possible, [values for values in possible if values not in there]

    def table(self) -> Json:
        """Scenarios by intent and persona; None where the two do not go together, with the reason in `gaps`."""
        seen = dict.fromkeys((*self.coverage.personas, *sorted({cell.persona for cell in self.counts})))
        reachable = {cell[:2] for cell in self.coverage.cells}
        counts: Counter[tuple[str, str]] = Counter()
        for cell, count in self.counts.items():
            counts[cell[:2]] += count

        def shown(intent: str, persona: str) -> int | None:
            open_to_all = persona not in self.coverage.personas
            return counts[intent, persona] if open_to_all or (intent, persona) in reachable else None

        rows = [{"intent": name, "counts": [shown(name, each) for each in seen]} for name in self.coverage.intents]
        return {"personas": list(seen), "rows": rows}


def record_coverage(run: Run, pack: Domain) -> None:
    """Record what the finished conversations of a run cover and how diverse they are; a pack without axes has none."""
    found: Json = {"diversity": _record_diversity(run, utterances(run))}
    if pack.coverage is not None:
        covered = Covered(pack.coverage)
        for scenario in scenarios(run):
            covered.add(scenario)
        found |= _record_cells(run, covered)
    atomic_write_text(run.path(*FILE), json.dumps(found, indent=1))


def read_coverage(run: Run) -> Json | None:
    """What `record_coverage` wrote, None where it has not."""
    file = run.root.joinpath(*FILE)
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def scenarios(run: Run) -> Iterator[Scenario]:
    """The scenarios that were played, in order, a part in memory at a time."""
    for part in iter_parts(run.path("simulate", "conversations"), ["scenario_json"]):
        for text in part["scenario_json"].to_pylist():
            yield Scenario.model_validate_json(text)


def utterances(run: Run) -> Iterator[Said]:
    """What the customers said, in order: turns stand in the order of their conversations."""
    personas = _personas(run)
    sid, persona = "", ""
    for part in iter_parts(run.path("simulate", "turns"), ["sid", "turn", "utterance"]):
        for row in part.to_pylist():
            while sid != row["sid"]:
                sid, persona = next(personas)
            yield Said(persona, row["turn"] == 0, row["utterance"])


def _personas(run: Run) -> Iterator[tuple[str, str]]:
    for part in iter_parts(run.path("simulate", "conversations"), ["sid", "scenario_json"]):
        for row in part.to_pylist():
            yield row["sid"], json.loads(row["scenario_json"])["persona"]


def _record_cells(run: Run, covered: Covered) -> Json:
    pairs: list[Json] = []
    for first, second in combinations(range(len(AXES)), 2):
        possible, missing = covered.of(first, second)
        name = f"{AXES[first]}_{AXES[second]}"
        run.record(f"simulate.coverage.{name}", 1 - len(missing) / len(possible), n=len(possible))
        pairs.append({"axes": [AXES[first], AXES[second]], "possible": len(possible), "missing": missing})
    possible, missing = covered.of(*range(len(AXES)))
    run.record("simulate.coverage.cells", 1 - len(missing) / len(possible), n=len(possible))
    told = f"{len(possible) - len(missing):,} of {len(possible):,} cells of {' x '.join(AXES)} are covered"
    of_pairs = [" x ".join(values) for values in pairs[0]["missing"]]
    named = ", ".join(of_pairs[:_TOLD]) + (f" and {len(of_pairs) - _TOLD} more" if len(of_pairs) > _TOLD else "")
    say("simulate", f"{told}; missing of intent x persona: {named or 'none'}")
    gaps = [gap.told() for gap in covered.coverage.gaps]
    cells = {"possible": len(possible), "covered": len(possible) - len(missing), "missing": missing[:NAMED_CELLS]}
    return {"pairs": pairs, "cells": cells, "table": covered.table(), "gaps": gaps}


def _record_diversity(run: Run, said: Iterable[Said]) -> list[Json]:
    """One row for all customers, whose shares are figures, and one for each persona."""
    everyone = Diversity(SAMPLE)
    personas: dict[str, Diversity] = {}
    for each in said:
        everyone.add(each)
        personas.setdefault(each.persona, Diversity(PERSONA_SAMPLE)).add(each)
    for name, (share, n) in everyone.shares().items():
        run.record(f"simulate.diversity.{name}", round(share, 4), n=n)
    return [_row("all", everyone), *(_row(name, personas[name]) for name in sorted(personas))]


def _row(persona: str, diversity: Diversity) -> dict[str, Any]:
    shares = {name: round(share, 4) for name, (share, _) in diversity.shares().items()}
    return {"persona": persona, "utterances": diversity.utterances, **shares}
