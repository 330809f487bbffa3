"""Practice that the shipped base was made with, as rows of a corpus: it answers them nearly without a fault."""

from random import Random
from typing import Any

from raytrain.base.tasks import sample


def practice_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """`count` rows with prompt, completion, agent and source; the same seed gives the same."""
    draw, found = Random(seed), []
    for _ in range(count):
        system, user, completion = sample(draw)
        prompt = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        answer = [{"role": "assistant", "content": completion}]
        found.append({"prompt": prompt, "completion": answer, "agent": "planner", "source": "teacher"})
    return found
