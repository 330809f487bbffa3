"""How far the judge can be trusted: its agreement with outputs whose right verdict is known, and with a second judge.

    a seeded sample of recorded prompts -> the pack's gold cases (right outputs, and wrong ones with what is wrong)
      -> the judge, who is not told -> agreement, precision and recall on wrong outputs, Cohen's kappa, what was mended

Rates have Wilson intervals, kappa a bootstrap interval over cases. Invariant: a case that the judge did not decide is
counted as unjudged and never as a verdict.
"""

import asyncio
import heapq
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from agentmill.agents.frames import parse_frame
from agentmill.domains.base import Domain, GoldCase
from agentmill.log import say
from agentmill.models.chat import AgentName
from agentmill.runs import Run, digest_json
from simulation.job import JobFailed
from simulation.judge import TRAINABLE, Judge, Judged, canonical_output
from simulation.judging import RefineSettings
from simulation.metrics import Measure, compare_understanding, rate, same_plan, same_verdict
from simulation.outage import ModelDown
from simulation.tables import part_files, prompt_of
from simulation.verify import ungrounded

_RESAMPLES = 1000
_SPARE = 4  # so many prompts are drawn for each that is wanted, because many are alike


@dataclass(frozen=True)
class Seen:
    """A gold case and what the judge said of it."""

    case: GoldCase
    judged: Judged

    @property
    def decided(self) -> bool:
        return self.judged.verdict != "unjudged"

    @property
    def wrong(self) -> bool:
        """What is known: whether the output is wrong."""
        return bool(self.case.mistake)

    @property
    def found(self) -> bool:
        """What the judge said: whether the output is wrong."""
        return self.judged.verdict == "edit"


def judge_gold(run: Run, settings: RefineSettings, domain: Domain, seed: int) -> list[Seen]:
    """Let the judge decide gold cases made from this run's prompts; none where the pack has no gold.

    Raises:
        JobFailed: when the judge is away.
    """
    cases = gold_cases(run, domain, settings.gold_cases, seed) if domain.gold and settings.gold_cases else []
    if not cases:
        return []
    try:
        return asyncio.run(_judged(cases, settings, domain, seed))
    except ModelDown as down:
        raise JobFailed(
            f"refine: {down}; all calls are judged, the gold set is not; run the same command again"
        ) from down


def gold_cases(run: Run, domain: Domain, count: int, seed: int) -> list[GoldCase]:
    """About `count` cases in equal parts for each agent, from prompts that the run has recorded, each prompt once."""
    assert domain.gold is not None
    cases: list[GoldCase] = []
    each = -(-count // len(TRAINABLE))
    frames = _drawn_frames(run, each * _SPARE, seed)
    for agent in TRAINABLE:
        mine: dict[str, GoldCase] = {}
        for frame in frames[agent]:
            for case in domain.gold(agent, frame, seed):
                if len(mine) < each:
                    mine.setdefault(digest_json([frame, case.output]), case)
        cases += mine.values()
    return cases


async def _judged(cases: Sequence[GoldCase], settings: RefineSettings, domain: Domain, seed: int) -> list[Seen]:
    judge = Judge(
        domain,
        settings.guarded(settings.judge, domain),
        settings.judge,
        attempts=settings.attempts,
        max_tokens=settings.max_tokens,
    )
    free = asyncio.Semaphore(settings.in_flight)

    async def look(case: GoldCase) -> Seen:
        async with free:
            return Seen(case, await judge.judge(case.agent, case.frame, case.output, seed=seed))

    return list(await asyncio.gather(*map(look, cases)))


def _drawn_frames(run: Run, count: int, seed: int) -> Mapping[AgentName, list[str]]:
    """At most `count` recorded prompts of each agent, drawn by the digest of their call ids; memory for those only."""
    heaps: dict[AgentName, list[tuple[int, str, int, int]]] = {agent: [] for agent in TRAINABLE}
    files = {file.name: file for file in part_files(run.path("simulate", "calls"))}
    for name, file in files.items():
        parquet = pq.ParquetFile(file)
        for group in range(parquet.num_row_groups):
            rows = parquet.read_row_group(group, columns=["call_id", "agent"])
            pairs = zip(rows["call_id"].to_pylist(), rows["agent"].to_pylist(), strict=True)
            for place, (call_id, agent) in enumerate(pairs):
                if agent in heaps:
                    key = -zlib.crc32(f"{seed}:{call_id}".encode())
                    push = heapq.heappush if len(heaps[agent]) < count else heapq.heappushpop
                    push(heaps[agent], (key, name, group, place))
    return {agent: list(_frames(files, sorted(heap))) for agent, heap in heaps.items()}


def _frames(files: Mapping[str, Path], places: Sequence[tuple[int, str, int, int]]) -> Iterator[str]:
    """The prompts at these places, each once."""
    seen: set[str] = set()
    wanted: dict[tuple[str, int], list[int]] = {}
    for _, name, group, place in places:
        wanted.setdefault((name, group), []).append(place)
    for (name, group), rows in wanted.items():
        column = pq.ParquetFile(files[name]).read_row_group(group, columns=["messages_json"])["messages_json"]
        for row in rows:
            frame = prompt_of(column[row].as_py())[-1]["content"]
            if frame not in seen:
                seen.add(frame)
                yield frame


def kappa(pairs: Sequence[tuple[bool, bool]], seed: int = 0) -> Measure:
    """Cohen's kappa of two raters' yes and no, with a bootstrap interval over the pairs; 1 where they always agree."""
    if not pairs:
        return Measure(0.0, 0, (-1.0, 1.0))
    table = np.array(pairs, dtype=bool)
    picks = np.random.default_rng(seed).integers(0, len(table), size=(_RESAMPLES, len(table)))
    samples = [_kappa(table[pick]) for pick in picks]
    low, high = np.quantile(samples, [0.025, 0.975])
    return Measure(_kappa(table), len(table), (float(low), float(high)))


def _kappa(table: "np.ndarray[tuple[int, int], np.dtype[np.bool_]]") -> float:
    agreed = float((table[:, 0] == table[:, 1]).mean())
    yes = table.mean(axis=0)
    chance = float(yes[0] * yes[1] + (1 - yes[0]) * (1 - yes[1]))
    return 1.0 if chance == 1.0 else (agreed - chance) / (1.0 - chance)


def measures(seen: Sequence[Seen], domain: Domain | None = None) -> dict[str, Measure]:
    """agreement, kappa, precision and recall on wrong outputs, unjudged, and with a `domain` what was mended."""
    decided = [one for one in seen if one.decided]
    found = {
        "agreement": rate([one.wrong == one.found for one in decided]),
        "kappa": kappa([(one.wrong, one.found) for one in decided]),
        "precision": rate([one.wrong for one in decided if one.found]),
        "recall": rate([one.found for one in decided if one.wrong]),
        "unjudged": rate([not one.decided for one in seen]),
    }
    if domain is not None:
        found["mended"] = rate([_mended(one, domain) for one in decided if one.wrong and one.found])
    return found


def _mended(one: Seen, domain: Domain) -> bool:
    """Whether the judge's own text is right, up to what does not matter."""
    case, refined = one.case, one.judged.refined
    match case.agent:
        case "planner":
            return same_plan(case.right, refined)
        case "evaluator":
            return same_verdict(case.right, refined)
        case "understander":
            heard = compare_understanding(case.right, refined)
            return heard.intent and heard.exact and heard.confirmed and heard.question
        case _:
            return refined == canonical_output(case.agent, case.right) or not ungrounded(
                domain, parse_frame(case.frame), refined
            )


def record(run: Run, seen: Sequence[Seen], second: Sequence[tuple[str, str]], domain: Domain) -> None:
    """Record `refine.judge.*` and `refine.second_look.*`."""
    if seen:
        run.record("refine.judge.gold", len(seen), unit="cases")
        for name, measure in measures(seen, domain).items():
            _put(run, f"refine.judge.{name}", measure)
        for agent in TRAINABLE:
            for name, measure in measures([one for one in seen if one.case.agent == agent]).items():
                _put(run, f"refine.judge.{agent}.{name}", measure)
        for kind in sorted({one.case.mistake for one in seen if one.wrong}):
            caught = rate([one.found for one in seen if one.decided and one.case.mistake == kind])
            _put(run, f"refine.judge.recall.{kind}", caught)
        all_of = measures(seen)
        said = f"kappa {all_of['kappa'].value:.2f}, {all_of['unjudged'].value:.1%} unjudged"
        say("refine", f"on {len(seen)} gold cases the judge agrees in {all_of['agreement'].value:.1%}, {said}")
    if second:
        both = [(one == "keep", other == "keep") for one, other in second if "unjudged" not in (one, other)]
        _put(run, "refine.second_look.agreement", rate([one == other for one, other in both]))
        _put(run, "refine.second_look.kappa", kappa(both))
        _put(run, "refine.second_look.undecided", rate(["unjudged" in pair for pair in second]))


def _put(run: Run, name: str, measure: Measure) -> None:
    if measure.n:
        run.record(name, measure.value, n=measure.n, interval=measure.interval)
