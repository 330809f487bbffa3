"""Test doubles that really work: a scripted ChatModel and a made-up domain over a real SQLite world.

The domain is a library: books are looked up, counted and lent. It has one intent of each kind: with and without
tools, with optional entities only, and with a change that the customer must confirm.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable
from typing import Any

from agentmill.domains.base import Assessment, Domain, Entity, Intent, Json, Rule, ToolError, WorldSettings, tool
from agentmill.models.chat import ChatReply, ChatRequest, ModelError

Script = str | Exception | Callable[[ChatRequest], str]


def reply(text: str, model: str = "scripted", finish: str = "stop") -> ChatReply:
    """A reply that costs a token a word."""
    return ChatReply(
        text=text,
        model=model,
        prompt_tokens=1,
        completion_tokens=len(text.split()),
        finish_reason="length" if finish == "length" else "stop",
        latency_s=0.001,
    )


class ScriptedModel:
    """Answers each agent with its script's next line; the last line stays. Keeps every request in `requests`.

    A line is a text, an error to raise, or a function of the request.
    """

    def __init__(self, **scripts: Script | Iterable[Script]) -> None:
        self.scripts: dict[str, list[Script]] = {}
        for agent, script in scripts.items():
            self.scripts[agent] = [script] if isinstance(script, str | Exception) or callable(script) else list(script)
        self.requests: list[ChatRequest] = []

    def asked(self, agent: str) -> list[ChatRequest]:
        """The requests of one agent."""
        return [request for request in self.requests if request.agent == agent]

    async def complete(self, request: ChatRequest) -> ChatReply:
        self.requests.append(request)
        script = self.scripts[request.agent]
        line = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(line, Exception):
            raise line
        return reply(line if isinstance(line, str) else line(request))


class StreamingScript(ScriptedModel):
    """The same, passing its text on character by character; `cut_after` breaks off after so many."""

    def __init__(self, cut_after: int | None = None, **scripts: Script | Iterable[Script]) -> None:
        super().__init__(**scripts)
        self.cut_after = cut_after

    async def stream(self, request: ChatRequest, sink: Callable[[str], Any]) -> ChatReply:
        answer = await self.complete(request)
        for place, character in enumerate(answer.text):
            if place == self.cut_after:
                raise ModelError("the connection broke")
            await sink(character)
        return answer


class Library:
    """A world of three books in an in-memory SQLite database."""

    def __init__(self, seed: int) -> None:
        self.connection = sqlite3.connect(":memory:")
        self.connection.executescript(
            "CREATE TABLE books (title TEXT PRIMARY KEY, copies INT, shelf INT);"
            "CREATE TABLE loans (title TEXT, reader TEXT); CREATE TABLE log (tool TEXT, arguments TEXT);"
            "CREATE TABLE kept (key TEXT PRIMARY KEY, results TEXT);"
            f"INSERT INTO books VALUES ('Dune', {1 + seed % 3}, 4), ('Emma', 2, 7), ('Ulysses', 0, 9);"
        )
        self.closed = False

    def rows(self, query: str, *values: Any) -> list[Any]:
        return self.connection.execute(query, values).fetchall()

    def snapshot(self) -> Json:
        return {
            "books": dict(self.rows("SELECT title, copies FROM books ORDER BY title")),
            "loans": [list(row) for row in self.rows("SELECT title, reader FROM loans")],
            "log": [[name, json.loads(arguments)] for name, arguments in self.rows("SELECT * FROM log")],
        }

    def facts(self) -> Json:
        return {"open": True, "loans": self.rows("SELECT count(*) FROM loans")[0][0]}

    def record(self, tool: str, arguments: Json) -> None:
        self.connection.execute("INSERT INTO log VALUES (?, ?)", (tool, json.dumps(arguments)))

    def recall(self, key: str) -> Json | None:
        found = self.rows("SELECT results FROM kept WHERE key = ?", key)
        return json.loads(found[0][0]) if found else None

    def keep(self, key: str, results: Json) -> None:
        self.connection.execute("INSERT INTO kept VALUES (?, ?)", (key, json.dumps(results)))

    def commit(self) -> None:
        self.connection.commit()

    def rollback(self) -> None:
        self.connection.rollback()

    def close(self) -> None:
        self.connection.close()
        self.closed = True


@tool()
def find_book(world: Library, *, title: str) -> Json:
    """Whether a book is there, and how many copies."""
    found = world.rows("SELECT copies, shelf FROM books WHERE title = ?", title)
    return {"found": bool(found), "copies": found[0][0] if found else 0}


@tool()
def list_books(world: Library, *, shelf: int | None = None, longest: float = 100.0) -> list[Json]:
    """The books, on one shelf if given."""
    query = "SELECT title FROM books WHERE ? IS NULL OR shelf = ? ORDER BY title"
    return [{"title": title} for (title,) in world.rows(query, shelf, shelf)]


@tool(changes=True)
def lend_book(world: Library, *, title: str, reader: str) -> Json:
    """Lend a copy."""
    if world.connection.execute("UPDATE books SET copies = copies - 1 WHERE title = ?", (title,)).rowcount != 1:
        raise ToolError(f"there is no book {title}")
    world.connection.execute("INSERT INTO loans VALUES (?, ?)", (title, reader))
    if world.rows("SELECT copies FROM books WHERE title = ?", title)[0][0] < 0:
        raise ToolError(f"no copy of {title} is left")
    return {"lent": title}


def _copy_check(plan: Any, state: Any, facts: Json) -> str | None:
    for call in plan.calls:
        if call.tool == "lend_book" and not any(c.tool == "find_book" and k == "found" for c, k in call.proven):
            return "Lend only under an if on find_book's found."
    return None


INTENTS = (
    Intent("find", "where a book is", tools=("find_book",), required=("title",)),
    Intent("browse", "what is there", tools=("list_books",), optional=("shelf", "genre"), any_of=("genre", "shelf")),
    Intent("lend", "borrow", ("find_book", "lend_book"), ("title", "reader"), needs_confirmation=True),
    Intent("small_talk", "anything else"),
)
ENTITIES = (
    Entity("title", str, "Which book?", verbatim=True),
    Entity("reader", str, "What is your name?", verbatim=True, shared=True),
    Entity("shelf", int, "Which shelf?"),
    Entity("genre", str, "Which genre?", choices=("novel", "poem")),
)
LEND_PLAN = """book = find_book(title="Dune")
if book["found"]:
    done = lend_book(title="Dune", reader="Ana")"""
AGENTS = ("understander", "planner", "evaluator", "explainer")


def library(worlds: list[Library] | None = None) -> Domain:
    """The made-up domain; every world that it opens is also put into `worlds`."""

    def open_world(seed: int, session: str, settings: WorldSettings) -> Library:
        world = Library(seed)
        if worlds is not None:
            worlds.append(world)
        return world

    return Domain(
        name="library",
        title="The Library",
        entities={entity.name: entity for entity in ENTITIES},
        intents={intent.name: intent for intent in INTENTS},
        tools={item.name: item for item in (find_book, list_books, lend_book)},
        rules=(Rule("COPY_CHECK", "A book is lent only after it was found.", _copy_check),),
        safe_reply="Could you say that again?",
        prompts={style: {agent: f"{style} {agent}" for agent in AGENTS} for style in ("brief", "full")},  # type: ignore[misc]
        open_world=open_world,
        scenarios=lambda count, seed, split: [],
        assess=lambda scenario, snapshot: Assessment(success=True),
        grounded=lambda reply, known: [],
        documents=lambda: [],
    )


def heard(intent: str, confirmed: bool = False, question: str | None = None, **entities: Any) -> str:
    """An Understander's output."""
    return json.dumps({"intent": intent, "entities": entities, "confirmed": confirmed, "question": question})
