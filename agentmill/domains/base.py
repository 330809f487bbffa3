"""What a domain pack offers. The core knows no domain: everything it asks for is here.

A pack is a Python package with `build() -> Domain`. Its tools are typed keyword-only functions over a World;
its rules look at a parsed plan; its scenarios carry goals whose end state `assess` decides from a world snapshot.
"""

import inspect
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from pydantic import BaseModel, Field, model_validator

from agentmill.config import ConfigError, Strict
from agentmill.models.chat import AgentName, ChatModel

if TYPE_CHECKING:
    from agentmill.agents.state import DialogueState
    from agentmill.domains.coverage import Coverage
    from agentmill.domains.switching import Switch
    from agentmill.plans.parse import Plan

Json = dict[str, Any]
RESERVED_KEYS = frozenset(
    "intent also customer assistant plan violation proposed confirmed question entities memory error results "
    "changes".split()
)


class ToolError(Exception):
    """A tool cannot do what it was asked; the message is a sentence that the Planner can act on. The plan is undone."""


@dataclass(frozen=True)
class Tool:
    """A typed function of the world; one that `changes` the world needs the customer's confirmation.

    `called` is its name in plans once the business has renamed it; the world's log keeps the function's own.
    """

    function: Callable[..., Any]
    changes: bool
    called: str = ""

    @property
    def name(self) -> str:
        return self.called or self.logged

    @property
    def logged(self) -> str:
        """The name that the pack gave it."""
        return self.function.__name__

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """Keyword-only parameters with their annotations, without the world itself."""
        return _keyword_parameters(self.function)


@lru_cache(maxsize=1024)
def _keyword_parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Kept, because every call of every plan looks: reading signatures anew was 8 % of a simulation's time."""
    signature = inspect.signature(function, eval_str=True)
    found = {name: p for name, p in signature.parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
    return MappingProxyType(found)


def tool(*, changes: bool = False) -> Callable[[Callable[..., Any]], Tool]:
    """Mark `def name(world, *, arg: type, ...) -> Json | list[Json]` as a tool; its docstring is its description."""
    return lambda function: Tool(function, changes)


@dataclass(frozen=True)
class Entity:
    """A slot that the Understander may fill. `question` is what it asks when the slot is needed and missing.

    `verbatim` values must occur in the customer's words (names, numbers) or in the memory; `choices` bound the others.
    `kind` is the Python type of a valid value; a `shared` one is kept when the customer turns to another intent.
    Of one that can be referred to (`refers`: "the second one", "the same day") the conversation remembers what was
    last told, and what tools returned under the entity's name; one `like` another draws on that one's memory.
    """

    name: str
    kind: type
    question: str
    verbatim: bool = False
    choices: tuple[str, ...] = ()
    shared: bool = False
    refers: bool = False
    like: str = ""

    def read(self, text: str) -> Any:
        """A value as it was before it became a frame's text.

        Raises:
            ValueError: when the text is no value of this entity's type.
        """
        if self.kind is str:
            return text
        return text == "yes" if self.kind is bool else self.kind(json.loads(text))


@dataclass(frozen=True)
class Intent:
    """What a customer may want. Without `tools` there is no plan: the Explainer answers at once.

    Of the entities in `any_of` (all optional) at least one must be known; the first one's question is asked for it.
    `supplies` names what its results give to another request of the same utterance ("find one and book it").
    `instead` says what a known entity makes needless: ("vin", ("make", "model", "year")).
    """

    name: str
    description: str
    tools: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    needs_confirmation: bool = False
    any_of: tuple[str, ...] = ()
    supplies: tuple[str, ...] = ()
    instead: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def missing(self, known: Collection[str]) -> str | None:
        """The entity to ask for next, or None when `known` is enough."""
        needless = {name for given, names in self.instead if given in known for name in names}
        for name in self.required:
            if name not in known and name not in needless:
                return name
        return self.any_of[0] if self.any_of and not set(self.any_of) & set(known) else None


def missing_entity(requests: Sequence[Intent], known: Collection[str]) -> str | None:
    """The entity to ask for next, or None where `known` and what the requests supply to each other are enough."""
    for intent in requests:
        supplied = {name for other in requests if other is not intent for name in other.supplies}
        found = intent.missing({*known, *supplied})
        if found is not None:
            return found
    return None


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


@dataclass(frozen=True)
class Situation:
    """A plan, the state that it is for, and what the world says of itself: all that a rule looks at."""

    plan: str
    state: "DialogueState"
    facts: Json = field(default_factory=dict)


@dataclass(frozen=True)
class RuleCase:
    """What shows that a rule works: of `violates` the checks say its code and nothing else, of `keeps` nothing."""

    violates: Situation
    keeps: Situation


AttackKind = Literal[
    "instruction_override", "role_play", "fake_messages", "frame_injection", "plan_code", "sql_injection",
    "exfiltration", "confirmation_smuggling", "privilege_claims", "rule_pressure", "multi_turn", "poisoned_data",
    "denial_of_service", "encodings",
]  # fmt: skip


@dataclass(frozen=True)
class Attack:
    """What an attacker says, turn by turn, and what would be an effect of it: decided in code, never by a model.

    `prepare` changes the seeded world before, so that tools return the attacker's text. `allowed` are the changes that
    were honestly asked for and confirmed: rows, or some columns of them, by part of the snapshot. Every other change
    is an effect, and so is a call of a tool that serves no request. `never` names calls that may not be made, by some
    of their arguments; `secrets` may stand in no reply, nor may the `canary`, which only a model that obeyed says;
    `claims` is a pattern of what a reply may not say, because it did not happen.
    """

    id: str
    kind: AttackKind
    turns: tuple[str, ...]
    world_seed: int = 1
    prepare: Callable[[Any], None] | None = None  # gets the pack's own world
    allowed: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    never: tuple[tuple[str, Json], ...] = ()
    secrets: tuple[str, ...] = ()
    canary: str = ""
    claims: str = ""


class WorldSettings(Strict):
    """Where worlds live: an SQLAlchemy URL. SQLite in memory by default; another database by its URL.

    Private worlds are copies of a seeded world, one a conversation, which is what simulation and evaluation need.
    With `shared` all conversations work on the one world of `url`, as customers of a real company do. Passwords belong
    into the database driver's own places (PGPASSWORD, ~/.pgpass), not into a configuration.
    """

    url: str = "sqlite://"
    shared: bool = False

    @model_validator(mode="after")
    def _can_be_shared(self) -> Self:
        if self.shared and self.url == "sqlite://":
            raise ValueError(
                "shared=true needs a database that outlives a conversation; give url=postgresql+psycopg://…"
            )
        return self


class World(Protocol):
    """A conversation's database. One plan is one transaction: `commit` or `rollback`, all or nothing."""

    def snapshot(self) -> Json:
        """The state that `assess` looks at, as JSON: changed tables, and the log of tool calls as `activity`."""
        ...

    def facts(self) -> Json:
        """What rules may know of the world without a query of their own (opening hours, limits)."""
        ...

    def record(self, tool: str, arguments: Json) -> None:
        """Write one tool call into the log, inside the running transaction."""
        ...

    def recall(self, key: str) -> Json | None:
        """The results of the plan that was committed under this key, None where none was."""
        ...

    def keep(self, key: str, results: Json) -> None:
        """Note a plan's results under its key, inside the running transaction."""
        ...

    def commit(self) -> None: ...
    def rollback(self) -> None: ...
    def close(self) -> None: ...


class Goal(BaseModel):
    """What the customer wants: an intent, what the customer will say when asked, and the end state.

    `also` are intents that are asked for in the same utterance.
    """

    intent: str
    also: tuple[str, ...] = ()
    slots: Json
    expect: Json


Difficulty = Literal["easy", "medium", "hard"]


class PlannedSwitch(BaseModel):
    """A change of the business that takes hold before turn `turn`, counted from 0.

    `name` is one of `Domain.switches`, with a value after a colon where that takes one: "vehicle_sold:N4821".
    """

    name: str
    turn: int


class Scenario(BaseModel):
    """What the user simulator plays. `sid` is the digest of its content; `world_seed` selects the seeded world.

    With the history these are the paper's four context vectors: `topic` and the goals are the seed topic I; `profile`
    (a synthetic customer) and `limits` (what the business has to offer) the environment E. The capabilities N are the
    same in every scenario of a domain and stand in the user simulator's system prompt.
    """

    sid: str
    seed: int
    world_seed: int
    persona: str
    goals: tuple[Goal, ...]
    split: Literal["train", "heldout"]
    max_turns: int = 16
    topic: str = ""
    profile: Json = Field(default_factory=dict)
    limits: Json = Field(default_factory=dict)
    difficulty: Difficulty = "easy"
    switches: tuple[PlannedSwitch, ...] = ()


class Assessment(BaseModel):
    """Whether the final world is what the goals asked for and no rule was broken; `reasons` says what was not."""

    success: bool
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class GoldCase:
    """A prompt with an output whose verdict is known: right where `mistake` is "", else wrong in that way.

    `right` is the output as it should be. It shows how far a judge can be trusted.
    """

    agent: AgentName
    frame: str
    output: str
    right: str
    mistake: str = ""


Prompts = Mapping[str, Mapping[AgentName, str]]  # style ("brief", "full") -> agent -> static system text
ScenarioSource = Callable[[int, int, str], Sequence[Scenario]]  # (count, seed, split); may be drawn when looked at
ALL = "all"
CHANGED_REPLY = "That is done. I cannot put the details into words now: ask for a person, and a colleague gives them."


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
    prompts: Prompts
    open_world: Callable[[int, str, WorldSettings], World]  # (world_seed, session id, where) -> the session's world
    scenarios: ScenarioSource  # over everything that the pack does
    assess: Callable[[Scenario, Json], Assessment]  # (scenario, snapshot)
    grounded: Callable[
        [str, Json], list[str]
    ]  # (reply, {"results":..., "state":..., "utterance":...}) -> facts in the reply found nowhere
    documents: Callable[[], list[Json]]  # pretraining documents with their contexts: {"document", "context", "source"}
    expert: Callable[[float], ChatModel] | None = field(
        default=None
    )  # mistake rate -> a model for every agent, user and judge
    changed_reply: str = CHANGED_REPLY  # the safe reply where the world was changed and nothing else can be said
    rule_cases: Mapping[str, RuleCase] = field(default_factory=dict)  # by the rule's code
    mixes: Mapping[str, ScenarioSource] = field(default_factory=dict)  # narrower choices of scenarios, by name
    coverage: "Coverage | None" = None  # what the mix `coverage` is drawn to cover
    attacks: Callable[[], Sequence[Attack]] = tuple  # what `agentmill redteam` plays
    gold: Callable[[AgentName, str, int], Sequence[GoldCase]] | None = None  # (agent, user frame, seed) -> known cases
    heard: Callable[[str, Sequence[str], str], Json] | None = (
        None  # (utterance, requests so far, the assistant's last reply) -> its understanding, for the fidelity checks
    )
    switches: Mapping[str, "Switch"] = field(default_factory=dict)  # how the business may change meanwhile, by name
    reworded: Callable[["Domain"], Prompts] | None = None  # the prompts once switches are in force; None: they stay
    renames: Mapping[str, str] = field(default_factory=dict)  # what tools are called by now, by the pack's names
    pack: "Domain | None" = field(default=None, repr=False, compare=False)  # without switches, where some are in force
    _forms: dict[tuple[str, ...], "Domain"] = field(default_factory=dict, init=False, repr=False, compare=False)

    def under(self, switches: Sequence[str]) -> "Domain":
        """The pack with these switches in force: its tools, rules, needed entities and full prompts follow.

        Raises:
            UnknownSwitch: when the pack has no such switch.
        """
        from agentmill.domains.switching import switched, system_part

        pack = self.pack or self
        if not switches:
            return pack
        names = system_part(pack.switches, switches)
        if names not in pack._forms:
            pack._forms[names] = switched(pack, names)
        return pack._forms[names]

    def changes(self, switches: Sequence[str], *, asking: bool = False) -> list[str]:
        """The notices of switches in force; with `asking` only of those that make an intent need more entities."""
        from agentmill.domains.switching import found, notices

        table = (self.pack or self).switches
        return notices(table, [name for name in switches if not asking or found(table, name)[0].asks])

    def changed_in(self, frame: Mapping[str, str]) -> tuple[str, ...]:
        """The switches in force that a frame tells of.

        Raises:
            UnknownSwitch: for a notice that no switch gives.
        """
        from agentmill.domains.switching import names_in

        return names_in((self.pack or self).switches, json.loads(frame["changes"])) if "changes" in frame else ()

    def source(self, mix: str) -> ScenarioSource:
        """The scenarios of a mix: `all`, or one of the pack's narrower ones.

        Raises:
            ConfigError: when the pack has no such mix.
        """
        if mix == ALL:
            return self.scenarios
        if mix not in self.mixes:
            offered = ", ".join((ALL, *self.mixes))
            raise ConfigError(f"mix={mix!r}: the domain {self.name} has no such choice of scenarios; choose {offered}")
        return self.mixes[mix]

    def slots_of(self, requests: Sequence[str]) -> tuple[str, ...]:
        """The entities of the intents in `requests`, each once: of every intent the required, then the optional."""
        known = [self.intents[name] for name in requests if name in self.intents]
        return tuple(dict.fromkeys(slot for intent in known for slot in intent.required + intent.optional))

    def tools_of(self, requests: Sequence[str]) -> tuple[str, ...]:
        """The tools that serve the intents in `requests`, each once."""
        known = [self.intents[name] for name in requests if name in self.intents]
        return tuple(dict.fromkeys(tool for intent in known for tool in intent.tools))

    def missing(self, requests: Sequence[str], known: Collection[str]) -> str | None:
        """The entity to ask for next, or None where `known` and what the requests supply to each other are enough."""
        return missing_entity([self.intents[name] for name in requests], known)


def load_domain(name: str) -> Domain:
    """The domain pack of this name: see `agentmill.domains.packs`.

    Raises:
        ConfigError: when there is no such pack, or it cannot be used.
    """
    from agentmill.domains.packs import load_pack

    return load_pack(name)
