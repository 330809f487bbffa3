"""What goes into and out of each agent: plain data, so that an agent may run in this process or in another one.

Every agent has `async run(task) -> result`. A result whose value is None means that the model did not give a valid
answer within the allowed attempts; its calls are there all the same. The Executor calls no model.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

from agentmill.agents.state import DialogueState, Understanding
from agentmill.domains.base import Json, Violation
from agentmill.models.chat import AgentName, Message
from agentmill.records import Call, CallStatus, Turn

TextSink = Callable[[str], Awaitable[None]]


class Frozen(BaseModel):
    """A value that is sent and not changed."""

    model_config = ConfigDict(frozen=True)


class AgentCall(Frozen):
    """One model call of an agent, with what it was asked, what came back and what it cost."""

    agent: AgentName
    messages: tuple[Message, ...]
    output: str
    status: CallStatus
    error: str = ""
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latency_s: float = 0.0

    def recorded(self, sid: str, turn: int, index: int) -> Call:
        """The row of this call: the `index`-th of turn `turn` in conversation `sid`."""
        return Call(call_id=f"{sid}-{turn}-{index}", sid=sid, turn=turn, index=index, **dict(self))


class UnderstanderTask(Frozen):
    """The state before the utterance and the assistant's last reply ("" at the start)."""

    state: DialogueState
    assistant: str
    utterance: str
    seed: int = 0


class UnderstanderResult(Frozen):
    understanding: Understanding | None
    calls: tuple[AgentCall, ...] = ()


class PlannerTask(Frozen):
    """The state to plan for; on replanning also the refused plan and what was wrong with it."""

    state: DialogueState
    refused: str | None = None
    violations: tuple[Violation, ...] = ()
    seed: int = 0


class PlannerResult(Frozen):
    plan: str | None
    calls: tuple[AgentCall, ...] = ()


class EvaluatorTask(Frozen):
    """A plan that parses, the state that it is for and the world's facts that rules may look at.

    `violations` are those of the plan before it, which this one was made to mend. With `shadow` the model is asked
    however simple the plan is.
    """

    state: DialogueState
    plan: str
    violations: tuple[Violation, ...] = ()
    facts: Json = Field(default_factory=dict)
    seed: int = 0
    shadow: bool = False


def listed(violations: tuple[Violation, ...]) -> str:
    """Violations as a frame shows them."""
    return " | ".join(f"{found.code}: {found.message}" for found in violations)


class EvaluatorResult(Frozen):
    """`complexity` is what the gate compares (a Halstead measure); `by_model`: the model evaluator was asked."""

    violations: tuple[Violation, ...]
    complexity: float
    by_model: bool = False
    calls: tuple[AgentCall, ...] = ()

    @property
    def judged(self) -> bool:
        """Whether the model gave a verdict: a plan that it gave none on has passed, but unjudged."""
        return self.by_model and bool(self.calls) and self.calls[-1].status == "ok"

    @property
    def skipped(self) -> bool:
        """Whether the plan passed without the model being asked."""
        return not self.by_model and not self.violations


class ExecutorTask(Frozen):
    """`key` names the attempt: a plan that changed the world under a key is not run again under it."""

    session: str
    plan: str
    state: DialogueState
    key: str = ""


class ExecutorResult(Frozen):
    """`error` is the sentence of what stopped the plan (its effects are undone), None when it ran to its end.

    `changed` tells that the plan changed the world, now or when its task came before. `facts` is None where the world
    could not be asked any more; then those from before still hold.
    """

    results: Json
    error: str | None
    facts: Json | None
    changed: bool = False


class ExplainerTask(Frozen):
    """`results` is None for an intent without tools."""

    utterance: str
    state: DialogueState
    results: Json | None
    seed: int = 0


class ExplainerResult(Frozen):
    reply: str | None
    calls: tuple[AgentCall, ...] = ()


class Session(BaseModel):
    """What a conversation carries between turns. `history` holds (customer, assistant) pairs.

    A turn updates it in place. `opened` tells it from an earlier conversation of the same id. `news` are the switches
    that took hold since the last turn.
    """

    id: str
    opened: str = Field(default_factory=lambda: uuid.uuid4().hex[:12])
    state: DialogueState = Field(default_factory=DialogueState)
    last_reply: str = ""
    turn: int = 0
    facts: Json = Field(default_factory=dict)
    news: tuple[str, ...] = ()
    history: list[tuple[str, str]] = Field(default_factory=list)


@dataclass(frozen=True)
class Shadow:
    """A verdict that is still under way beside the turn; `place` is where its calls belong among the turn's."""

    verdict: "asyncio.Task[EvaluatorResult]"
    place: int


class TurnOutcome(Frozen):
    """One customer turn: its row and the model calls in the order in which they were made.

    Where a `shadow` verdict is under way the row's gate is `shadow_unjudged` until `agentmill.agents.gate.settled` has
    waited for it. It does not travel: an outcome that is sent is one without.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    turn: Turn
    calls: tuple[AgentCall, ...]
    shadow: Shadow | None = Field(None, exclude=True, repr=False)


class UnderstanderAgent(Protocol):
    async def run(self, task: UnderstanderTask) -> UnderstanderResult: ...


class PlannerAgent(Protocol):
    async def run(self, task: PlannerTask) -> PlannerResult: ...


class EvaluatorAgent(Protocol):
    async def run(self, task: EvaluatorTask) -> EvaluatorResult: ...


class ExplainerAgent(Protocol):
    """`stream` receives the reply piece by piece while it is made; together the pieces are the reply."""

    async def run(self, task: ExplainerTask, stream: TextSink | None = None) -> ExplainerResult: ...


class ExecutorAgent(Protocol):
    """Owns the worlds by session id. Every method raises UnknownSession for an id that is not open, except `open`."""

    async def open(self, session_id: str, world_seed: int) -> Json: ...
    async def run(self, task: ExecutorTask) -> ExecutorResult: ...
    async def switch(self, session_id: str, name: str) -> Json: ...
    async def snapshot(self, session_id: str) -> Json: ...
    async def close(self, session_id: str) -> None: ...


class UnknownSession(LookupError):
    """No world is open for this session id: never opened, closed, or its process was replaced."""

    def __init__(self, session_id: Any) -> None:
        super().__init__(f"session={session_id!r} has no open world; open it first with open(session_id, world_seed)")


class SwitchRefused(ValueError):
    """A change of the business cannot be made in this world: it would be everybody's, and no conversation's own."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"switch={name!r}: the world is shared (system.world.shared=true), so it would change for every customer; "
            "play switches in private worlds"
        )


class WorldUnavailable(Exception):
    """The database that holds a world does not answer; later it may."""
