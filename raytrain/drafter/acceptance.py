"""How many drafted tokens the student accepts, by agent and place in the draft, without an engine.

The student's answers are its own greedy ones, so that a draft is accepted as far as it says what they say. At each step
of training-time test the drafter is given the true tokens before; where its guesses so far were right these are its
own, so one forward pass tells for every position how many of the tokens drafted there would be accepted. An answer is
then walked through as an engine does: draft, accept a of them, take one token of the student's, go on after it.

MGL, the mean generated length, is 1 + accepted / drafts, vLLM's own definition. What is drafted past the end of an
answer is not accepted here; vLLM counts it where it happens to agree.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from raytrain.batches import Plan, Share
from raytrain.data import Int64, TokenRows
from raytrain.drafter.model import drafter_settings
from raytrain.drafter.sources import Online, Row, Source, source_of
from raytrain.drafter.states import States, draft_inputs
from raytrain.hardware import Placement
from raytrain.job import Job
from raytrain.packing import PackedCollator, best_fit
from raytrain.settings import DrafterSettings

ACCEPTED = "accepted_at_"


def acceptance_sums(drafter: PreTrainedModel, rows: TokenRows, job: Job, share: Share) -> dict[str, torch.Tensor]:
    """For each place in a draft, `accepted_at_<place>` from 1 on: [agents, 2], drafts accepted as far as that place and
    drafts made, in the order of `sorted(set(rows.groups))`, of this rank's share of the rows."""
    import numpy as np

    names, places = sorted(set(rows.groups)), drafter_settings(job).draft_tokens
    sums = torch.zeros(places, len(names), 2, dtype=torch.float64)
    packs = best_fit(rows.lengths, np.arange(len(rows)), job.settings.tokens_per_batch)
    for row, lengths in accepted_by_row(drafter, rows, share(packs), places, source_of(job, drafter)):
        for place in range(places):
            sums[place, names.index(rows.groups[row])] += torch.tensor(
                [sum(length > place for length in lengths), len(lengths)], dtype=torch.float64
            )
    device = drafter.device
    return {f"{ACCEPTED}{place + 1}": sums[place].to(device) for place in range(places)}


def tokens_and_passes(
    drafter: PreTrainedModel, rows: TokenRows, settings: DrafterSettings, placement: Placement
) -> Int64:
    """For each row's answer, the tokens that were generated with drafts and the student's passes: [rows, 2]. Their sums
    over all rows are what `mgl` divides."""
    import numpy as np

    found = np.zeros((len(rows), 2), dtype=np.int64)
    packs, source = best_fit(rows.lengths, np.arange(len(rows)), settings.tokens_per_batch), Online(drafter, placement)
    for row, lengths in accepted_by_row(drafter, rows, packs, settings.draft_tokens, source):
        found[row] = sum(lengths) + len(lengths), len(lengths)
    return found


def mgl(measured: Mapping[str, Sequence[float]]) -> tuple[float, int]:
    """Mean generated length and the number of drafts, from {accepted_at_<place>: [accepted, drafts]}."""
    drafts = next(iter(measured.values()))[1]
    accepted = sum(total for name, (total, _) in measured.items() if name.startswith(ACCEPTED))
    return (1 + accepted / drafts if drafts else 1.0), int(drafts)


def accepted_by_row(
    drafter: PreTrainedModel, rows: TokenRows, packs: Plan, places: int, source: Source
) -> Iterator[tuple[int, list[int]]]:
    """Each row of the packs, and how many of the `places` tokens of each of its drafts were accepted."""
    packed = PackedCollator(rows, 0)
    for pack, (row, states) in zip(packs, source.each(packed.tensors(pack) for pack in packs), strict=True):
        reached = _reached(drafter, row, states, places)
        bounds = row["cu_seq_lens_q"].tolist()
        for begin, end, index in zip(bounds, bounds[1:], pack, strict=False):
            yield index, walk(reached, begin, end, begin + int(rows.starts[index]))


def guessing(row: Row, states: States) -> dict[str, Any]:
    """What the drafter is given of a packed row to guess: tensors alone, and no targets."""
    inputs = draft_inputs(row, states)
    inputs.pop("verifier_last_hidden_states")
    return inputs


@torch.no_grad()
def _reached(drafter: PreTrainedModel, row: Row, states: States, places: int) -> list[int]:
    """At each position of a packed row, how many of the `places` tokens drafted there are right in a row."""
    inputs = guessing(row, states)
    guesses = torch.cat(drafter(**inputs, ttt_steps=places))
    if drafter.d2t is not None:
        guesses = guesses + drafter.d2t[guesses]
    right = torch.zeros_like(guesses, dtype=torch.bool)  # [places, positions]
    ids = row["input_ids"][0]
    for place in range(places):
        known = len(ids) - 2 - place
        right[place, :known] = guesses[place, :known] == ids[2 + place :]
    counts: list[int] = right.cumprod(dim=0).sum(dim=0).tolist()
    return counts


def walk(reached: Sequence[int], begin: int, end: int, start: int) -> list[int]:
    """The drafts of one answer: how many tokens of each were accepted.

    The answer stands at `start` to `end` of a packed row, its document begins at `begin`; `reached[t]` says how many of
    the tokens t + 2, t + 3, ... are guessed right in a row at position t.
    """
    accepted, position = [], max(start - 1, begin)
    while position + 2 < end:
        count = min(reached[position], end - 2 - position)
        accepted.append(count)
        position += count + 1
    return accepted
