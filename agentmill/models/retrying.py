"""When a request is made again, and how long to wait before: exponential backoff with jitter, or what the server says.

Invariant: two clients that were refused at the same moment do not come back at the same moment.
"""

import random
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

FIRST_DELAY_S, LONGEST_DELAY_S = 0.5, 8.0
LONGEST_RETRY_AFTER_S = 60.0  # a server that asks for more is asked again all the same: the retries are bounded
_OVERLOADED = frozenset({408, 429, 503, 504})


def retryable(status: int) -> bool:
    """Whether a request that was answered with this HTTP status may be answered otherwise the next time."""
    return status in (408, 409, 429) or status >= 500


def overloaded(status: int) -> bool:
    """Whether this HTTP status says that the server has too much to do."""
    return status in _OVERLOADED


def delay_s(attempt: int, headers: Mapping[str, str]) -> float:
    """Seconds to wait after the failed attempt number `attempt` (from 0), answered with `headers`.

    What the server asks for (`retry-after-ms`, `Retry-After` in seconds or as a date) counts; up to a quarter is added
    to it, so that those who were sent away together do not return together.
    """
    asked = _asked_s(headers)
    if asked is not None:
        return min(asked, LONGEST_RETRY_AFTER_S) * random.uniform(1.0, 1.25)
    return min(FIRST_DELAY_S * 2**attempt, LONGEST_DELAY_S) * random.uniform(0.5, 1.0)


def _asked_s(headers: Mapping[str, str]) -> float | None:
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        if "retry-after" not in headers:
            return None
        value = headers["retry-after"]
        if value.replace(".", "", 1).isdigit():
            return float(value)
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None
