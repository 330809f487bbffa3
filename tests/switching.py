"""The made-up library of `tests.fakes` with a switch of every kind that the core tells apart."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from agentmill.domains.base import Domain, Intent, Json, Rule, Tool, ToolError, tool
from agentmill.domains.switching import Switch
from tests.fakes import Library, library


def _lost(world: Library, title: str) -> None:
    if world.connection.execute("UPDATE books SET copies = copies - 1 WHERE title = ?", (title,)).rowcount != 1:
        raise ToolError(f"there is no book {title}")


@tool(changes=True)
def lend_book(world: Library, *, title: str, reader: str, shelf: int) -> Json:
    """Lend a copy from a shelf."""
    world.connection.execute("INSERT INTO loans VALUES (?, ?)", (title, f"{reader} from {shelf}"))
    return {"lent": title}


def _never(tools: Mapping[str, Tool], intents: Mapping[str, Intent]) -> Sequence[Rule]:
    def broken(plan: Any, state: Any, facts: Json) -> str | None:
        called = any(call.tool == "find_book" for call in plan.calls)
        return "Leave out find_book, and call lend_book alone." if called else None

    return (Rule("NO_LOOK", "Nothing is looked up with find_book.", broken),)


SWITCHES = {
    switch.name: switch
    for switch in (
        Switch("copy_lost", "stock", "A copy of {value} is lost.", _lost),
        Switch("loans_renamed", "rename", "lend_book is called hand_out.", renames={"lend_book": "hand_out"}),
        Switch(
            "from_a_shelf", "argument", "lend_book needs shelf.", tools={"lend_book": lend_book},
            asks={"lend": ("shelf",)},
        ),
        Switch("no_looking", "rule", "New rule NO_LOOK.", rules=_never),
    )
}  # fmt: skip


def switching_library(worlds: list[Library] | None = None) -> Domain:
    """The library with its switches; full prompts list the tools."""

    def reworded(domain: Domain) -> Mapping[str, Any]:
        tools = ", ".join(domain.tools)
        return {**domain.prompts, "full": {agent: f"{text} {tools}" for agent, text in domain.prompts["full"].items()}}

    return replace(library(worlds), switches=SWITCHES, reworded=reworded)
