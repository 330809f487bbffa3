"""What goes into and out of each agent: plain data, so that an agent may run in this process or in another one.

Every agent has `async run(task) -> result`. A result whose value is None means that the model did not give a valid
answer within the allowed attempts; its calls are there all the same. The Executor calls no model.
"""

from collections.abc import Awaitable, Callable
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
    """A plan that parses, the state that it is for and the world's facts that rules may look at."""

    state: DialogueState
    plan: str
    facts: Json = Field(default_factory=dict)
    seed: int = 0


class EvaluatorResult(Frozen):
    """`complexity` is the plan's Halstead volume; `by_model` says that the model evaluator was asked."""

    violations: tuple[Violation, ...]
    complexity: float
    by_model: bool = False
    calls: tuple[AgentCall, ...] = ()


class ExecutorTask(Frozen):
    session: str
    plan: str
    state: DialogueState


class ExecutorResult(Frozen):
    """`error` is the sentence of what stopped the plan (its effects are undone), None when it ran to its end."""

    results: Json
    error: str | None
    facts: Json


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

    A turn updates it in place.
    """

    id: str
    state: DialogueState = Field(default_factory=DialogueState)
    last_reply: str = ""
    turn: int = 0
    facts: Json = Field(default_factory=dict)
    history: list[tuple[str, str]] = Field(default_factory=list)


class TurnOutcome(Frozen):
    """One customer turn: its row and the model calls in the order in which they were made."""

    turn: Turn
    calls: tuple[AgentCall, ...]


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
    async def snapshot(self, session_id: str) -> Json: ...
    async def close(self, session_id: str) -> None: ...


class UnknownSession(LookupError):
    """No world is open for this session id: never opened, closed, or its process was replaced."""

    def __init__(self, session_id: Any) -> None:
        super().__init__(f"session={session_id!r} has no open world; open it first with open(session_id, world_seed)")
