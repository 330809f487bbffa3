"""Tools, intents, entities and documents: what nobody can use, and what the core could not work with.

What contradicts itself outright is refused when the pack is loaded (`agentmill.domains.consistency`).
"""

from collections.abc import Iterator

from agentmill.domains.base import Domain, Intent
from agentmill.domains.check.finding import Finding, shortened

DOCUMENT_KEYS = ("document", "context", "source")


def table_findings(domain: Domain) -> Iterator[Finding]:
    """What is unused, unasked, unconfirmed or without its keys."""
    yield from _unused(domain)
    for name, entity in domain.entities.items():
        if not entity.question.strip():
            yield Finding(f"entity {name}", "it has no question, so it could never be asked for; write one")
    for intent in domain.intents.values():
        yield from _confirmation(domain, intent)
        yield from _supplies(domain, intent)
    for field in ("title", "safe_reply"):
        if not getattr(domain, field).strip():
            yield Finding(field, "it is empty, and customers and models are shown it; write it")
    yield from _documents(domain)


def _unused(domain: Domain) -> Iterator[Finding]:
    intents = domain.intents.values()
    tools = {tool for intent in intents for tool in intent.tools}
    slots = {slot for intent in intents for slot in (*intent.required, *intent.optional)}
    for name in domain.tools:
        if name not in tools:
            yield Finding(f"tool {name}", "no intent names it, so no plan may call it; add it to an intent's tools")
    for name in domain.entities:
        if name not in slots:
            remedy = "add it to an intent's required or optional, or take it out"
            yield Finding(f"entity {name}", f"no intent uses it, so it would never reach a plan; {remedy}")


def _confirmation(domain: Domain, intent: Intent) -> Iterator[Finding]:
    changing = [name for name in intent.tools if domain.tools[name].changes]
    if changing and not intent.needs_confirmation:
        yield Finding(
            f"intent {intent.name}",
            f"its tool {changing[0]} changes the world and needs_confirmation is not set, so the customer would never "
            "be asked and the change never run; set needs_confirmation=True",
        )
    if intent.needs_confirmation and not changing:
        yield Finding(
            f"intent {intent.name}",
            "needs_confirmation is set and no tool of it changes the world, so it would wait for a word that confirms "
            "nothing; mark the tool with @tool(changes=True) or leave needs_confirmation out",
        )


def _supplies(domain: Domain, intent: Intent) -> Iterator[Finding]:
    """In one plan a supplied value is passed on; for a change that waits for the customer's word it is remembered."""
    waiting = [other for other in domain.intents.values() if other.needs_confirmation and other is not intent]
    slots = {slot for other in waiting for slot in (*other.required, *other.optional)}
    for name in intent.supplies:
        if name in slots and not domain.entities[name].refers:
            yield Finding(
                f"intent {intent.name}",
                f"it supplies {name}, which is not remembered from results, so a change that waits would lose it; set "
                f"refers=True on the entity {name}",
            )


def _documents(domain: Domain) -> Iterator[Finding]:
    documents = domain.documents()
    if not documents:
        remedy = "write some from the tables, as the skeleton does"
        yield Finding("documents", f"there are none, so there is nothing for pretraining; {remedy}", error=False)
    yield from shortened("documents", _unusable(documents))


def _unusable(documents: list[dict[str, object]]) -> Iterator[Finding]:
    for number, row in enumerate(documents):
        missing = [key for key in DOCUMENT_KEYS if key not in row]
        if missing:
            told = f"it lacks {', '.join(missing)}, which the corpus is written from; give every one its three keys"
            yield Finding(f"document {number}", told)
        elif not str(row["document"]).strip():
            yield Finding(f"document {number}", "its text is empty, so it teaches nothing; write it or leave it out")
