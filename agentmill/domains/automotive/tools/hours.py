"""The opening hours as the tools see them."""

from agentmill.domains.automotive.seed import Hours
from agentmill.domains.automotive.world import AutomotiveWorld
from agentmill.domains.base import Json, ToolError


def hours_of(world: AutomotiveWorld, day: str) -> Hours:
    """The opening hours of a day of the week.

    Raises:
        ToolError: for what is no day.
    """
    hours: Json = world.facts()["hours"]
    if day not in hours:
        raise ToolError(f"day={day!r} is no day of the week; use one of {', '.join(hours)}")
    opens, closes = hours[day] or (None, None)
    return Hours(day, opens, closes)
