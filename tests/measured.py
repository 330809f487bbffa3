"""Engine configurations as if they had been measured, at rates that a test chooses."""

from collections.abc import Mapping, Sequence

from benchmarks.replay import Sample
from benchmarks.serving import CALLS, TURNS, Cell, Configuration, Measured
from rayserve.answers import EngineCounts
from rayserve.settings import ModelEngine

ENGINE = ModelEngine(model="student")
At = tuple[int, int]


def sample(rate: float, in_flight: int = 1, texts: Sequence[str] = ("yes", "no")) -> Sample:
    """So many answers per second, each after as long as it takes at that rate."""
    return Sample(in_flight, (in_flight / rate,) * len(texts), tuple(texts), 10 * len(texts), len(texts) / rate)


def cell(
    rates: Mapping[At, float], in_flight: int = 1, counts: EngineCounts | None = None, **said: Sequence[str]
) -> Cell:
    """Replays of these rates; `texts` are their answers."""
    return Cell(
        {at: sample(rate, in_flight, **said) for at, rate in rates.items()},
        {at: counts or EngineCounts() for at in rates},
    )


def rates(*values: float, group: int = 0) -> dict[At, float]:
    """Rates of one repeat after another."""
    return {(group, repeat): value for repeat, value in enumerate(values)}


def ladder() -> Measured:
    """A ladder at 1 and 6 in flight, the teacher at 6 only, and one that is none of the paper's."""
    names = ("teacher", "bf16", "quantized", "drafted", "drafted_quantized", "combined", "five<i>")
    same_as = {"drafted": "bf16", "drafted_quantized": "quantized"}
    made = Measured([Configuration(name, ENGINE, same_as.get(name)) for name in names])
    drafts = EngineCounts(drafts=10, drafted=30, accepted=25)
    for place, name in enumerate(names):
        for c in (1, 6):
            if (name, c) != ("teacher", 1):
                all_rates = rates(*((1 + place) * c * speed for speed in (1.0, 0.8, 1.2)))
                counts = drafts if place > 2 else EngineCounts()
                texts = ("yes", "no", "no") if name == "drafted" else ("yes", "no", "yes")
                made.cells[CALLS, name, c] = cell(all_rates, c, counts, texts=texts)
    for name in ("bf16", "drafted"):
        made.cells[TURNS, name, 1] = cell(rates(2.0 if name == "bf16" else 3.0))
    return made
