"""The judge J: reads one agent's output and keeps it, or writes it as it should have been (y -> y*).

In goes a recorded call; out comes Judged: verdict, criteria, severity, refined output, reason. Invariant: a judge that
does not answer, or whose answer is no verdict, gives `unjudged` with the class of the reason. That is a status of its
own: never a score and never a silent drop. What was asked and what it cost is counted, failed attempts included.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from agentmill.agents.asking import derived_seed, feedback
from agentmill.agents.contracts import AgentCall
from agentmill.agents.frames import parse_frame
from agentmill.domains.base import Domain
from agentmill.judgement import Judgement, Severity, Unreadable, judgement_schema, read_judgement
from agentmill.models.chat import AgentName, ChatModel, ChatReply, ChatRequest, Message, ModelError, Sampling
from agentmill.plans.parse import unfenced
from simulation.models import ModelSettings
from simulation.tables import compact

Verdict = Literal["keep", "edit", "unjudged"]
Because = Literal["", "no_output", "no_answer", "unreadable", "cut", "contradictory", "not_verified"]
TRAINABLE: tuple[AgentName, ...] = ("understander", "planner", "evaluator", "explainer")
JUDGE_FAILED: tuple[Because, ...] = ("no_answer", "unreadable", "cut", "contradictory")


@dataclass(frozen=True)
class Judged:
    """The judge's word on one output. `refined` is "" and `because` names the class of `reason` where it is unjudged.

    `asked` counts the model calls that it took, `prompt_tokens` and `completion_tokens` what they cost.
    """

    verdict: Verdict
    refined: str = ""
    reason: str = ""
    severity: Severity = "none"
    criteria: Mapping[str, bool] = field(default_factory=dict)
    because: Because = ""
    asked: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def failed(self) -> bool:
        """Whether the judge did not do its work; an output that it read and that cannot be used is no such failure."""
        return self.because in JUDGE_FAILED

    def refused(self, problem: str) -> "Judged":
        """The same where the refined output did not pass the verification."""
        return replace(self, verdict="unjudged", refined="", reason=f"not verified: {problem}", because="not_verified")


class Judge:
    """Asks the judge's model, a bounded number of times; what could not be read is shown to it with the reason."""

    def __init__(
        self, domain: Domain, model: ChatModel, settings: ModelSettings, *, attempts: int, max_tokens: int
    ) -> None:
        self.domain = domain
        self.model = model
        self.settings = settings
        self.attempts = attempts
        self.max_tokens = max_tokens
        self.structured = settings.kind != "expert"  # until the endpoint refuses a schema and answers without

    async def judge(self, agent: AgentName, prompt: str, output: str, *, seed: int = 0, truth: str = "") -> Judged:
        """Judge the output that `agent` gave for the user frame `prompt`; `truth` is what is known to be right."""
        domain = self.domain.under(self.domain.changed_in(parse_frame(prompt)))
        system = Message(role="system", content=domain.prompts[self.settings.prompts]["judge"])
        asked: tuple[Message, ...] = (system, Message(role="user", content=judge_frame(agent, prompt, output, truth)))
        messages, so_far = asked, Judged("unjudged", reason="not asked", because="no_answer")
        structured = self.structured
        for attempt in range(self.attempts):
            try:
                reply = await self.model.complete(
                    self._request(agent, messages, derived_seed(seed, attempt), structured)
                )
            except ModelError as error:
                told = f"the judge did not answer: {error}"
                so_far = replace(so_far, reason=told, because="no_answer", asked=so_far.asked + 1)
                if not error.retryable and not structured:
                    break
                structured = structured and error.retryable
                continue
            self.structured = self.structured and structured
            so_far = _paid(so_far, reply)
            if reply.finish_reason == "length":
                told = f"the judge's answer was cut after {reply.completion_tokens} tokens"
                so_far, messages = replace(so_far, reason=told, because="cut"), asked
                continue
            try:
                return _agreed(agent, output, read_judgement(agent, reply.text), so_far)
            except Unreadable as error:
                so_far = replace(so_far, reason=f"the judge's answer is no verdict: {error}", because=error.because)
                messages = (*asked, *_told(reply, error))
        return so_far

    def _request(self, agent: AgentName, messages: tuple[Message, ...], seed: int, structured: bool) -> ChatRequest:
        sampling = Sampling(temperature=self.settings.temperature, max_tokens=self.max_tokens, seed=seed)
        schema = judgement_schema(agent) if structured else None
        return ChatRequest(agent="judge", messages=messages, sampling=sampling, response_schema=schema)


def judge_frame(agent: AgentName, prompt: str, output: str, truth: str = "") -> str:
    """The judge's user message. Texts stand as JSON strings, so that a plan keeps its lines and its indentation."""
    lines = [f"agent: {agent}", f"prompt: {compact(prompt)}"]
    if truth:
        lines.append(f"truth: {compact(truth)}")
    return "\n".join([*lines, f"output: {compact(output)}"])


def canonical_output(agent: AgentName, text: str) -> str:
    """The output in the agent's exact format: JSON compact with its keys in order, a plan and a reply stripped.

    Text that is no JSON object where one is due is given back as it is: the verification refuses it.
    """
    if agent in ("planner", "explainer"):
        return unfenced(text)
    try:
        value = json.loads(unfenced(text))
    except json.JSONDecodeError:
        return text
    if not isinstance(value, dict):
        return text
    if agent == "understander" and value.get("also") == []:
        del value["also"]  # as good as left out
    keys = _KEYS[agent]
    if not {key for key in keys if key != "also"} <= set(value) <= set(keys):
        return text
    return compact({key: value[key] for key in keys if key in value})


_KEYS: Mapping[AgentName, tuple[str, ...]] = {
    "understander": ("intent", "also", "entities", "confirmed", "question"),
    "evaluator": ("ok", "violations"),
}


def _agreed(agent: AgentName, output: str, said: Judgement, so_far: Judged) -> Judged:
    """The verdict: the text decides, whatever the judge called it."""
    refined = canonical_output(agent, said.output if said.verdict == "edit" or said.output else output)
    changed = refined != canonical_output(agent, output)
    severity: Severity = "none"
    if changed:
        severity = "minor" if said.severity == "none" else said.severity
    return replace(
        so_far,
        verdict="edit" if changed else "keep",
        refined=refined,
        reason=said.reason,
        severity=severity,
        criteria=dict(said.criteria),
        because="",
    )


def _paid(so_far: Judged, reply: ChatReply) -> Judged:
    return replace(
        so_far,
        asked=so_far.asked + 1,
        prompt_tokens=so_far.prompt_tokens + reply.prompt_tokens,
        completion_tokens=so_far.completion_tokens + reply.completion_tokens,
    )


def _told(reply: ChatReply, error: Unreadable) -> tuple[Message, Message]:
    """The judge's own answer and what is wrong with it, for the next attempt."""
    return feedback(AgentCall(agent="judge", messages=(), output=reply.text, status="invalid", error=str(error)))
