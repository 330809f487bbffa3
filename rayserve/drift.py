"""Range drift: a quantised model whose inputs leave the ranges that its activation scales were calibrated for.

The ranges stand in ranges.json of the model folder: {"model.layers.0.self_attn.q_proj": largest magnitude, ...}. Here
is what the engine's replica does with them; counting itself happens in vLLM's worker (rayserve.ranges). Plain, so that
a configuration is checked without torch.
"""

import asyncio
import json
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from agentmill.errors import UserError
from rayserve.answers import ClipCount, RangeDrift

RANGES = "ranges.json"
LOOK_EVERY_S = 60.0

_log = logging.getLogger("ray.serve")  # Serve keeps this one in its replicas' log files


def checked_ranges(folder: Path, share: float) -> dict[str, float]:
    """The largest magnitude of each linear layer's inputs that the model in `folder` was calibrated for.

    Raises:
        UserError: when the folder has none, or they cannot be read.
    """
    file = folder / RANGES
    asked = f"serve.engine.sample_ranges={share:g}"
    remedy = "serve a model that the stage quantize wrote with quantize.scheme=fp8, or set sample_ranges=0"
    if not file.is_file():
        raise UserError(f"{asked} compares with the ranges of a calibrated model, and {file} is missing; {remedy}")
    try:
        ranges = {str(layer): float(limit) for layer, limit in json.loads(file.read_text(encoding="utf-8")).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{asked}: {file} is no JSON object of numbers ({error}); {remedy}") from error
    wrong = [layer for layer, limit in ranges.items() if not (math.isfinite(limit) and limit >= 0)]
    if wrong or not ranges:
        named = f"{wrong[0]}={ranges[wrong[0]]:g}, and a magnitude is 0 or more" if wrong else "no layer"
        raise UserError(f"{asked}: {file} has {named}; {remedy}")
    return ranges


def check_watched(ranges: dict[str, float], watched: Sequence[Sequence[str]]) -> None:
    """Look that the workers of the engine, together, found every layer that has a range.

    Raises:
        UserError: when some were not found.
    """
    missing = sorted(set(ranges).difference(*watched))
    if missing:
        raise UserError(
            f"serve.engine.sample_ranges: {RANGES} has {len(ranges)} layers, and {len(missing)} of them, as "
            f"{missing[0]}, are none of the engine's model; quantise this model again, or set sample_ranges=0"
        )


def gathered(workers: Sequence[dict[str, list[int]]]) -> RangeDrift:
    """What all workers of an engine counted, [clipped, all] by layer."""
    found: dict[str, ClipCount] = {}
    for counts in workers:
        for layer, (clipped, total) in counts.items():
            found[layer] = found.get(layer, ClipCount()) + ClipCount(clipped, total)
    return RangeDrift(found)


class DriftWatch:
    """Writes a warning into the replica's log when more than `bound` of what was sampled since it last looked lay
    outside; `read` gives the counts since the start. One warning for each time that it looks, at most."""

    def __init__(self, read: Callable[[], Awaitable[RangeDrift]], bound: float) -> None:
        self._read, self._bound = read, bound
        self._before = RangeDrift({})

    async def run(self) -> None:
        """Look once a minute, as long as the engine lives."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self.look()

    async def look(self) -> None:
        """Warn, if there is something to warn of."""
        now = await self._read()
        lately = now - self._before
        self._before = now
        rate, worst = lately.total.rate, lately.worst
        if rate is None or worst is None or rate <= self._bound:
            return
        _log.warning(
            "range drift: %.3g of %s sampled inputs of the linear layers lie outside the calibrated ranges, above "
            "serve.engine.max_clip_rate=%g; most in %s (%.3g); calibrate again on calls as they come now",
            *(rate, f"{lately.total.total:,}", self._bound, worst, lately.by_layer[worst].rate),
        )
