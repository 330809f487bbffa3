"""The stage itself: one pass over the traces and one over the real dialogues feed every corpus; then each is finished.

    Traces -> Talk -+-> sft, drafter, calibration (rows of calls)      public dialogues -+-> sft, drafter, calibration
                    +-> dpo (judged pairs)   <- pairs made by hand                       +-> cpt
                    +-> cpt (dialogues)      <- the pack's documents
                    +-> eval (held-out scenarios)

Invariants: the folder appears whole; a conversation whose simulated customer went wrong is in no corpus; one that a
pair made by hand trains on is in no held-out split any more.
"""

import shutil
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from agentmill.domains.base import Domain, load_domain
from agentmill.log import duration, progress, say
from agentmill.runs import Run, atomic_dir, atomic_write_text
from simulation.corpora.calibration import Calibration
from simulation.corpora.card import Contents, dataset_card
from simulation.corpora.contexts import ContextWriter
from simulation.corpora.cpt import CptCorpus, dialogue_text, document_texts, public_text
from simulation.corpora.dpo import dpo_rows
from simulation.corpora.drafter import drafter_row
from simulation.corpora.figures import record, tell
from simulation.corpora.heldout import Heldout
from simulation.corpora.pairs import HandPair, check_pairs, hand_rows
from simulation.corpora.personal import Disguise
from simulation.corpora.public import PublicTally, disguised_dialogue, public_rows, public_split, read_public
from simulation.corpora.rows import SPLITS, Candidate
from simulation.corpora.settings import CorporaSettings
from simulation.corpora.sft import sft_rows
from simulation.corpora.sieve import Sieve, Sieved
from simulation.corpora.spill import buckets_for
from simulation.corpora.traces import Talk, Traces, disguised
from simulation.models import build_model

SCRATCH = ".scratch"


def run(run: Run, settings: CorporaSettings, *, domain: str, seed: int, public: Path | None = None) -> None:
    """Build the corpora; records `corpora.*` and `data.public.*`.

    Raises:
        PublicDataError: when `public` holds no usable dialogue.
        PairError: when a pair made by hand cannot be used.
    """
    began = time.monotonic()
    pack = load_domain(domain)
    pairs = check_pairs(settings.dpo.hand, pack) if settings.dpo.hand else []
    with atomic_dir(run.path("corpora")) as folder:
        corpora = _Corpora(run, settings, pack, seed, folder, pairs)
        try:
            corpora.take_traces()
            if public is not None:
                corpora.take_public(public)
            built = corpora.finish()
        finally:
            corpora.close()
        shutil.rmtree(folder / SCRATCH)
        contents = corpora.contents(built, public)
        atomic_write_text(folder / "README.md", dataset_card(contents))
    record(run, contents, built, corpora.tally)
    tell(built, corpora.tally, public)
    run.record("corpora.seconds", round(time.monotonic() - began, 3), unit="s")
    say("corpora", f"{sum(rows for _, _, rows in contents.files):,} rows in {duration(time.monotonic() - began)}")


@dataclass
class Built:
    """What came of it: each sieved corpus, rows by length of the calibration sets, held-out conversations."""

    sieved: dict[str, Sieved]
    calibration: dict[str, dict[str, int]]
    heldout: int
    skipped: Counter[str] = field(default_factory=Counter)
    personal: Counter[str] = field(default_factory=Counter)
    contexts: tuple[int, int] | None = None


class _Corpora:
    """All corpora in the making."""

    def __init__(
        self, run: Run, settings: CorporaSettings, domain: Domain, seed: int, folder: Path, pairs: list[HandPair]
    ) -> None:
        self.tally: PublicTally | None = None
        self._run = run
        self._settings = settings
        self._domain = domain
        self._folder = folder
        self._pairs = pairs
        self._skipped: Counter[str] = Counter()
        self._left_out: dict[str, Counter[str]] = {name: Counter() for name in ("cpt", "sft", "dpo")}
        self._disguise = Disguise(settings.personal, seed)
        self._traces = Traces(run)
        buckets = buckets_for(self._traces.calls, settings.bucket_rows)
        self._sieves = {name: self._sieve(name, buckets, seed) for name in ("sft", "cpt", "dpo", "drafter")}
        self._calibration = Calibration(settings.calibration, settings.mixture, seed)
        self._heldout = Heldout(folder / "eval", run.name)
        self._writer = None
        if settings.cpt.context == "model":
            model = build_model(settings.cpt.model, domain)
            self._writer = ContextWriter(model, settings.cpt.model, seed)
        self._cpt = CptCorpus(self._sieves["cpt"], settings.cpt, self._writer, run.name)

    def take_traces(self) -> None:
        """Everything that the run itself gives: the traces, the pack's documents and the pairs made by hand."""
        trained = {pair.sid for pair in self._pairs}
        with progress("corpora", self._traces.calls, "calls") as bar:
            for talk in self._traces.talks():
                why = "user error" if talk.user_error else ""
                if talk.split == "heldout" and talk.sid in trained:
                    why = "a pair made by hand trains on it"
                if why:
                    self._skipped[why] += 1
                else:
                    self._take(talk)
                bar.advance(len(talk.calls))
        for text in document_texts(self._domain):
            self._cpt.add(text)
        for candidate in hand_rows(self._pairs, self._run.name):
            self._sieves["dpo"].add(candidate)

    def take_public(self, path: Path) -> None:
        """The real dialogues."""
        settings = self._settings
        self.tally = PublicTally()
        for dialogue in read_public(path, self.tally):
            split = public_split(dialogue, settings.public_heldout_share)
            shown = disguised_dialogue(dialogue, self._disguise) if settings.personal.public else dialogue
            self._cpt.add(public_text(shown, split))
            for candidate in public_rows(shown, split, self._run.name, max_characters=settings.public_max_characters):
                self._take_row(candidate)

    def finish(self) -> Built:
        """Write every corpus."""
        self._cpt.flush()
        sieved = {name: sieve.finish() for name, sieve in self._sieves.items()}
        for name, left_out in self._left_out.items():
            sieved[name].left_out += left_out
        sieved["cpt"].left_out += self._cpt.left_out
        return Built(
            sieved=sieved,
            calibration=self._calibration.write(self._folder / "calibration"),
            heldout=self._heldout.count,
            skipped=self._skipped,
            personal=self._disguise.counts,
            contexts=(self._writer.asked, self._writer.failures) if self._writer else None,
        )

    def close(self) -> None:
        """Close what is open, however the stage ended."""
        self._heldout.close()
        for sieve in self._sieves.values():
            sieve.close()
        if self._writer:
            self._writer.close()

    def contents(self, built: Built, public: Path | None) -> Contents:
        """What the card states."""
        files: list[tuple[str, str, int]] = [
            (name, s, found.rows[s]) for name, found in built.sieved.items() for s in SPLITS if s in found.rows
        ]
        files += [("calibration", name, sum(rows.values())) for name, rows in built.calibration.items()]
        files.append(("eval", "heldout", built.heldout))
        return Contents(self._domain.name, self._run.name, built.sieved, files, built.personal, public, built.skipped)

    def _take(self, talk: Talk) -> None:
        """Give a conversation to every corpus."""
        self._heldout.add(talk)
        settings = self._settings
        shown = disguised(talk, self._disguise, settings.personal) if settings.personal.traces else talk
        out = self._left_out
        found = sft_rows(shown, self._domain, self._run.name, rule_verdicts=settings.rule_verdicts, left_out=out["sft"])
        for candidate in found:
            self._take_row(candidate)
        for pair in dpo_rows(shown, self._run.name, out["dpo"]):
            self._sieves["dpo"].add(pair)
        text = dialogue_text(shown, self._domain, out["cpt"])
        if text is not None:
            self._cpt.add(text)

    def _take_row(self, candidate: Candidate) -> None:
        self._sieves["sft"].add(candidate)
        self._sieves["drafter"].add(drafter_row(candidate))
        self._calibration.add(candidate)

    def _sieve(self, name: str, buckets: int, seed: int) -> Sieve:
        shares = getattr(self._settings.mixture, name)
        scratch = self._folder / SCRATCH / name
        most = 1 if name == "drafter" else None
        return Sieve(
            name, shares, self._settings, folder=self._folder / name, scratch=scratch, buckets=buckets, seed=seed,
            max_duplicates=most,
        )  # fmt: skip
