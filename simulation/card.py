"""The dataset card of an SFT corpus: what is in it, where it comes from, what was left out, in Markdown."""

from collections.abc import Mapping
from pathlib import Path


def dataset_card(
    domain: str,
    counts: Mapping[str, int],
    left_out: Mapping[str, int],
    *,
    public: Path | None,
) -> str:
    """The text of corpora/README.md."""
    rows = [f"| {name} | {counts[name]:,} |" for name in sorted(counts)]
    dropped = [f"| {reason} | {count:,} |" for reason, count in sorted(left_out.items())] or ["| nothing | 0 |"]
    origin = (
        f"Real dialogues come from `{public.name}`; its licence holds for them." if public else "No real dialogues."
    )
    return "\n".join(
        [
            f"# SFT corpus of the domain {domain}",
            "",
            "Rows of agents' calls in TRL's conversational form: `prompt` (list of role and content), `completion`",
            "(one assistant message), `agent`, `call_id`, `sid` (the conversation) and `source`.",
            "",
            "Sources: `teacher` (the judge kept the teacher's output), `refined` (the judge rewrote it), `rules` (a",
            "recorded plan with the verdict of the checks in code), `public` (a reply in a real dialogue).",
            f"Calls that the judge could not judge are not in it. {origin}",
            "",
            "| rows | count |",
            "|---|---|",
            *rows,
            "",
            "## Splits",
            "`train` and `heldout` are divided by scenario; their worlds, names and numbers differ too. A held-out row",
            "whose prompt is also a training row's was left out. `public_heldout` holds other dialogues than `train`.",
            "",
            "## Left out",
            "| reason | rows |",
            "|---|---|",
            *dropped,
            "",
        ]
    )
