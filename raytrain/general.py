"""What a stage should not unlearn: held-out general work on text that no corpus of a run has anything of.

The rows are practice of the shipped base's generator (made-up venues, extraction, small tables) under a seed that the
base was never trained with, in the chat template of whatever model is looked at. Their loss beside the domain's shows
what a stage costs elsewhere.
"""

from pathlib import Path
from random import Random
from typing import Any

from raytrain.base.tasks import sample
from raytrain.data import Int32, TokenRows, join, tokenise_rows

SEED = 2_000_003
GROUP = "general"


def general_rows(tokenizer: Any, count: int, max_length: int) -> TokenRows:
    """`count` rows of at most `max_length` tokens, the same for every run with this tokenizer."""
    rng, kept = Random(SEED), list[tuple[Int32, int, str]]()
    while len(kept) < count:
        messages = [_row(*sample(rng)) for _ in range(count)]
        kept += [row for row in tokenise_rows(messages, tokenizer, Path(GROUP)) if len(row[0]) <= max_length]
    return join(kept[:count])


def _row(system: str, user: str, completion: str) -> dict[str, Any]:
    prompt = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    return {
        "prompt": prompt,
        "completion": [{"role": "assistant", "content": completion}],
        "agent": GROUP,
        "source": GROUP,
    }
