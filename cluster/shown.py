"""Figures as a person reads them, the same on the terminal, in the report and in Markdown."""

from agentmill.log import duration
from agentmill.runs import Figure


def shown(figure: Figure | None) -> str:
    """A figure as a person reads it: a rate as a percentage, seconds as a duration, counts with separators."""
    if figure is None:
        return ""
    value = figure.value
    if isinstance(value, bool | str):
        return str(value)
    if figure.interval is not None and not figure.unit and 0 <= value <= 1:
        return f"{100 * value:.1f} %"
    if figure.unit == "s":
        return duration(float(value))
    number = f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{number} {figure.unit}".strip()


def shown_interval(figure: Figure) -> str:
    """The interval in the same unit as `shown`."""
    if figure.interval is None:
        return ""
    low, high = figure.interval
    if not figure.unit and 0 <= low <= high <= 1:
        return f"{100 * low:.1f} to {100 * high:.1f} %"
    return f"{low:,.4g} to {high:,.4g}"
