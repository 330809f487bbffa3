"""Going on with another number of workers than a run was begun with.

A step stays what it was: the same rows, whoever computes them. The batches of each step are dealt out anew, in as many
rounds as the new number of workers needs, so that losses, learning rate and data position are those of the run that
was never resized, up to rounding. ZeRO's shards of the optimizer belong to a number of workers; DeepSpeed's universal
checkpoint puts them together and cuts them anew. What is not carried over is the random state, one a worker: with
dropout, its draws differ from there on.
"""

import shutil
from argparse import Namespace
from pathlib import Path

from raytrain.batches import Plan, spread

UNIVERSAL = "_universal"


def rounds(batches: int, workers: int) -> int:
    """How many batches each of `workers` takes for a step of this many batches."""
    return -(-batches // workers)


def redeal(plan: Plan, batches: int, workers: int) -> Plan:
    """The same steps for `workers` ranks: each step of `batches` batches has the same rows, in `rounds` a rank.

    Where a step has fewer batches than there are places, the batches with the most rows are halved; with fewer rows
    than places, some places get none.
    """
    dealt: Plan = []
    for begin in range(0, len(plan), batches):
        step = plan[begin : begin + batches]
        dealt.extend(spread(step, rounds(len(step), workers) * workers))
    return dealt


def to_universal(checkpoint: Path) -> None:
    """Put the ZeRO shards in a checkpoint of any number of workers together, beside them in the same folder.

    DeepSpeed loads the result on any number of workers when its configuration says `load_universal`. A conversion that
    was cut short is done again.
    """
    from deepspeed.checkpoint.ds_to_universal import main

    (shards,) = (path for path in checkpoint.glob("global_step*") if not path.name.endswith(UNIVERSAL))
    whole = shards.with_name(shards.name + UNIVERSAL)
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir()
    main(
        Namespace(
            input_folder=str(shards),
            output_folder=str(whole),
            num_extract_workers=1,
            num_merge_workers=1,
            keep_temp_folder=False,
            strict=True,
            inject_missing_state=True,
        )
    )
