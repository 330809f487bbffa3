"""The dataset card: what the corpora are, how many rows each has, where they come from, and how to load them.

Its front matter names every corpus and its files, so that `datasets.load_dataset(FOLDER, "sft")` finds them.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from simulation.corpora.sieve import Sieved

WHAT = {
    "sft": "Y_SFT: an agent's prompt and what it should say, as the judge left it (`prompt`, `completion`).",
    "cpt": "X_CPT: a text with its context C_x: `prompt` is the context, `completion` the text. The loss counts the "
    "text alone.",
    "dpo": "Z_DPO: `prompt`, `chosen` (y*) and `rejected` (y), where the two really differ.",
    "drafter": "Prompts for the student: it fills `completion` itself before a drafter learns from it (`status` is "
    "`open` until then).",
    "calibration": "Rows for quantisation, evenly over lengths: `in_domain`, `public` and `mixed`.",
    "eval": "The held-out scenarios by conversation (`sid`), each with its cell of the coverage.",
}
_SOURCES = (
    "`teacher` (the judge kept the teacher's output), `refined` (the judge rewrote it), `rules` (a recorded plan with "
    "the verdict of the checks in code), `judge` (a pair of the judge's), `hand` (a pair that a person made), "
    "`dialogue` (a whole conversation), `public` (a real dialogue); a document has its own."
)


@dataclass
class Contents:
    """What the card states. `files` are (corpus, split, rows) in the order in which they are shown."""

    domain: str
    run: str
    sieved: Mapping[str, Sieved]
    files: list[tuple[str, str, int]]
    personal: Counter[str] = field(default_factory=Counter)
    public: Path | None = None
    skipped: Counter[str] = field(default_factory=Counter)


def dataset_card(contents: Contents) -> str:
    """The text of corpora/README.md."""
    lines = [*_front_matter(contents), f"# Corpora of the domain {contents.domain}", ""]
    lines += [
        f"Made by agentmill from the traces of the run `{contents.run}`. Load one with",
        '`datasets.load_dataset(FOLDER, "sft", split="train")`, where FOLDER is the folder of this card.',
        "",
        "| corpus | split | rows |",
        "|---|---|---|",
        *[f"| {corpus} | {split} | {rows:,} |" for corpus, split, rows in contents.files],
        "",
    ]
    for corpus, what in WHAT.items():
        lines += [f"## {corpus}", what, ""]
        if corpus in contents.sieved:
            lines += _section(contents.sieved[corpus])
    lines += [*_lineage(), *_origin(contents)]
    return "\n".join(lines)


def _front_matter(contents: Contents) -> list[str]:
    lines = ["---", "configs:"]
    for corpus in dict.fromkeys(corpus for corpus, _, rows in contents.files if rows):
        lines.append(f"- config_name: {corpus}")
        lines += ["  default: true"] if corpus == "sft" else []
        lines.append("  data_files:")
        for name, split, rows in contents.files:
            if name == corpus and rows:
                lines += [f"  - split: {split}", f"    path: {corpus}/{split}.parquet"]
    return [*lines, "---", ""]


def _section(found: Sieved) -> list[str]:
    lines: list[str] = []
    if found.shares:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in sorted(found.shares.items()))
        lines += [f"Training rows by origin: {shares}.", ""]
    for title, counts in (("agent", found.agents), ("source", found.sources), ("left out", found.left_out)):
        if counts:
            rows = [f"| {name} | {count:,} |" for name, count in sorted(counts.items())]
            lines += [f"| {title} | rows |", "|---|---|", *rows, ""]
    return lines


def _lineage() -> list[str]:
    return [
        "## Lineage and splits",
        "Every row names the call that it was made from (`call_id`), the conversation (`sid`), the `source` and the",
        f"`run`. Sources: {_SOURCES}",
        "",
        "`train` and `heldout` are divided by scenario; their worlds, names and numbers differ too. A held-out row",
        "whose prompt is that of a training row, or near to one, was left out. `public_heldout` holds other dialogues",
        "than `train`. What the judge could not judge is in no corpus.",
        "",
    ]


def _origin(contents: Contents) -> list[str]:
    lines = ["## Licence and personal data"]
    if contents.public is None:
        lines.append("There are no real dialogues in it: its texts were made by the simulation.")
    else:
        lines.append(
            f"Real dialogues come from `{contents.public.name}`. The licence of that file holds for them: name its "
            "authors where you pass these corpora on, and look whether you may."
        )
    if contents.personal:
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(contents.personal.items()))
        lines.append(f"Personal data that was replaced by made-up values (distinct in each conversation): {kinds}.")
    if contents.skipped:
        lines += ["", "| conversations left out | count |", "|---|---|"]
        lines += [f"| {why} | {count:,} |" for why, count in sorted(contents.skipped.items())]
    return [*lines, ""]
