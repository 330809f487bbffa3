"""The bound on what static scales clip of held-out rows: recorded, written by layer, and held against the setting."""

import json

from agentmill.errors import UserError
from agentmill.log import say
from agentmill.runs import Run, atomic_write_text
from raytrain.quantize.clip import Clipped
from raytrain.quantize.rows import STAGE
from raytrain.settings import QuantizeSettings


def check_clipped(run: Run, clipped: Clipped, settings: QuantizeSettings, prefix: str = "") -> None:
    """Record quantize.<prefix>clip_rate, by layer and agent in quantize/<prefix>clipped.json, and hold it against the
    bound.

    Raises:
        UserError: when it is above.
    """
    file, figure = run.path(STAGE, f"{prefix}clipped.json"), f"{STAGE}.{prefix}clip_rate"
    rates = {"by_layer": clipped.by_layer, "by_agent": clipped.by_group}
    told = {part: {name: some / every for name, (some, every) in counts.items()} for part, counts in rates.items()}
    atomic_write_text(file, json.dumps(told, indent=2) + "\n")
    run.record(figure, clipped.rate, n=clipped.values)
    bound = settings.max_clip_rate
    if bound is not None and clipped.rate > bound:
        raise UserError(
            f"{figure}={clipped.rate:.3g} is above quantize.max_clip_rate={bound:g}: so much of what held-out calls put"
            f" into the linear layers lies outside the ranges of the calibration rows (by layer: {file}); calibrate on "
            "more or longer rows (quantize.rows, max_length, calibration), or raise the bound (null: none)"
        )
    say(STAGE, f"{figure} {clipped.rate:.2e} over {clipped.values:,} held-out values")
