"""What a plan can call: typed keyword-only functions over the world, each returning compact JSON.

An answer that is no error ("taken", "not found") is a value; what a plan's checks should have prevented raises
ToolError, which undoes the whole plan. A key of a result that has an entity's name (`stock`, `day`) is remembered.
"""

from agentmill.domains.automotive.tools import drives, house, inventory, money, orders, workshop
from agentmill.domains.automotive.tools.inventory import MAX_FOUND as MAX_FOUND
from agentmill.domains.base import Tool

TOOLS: dict[str, Tool] = {
    item.name: item
    for group in (inventory.TOOLS, drives.TOOLS, house.TOOLS, money.TOOLS, workshop.TOOLS, orders.TOOLS)
    for item in group
}
