"""Documents for continued pretraining that every pack has: its services, its tools and its rules, from the tables.

Each document comes with the context that it was written from, so that a corpus can show both.
"""

from collections.abc import Iterable

from agentmill.domains.base import Intent, Json, Rule, Tool
from agentmill.domains.kit.prompts import tool_line


def document(pack: str, text: str, context: Json, source: str) -> Json:
    """One document of a pack as {"document", "context", "source"}."""
    return {"document": text, "context": context, "source": f"{pack}/{source}"}


def handbook(
    pack: str, title: str, intents: Iterable[Intent], tools: Iterable[Tool], rules: Iterable[Rule]
) -> list[Json]:
    """What the company's handbook says of its services, tools and rules."""
    rows = [document(pack, _service(title, intent), {"intent": intent.name}, "services") for intent in intents]
    rows += [document(pack, tool_line(tool), {"tool": tool.name}, "handbook") for tool in tools]
    rows += [document(pack, f"{rule.code}: {rule.description}", {"rule": rule.code}, "handbook") for rule in rules]
    return rows


def _service(title: str, intent: Intent) -> str:
    needs = f" For this we need: {', '.join(intent.required)}." if intent.required else ""
    confirm = " We ask for your confirmation before anything is changed." if intent.needs_confirmation else ""
    return f"At {title}: {intent.description}.{needs}{confirm}"
