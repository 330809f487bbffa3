"""What a domain pack offers. The core knows no domain: everything it asks for is here.

A pack is a Python package with `build() -> Domain`. Its tools are typed keyword-only functions over a World;
its rules look at a parsed plan; its scenarios carry goals whose end state `assess` decides from a world snapshot.
"""

import importlib
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import BaseModel

from agentmill.models.chat import AgentName, ChatModel

if TYPE_CHECKING:
    from agentmill.agents.state import DialogueState
    from agentmill.plans.parse import Plan

Json = dict[str, Any]
RESERVED_KEYS = frozenset(
    {"intent", "customer", "assistant", "plan", "violation", "confirmed", "question", "entities", "error", "results"}
)


class ToolError(Exception):
    """A tool cannot do what it was asked; the message is a sentence that the Planner can act on. The plan is undone."""


@dataclass(frozen=True)
class Tool:
    """A typed function of the world; one that `changes` the world needs the customer's confirmation."""

    function: Callable[..., Any]
    changes: bool

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """Keyword-only parameters with their annotations, without the world itself."""
        signature = inspect.signature(self.function, eval_str=True)
        return {n: p for n, p in signature.parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}


def tool(*, changes: bool = False) -> Callable[[Callable[..., Any]], Tool]:
    """Mark `def name(world, *, arg: type, ...) -> Json | list[Json]` as a tool; its docstring is its description."""
    return lambda function: Tool(function, changes)


@dataclass(frozen=True)
class Entity:
    """A slot that the Understander may fill. `question` is what it asks when the slot is needed and missing.

    `verbatim` values must occur in the customer's words (names, numbers); `choices` bound the others.
    `kind` is the Python type of a valid value; a `shared` one is kept when the customer turns to another intent.
    """

    name: str
    kind: type
    question: str
    verbatim: bool = False
    choices: tuple[str, ...] = ()
    shared: bool = False


@dataclass(frozen=True)
class Intent:
    """What a customer may want. Without `tools` there is no plan: the Explainer answers at once.

    Of the entities in `any_of` (all optional) at least one must be known; the first one's question is asked for it.
    """

    name: str
    description: str
    tools: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    needs_confirmation: bool = False
    any_of: tuple[str, ...] = ()

    def missing(self, known: Collection[str]) -> str | None:
        """The entity to ask for next, or None when `known` is enough."""
        for name in self.required:
            if name not in known:
                return name
        return self.any_of[0] if self.any_of and not set(self.any_of) & set(known) else None


class Violation(BaseModel):
    """A broken rule: a stable code and a sentence that the Planner can act on."""

    code: str
    message: str


@dataclass(frozen=True)
class Rule:
    """A business rule. `check` returns the sentence of the violation, or None where the plan keeps the rule."""

    code: str
    description: str
    check: Callable[["Plan", "DialogueState", Json], str | None]


class World(Protocol):
    """A conversation's database. One plan is one transaction: `commit` or `rollback`, all or nothing."""

    def snapshot(self) -> Json:
        """The state that `assess` looks at, as JSON: changed tables and the log of tool calls."""
        ...

    def facts(self) -> Json:
        """What rules may know of the world without a query of their own (opening hours, limits)."""
        ...

    def record(self, tool: str, arguments: Json) -> None:
        """Write one tool call into the log, inside the running transaction."""
        ...

    def commit(self) -> None: ...
    def rollback(self) -> None: ...
    def close(self) -> None: ...


class Goal(BaseModel):
    """One thing the customer wants: an intent, what the customer will say when asked, and the end state."""

    intent: str
    slots: Json
    expect: Json


class Scenario(BaseModel):
    """What the user simulator plays. `sid` is the digest of its content; `world_seed` selects the seeded world."""

    sid: str
    seed: int
    world_seed: int
    persona: str
    goals: tuple[Goal, ...]
    split: Literal["train", "heldout"]
    max_turns: int = 16


class Assessment(BaseModel):
    """Whether the final world is what the goals asked for and no rule was broken; `reasons` says what was not."""

    success: bool
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Domain:
    """A domain pack, as the core sees it."""

    name: str
    title: str
    entities: Mapping[str, Entity]
    intents: Mapping[str, Intent]
    tools: Mapping[str, Tool]
    rules: Sequence[Rule]
    safe_reply: str
    prompts: Mapping[str, Mapping[AgentName, str]]  # style ("brief", "full") -> agent -> static system text
    open_world: Callable[[int], World]  # world_seed -> a fresh copy of its own
    scenarios: Callable[[int, int, str], list[Scenario]]  # (count, seed, split)
    assess: Callable[[Scenario, Json], Assessment]  # (scenario, snapshot)
    grounded: Callable[
        [str, Json], list[str]
    ]  # (reply, {"results":..., "state":..., "utterance":...}) -> facts in the reply found nowhere
    documents: Callable[[], list[Json]]  # pretraining documents with their contexts: {"document", "context", "source"}
    expert: Callable[[float], ChatModel] | None = field(
        default=None
    )  # mistake rate -> a model for every agent, user and judge


def load_domain(name: str) -> Domain:
    """The domain pack of this name: one that ships here (`automotive`), or the dotted path of an installed package.

    Raises:
        ConfigError: when there is no such pack.
    """
    from agentmill.config import ConfigError

    path = name if "." in name else f"agentmill.domains.{name}"
    try:
        pack = importlib.import_module(path)
        built: Domain = pack.build()
    except (ModuleNotFoundError, AttributeError) as error:
        raise ConfigError(f"domain={name!r}: no domain pack of that name ({error}); try automotive") from error
    return built
