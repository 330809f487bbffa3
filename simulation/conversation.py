"""One conversation: the user simulator on one side, the system M on the other, until EXIT or the turn limit.

In go a function that answers one utterance (`Team.turn` in process, an HTTP request in an evaluation), the model that
plays the customer, and the scenario. Out comes Played: the turns, every model call in order, and how it ended.
Invariant: `play` never raises because of a model or a server; such an end has the status `error` and keeps its turns.
A safe reply because a model gave no answer at all is such an end: it says nothing about what the model can do.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from agentmill.agents.contracts import AgentCall
from agentmill.agents.frames import fold, render_frame
from agentmill.domains.base import Domain, Goal, Json, Scenario
from agentmill.models.chat import ChatModel, ChatRequest, Message, ModelError, Sampling
from agentmill.records import ConversationStatus, Turn

EXIT = "EXIT"
_USER_ATTEMPTS = 2
_EMPTY = "the user simulator gave an empty utterance"


class TurnFailed(Exception):
    """The system under test did not answer a turn (connection, time-out, server error)."""


class Outcome(Protocol):
    """What one turn of the system gives back; `agentmill.agents.team.TurnOutcome` is one."""

    @property
    def turn(self) -> Turn: ...

    @property
    def calls(self) -> Sequence[AgentCall]: ...


AnswerTurn = Callable[[str], Awaitable[Outcome]]
ApplySwitch = Callable[[str], Awaitable[None]]


@dataclass(frozen=True)
class PlayedCall:
    """One call of a conversation: which turn it belongs to, and its place in that turn (the customer's call first)."""

    turn: int
    index: int
    call: AgentCall


@dataclass(frozen=True)
class Played:
    """A conversation as it happened. `error` says what ended it where `status` is `error`."""

    status: ConversationStatus
    turns: tuple[Turn, ...]
    calls: tuple[PlayedCall, ...]
    error: str = ""

    @property
    def history(self) -> list[tuple[str, str]]:
        """(customer, assistant) pairs in order."""
        return [(turn.utterance, turn.reply) for turn in self.turns]


async def play(
    turn: AnswerTurn,
    user: ChatModel,
    scenario: Scenario,
    domain: Domain,
    *,
    prompts: str = "brief",
    temperature: float = 0.0,
    switch: ApplySwitch | None = None,
) -> Played:
    """Let the user simulator talk to the system until it says EXIT, or `scenario.max_turns` are over.

    `switch` makes a change of the business in the system's world, before the turn for which the scenario plans it.
    `prompts` is the style of the user simulator's system prompt; `temperature` its sampling temperature, with a seed
    made from the scenario and the turn, so that the same models play the same conversation again.

    Raises:
        ValueError: when the scenario plans switches and `switch` is missing.
    """
    if scenario.switches and switch is None:
        raise ValueError(f"scenario {scenario.sid} plans switches, and nobody makes them; give play(switch=...)")
    turns: list[Turn] = []
    calls: list[PlayedCall] = []

    def ended(status: ConversationStatus, error: str = "") -> Played:
        return Played(status=status, turns=tuple(turns), calls=tuple(calls), error=error)

    system = Message(role="system", content=domain.prompts[prompts]["user"])
    for number in range(scenario.max_turns):
        messages = (system, Message(role="user", content=user_frame(scenario, turns)))
        said = await _speak(user, messages, temperature, scenario.seed + number)
        calls.extend(PlayedCall(number, index, call) for index, call in enumerate(said))
        if said[-1].status != "ok":
            return ended("error", f"user simulator, turn {number}: {said[-1].error}")
        utterance = fold(said[-1].output)
        if is_exit(utterance):
            return ended("exit")
        try:
            for planned in scenario.switches:
                if switch is not None and planned.turn == number:
                    await switch(planned.name)
            outcome = await turn(utterance)
        except (TurnFailed, ModelError) as error:
            return ended("error", f"turn {number}: {error}")
        turns.append(outcome.turn)
        calls.extend(PlayedCall(number, len(said) + index, call) for index, call in enumerate(outcome.calls))
        if outcome.turn.status == "safe_reply" and outcome.calls and outcome.calls[-1].status == "error":
            last = outcome.calls[-1]
            return ended("error", f"turn {number}: the {last.agent}'s model did not answer: {last.error}")
    return ended("turn_limit")


def user_frame(scenario: Scenario, turns: Sequence[Turn]) -> str:
    """What the user simulator sees: who it plays, what it wants (never the expected end state) and what was said.

    These are the paper's context vectors: the seed topic I (`topic`, `goals`), the environment E (`profile`, `limits`)
    and the history H, each a line where the scenario has it; the capabilities N stand in the system prompt.
    """
    contexts = {"topic": scenario.topic, "profile": scenario.profile, "limits": scenario.limits}
    return render_frame(
        {
            "persona": scenario.persona,
            **{name: context for name, context in contexts.items() if context},
            "goals": [_wish(goal) for goal in scenario.goals],
            "history": [[turn.utterance, turn.reply] for turn in turns],
        }
    )


def _wish(goal: Goal) -> Json:
    """A goal as the customer knows it: without its end state."""
    also = {"also": list(goal.also)} if goal.also else {}
    return {"intent": goal.intent, **also, "slots": goal.slots}


def is_exit(utterance: str) -> bool:
    """Whether the simulator ends the conversation: EXIT alone, or as the last word after a goodbye."""
    words = utterance.split()
    return bool(words) and words[-1].strip("\"'.!*[]()") == EXIT


async def _speak(user: ChatModel, messages: tuple[Message, ...], temperature: float, seed: int) -> list[AgentCall]:
    """The user simulator's call, tried again when no usable answer came; the last one decides."""
    calls: list[AgentCall] = []
    for attempt in range(_USER_ATTEMPTS):
        sampling = Sampling(temperature=temperature, seed=(seed + 7919 * attempt) % 2**31)
        call, retryable = await _one_call(user, ChatRequest(agent="user", messages=messages, sampling=sampling))
        calls.append(call)
        if call.status == "ok" or not retryable:
            break
    return calls


async def _one_call(user: ChatModel, request: ChatRequest) -> tuple[AgentCall, bool]:
    try:
        reply = await user.complete(request)
    except ModelError as error:
        failed = AgentCall(
            agent="user", messages=request.messages, output="", status="error", error=str(error), model="",
            prompt_tokens=0, completion_tokens=0, latency_s=0.0,
        )  # fmt: skip
        return failed, error.retryable
    empty = not reply.text.strip()
    call = AgentCall(
        agent="user", messages=request.messages, output=reply.text, status="invalid" if empty else "ok",
        error=_EMPTY if empty else "", model=reply.model, prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens, latency_s=reply.latency_s,
    )  # fmt: skip
    return call, True
