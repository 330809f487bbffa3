"""One customer turn of the system M: the five agents and the replanning loop.

    utterance -> Understander -> Planner -> Evaluator -> Executor -> Explainer -> reply
                     |              ^___________|___________|
                     question       violations, at most `max_replans` times

A turn ends with an answer, a question back or the domain's safe reply; a model's failure never raises. Invariants:
a change runs only in the turn in which the customer confirmed what the last reply proposed, so `confirmed` never
outlives its turn, and `proposed` is true only when this turn's reply proposed a change.
"""

import json
import time
from dataclasses import dataclass, field

from agentmill.agents.asking import derived_seed
from agentmill.agents.contracts import (
    AgentCall,
    EvaluatorAgent,
    EvaluatorTask,
    ExecutorAgent,
    ExecutorTask,
    ExplainerAgent,
    ExplainerTask,
    PlannerAgent,
    PlannerTask,
    Session,
    TextSink,
    TurnOutcome,
    UnderstanderAgent,
    UnderstanderTask,
)
from agentmill.agents.evaluator import Evaluator
from agentmill.agents.executor import Executor
from agentmill.agents.explainer import Explainer
from agentmill.agents.planner import Planner
from agentmill.agents.settings import TeamSettings
from agentmill.agents.state import DialogueState
from agentmill.agents.understander import Understander
from agentmill.domains.base import Domain, Json, Violation
from agentmill.models.chat import AgentName, ChatModel
from agentmill.plans.sandbox import Sandbox
from agentmill.records import Turn, TurnStatus

EXECUTION = "EXECUTION"


@dataclass
class _Progress:
    """What a turn has so far. `plan` is the last one made, `results` are those of the plan that ran."""

    seed: int
    calls: list[AgentCall] = field(default_factory=list)
    plan: str = ""
    complexity: float = 0.0
    replans: int = 0
    violations: list[str] = field(default_factory=list)
    results: Json | None = None


class Team:
    """The five agents. It keeps no state between turns: a Session holds it, so one team serves many conversations."""

    def __init__(
        self,
        domain: Domain,
        understander: UnderstanderAgent,
        planner: PlannerAgent,
        evaluator: EvaluatorAgent,
        executor: ExecutorAgent,
        explainer: ExplainerAgent,
        settings: TeamSettings,
    ) -> None:
        self.domain = domain
        self.understander = understander
        self.planner = planner
        self.evaluator = evaluator
        self.executor = executor
        self.explainer = explainer
        self.settings = settings
        self._shared = frozenset(name for name, entity in domain.entities.items() if entity.shared)

    @classmethod
    def local(
        cls,
        domain: Domain,
        model: ChatModel,
        sandbox: Sandbox,
        settings: TeamSettings,
        model_overrides: dict[AgentName, ChatModel] | None = None,
    ) -> "Team":
        """All five agents in this process, on one model but for the agents named in `model_overrides`."""
        models = model_overrides or {}
        return cls(
            domain,
            Understander(domain, models.get("understander", model), settings),
            Planner(domain, models.get("planner", model), settings),
            Evaluator(domain, models.get("evaluator", model), settings),
            Executor(domain, sandbox),
            Explainer(domain, models.get("explainer", model), settings),
            settings,
        )

    async def start(self, session_id: str, world_seed: int) -> Session:
        """A new conversation with a world of its own; close it with `executor.close(session_id)`."""
        return Session(id=session_id, facts=await self.executor.open(session_id, world_seed))

    async def turn(self, session: Session, utterance: str, seed: int, stream: TextSink | None = None) -> TurnOutcome:
        """Answer one utterance and bring the session up to date. `stream` gets the reply piece by piece.

        Raises:
            UnknownSession: when the session's world is not open.
        """
        began = time.perf_counter()
        done = _Progress(seed=derived_seed(seed, session.turn))
        reply, status = await self._answer(session, utterance, done, stream)
        session.last_reply = reply
        session.history.append((utterance, reply))
        row = Turn(
            sid=session.id,
            turn=session.turn,
            utterance=utterance,
            reply=reply,
            status=status,
            intent=session.state.intent,
            plan=done.plan,
            complexity=done.complexity,
            replans=done.replans,
            violations=tuple(done.violations),
            results_json=json.dumps(done.results or {}, ensure_ascii=False, separators=(",", ":")),
            latency_s=time.perf_counter() - began,
        )
        session.turn += 1
        return TurnOutcome(turn=row, calls=tuple(done.calls))

    async def _answer(
        self, session: Session, utterance: str, done: _Progress, stream: TextSink | None
    ) -> tuple[str, TurnStatus]:
        """The reply and how the turn ended; the session's state is that of the next turn."""
        before = session.state
        session.state = before.model_copy(update={"proposed": False, "confirmed": False})
        heard = await self.understander.run(
            UnderstanderTask(state=before, assistant=session.last_reply, utterance=utterance, seed=done.seed)
        )
        done.calls.extend(heard.calls)
        if heard.understanding is None:
            return await self._say(self.domain.safe_reply, "safe_reply", stream)
        state = before.updated(heard.understanding, self._shared)
        session.state = state.model_copy(update={"confirmed": False})
        if heard.understanding.question is not None:
            return await self._say(heard.understanding.question, "asked", stream)
        intent = self.domain.intents[state.intent]
        if intent.tools:
            done.results = await self._carry_out(session, state, done)
            if done.results is None:
                return await self._say(self.domain.safe_reply, "safe_reply", stream)
            session.state = session.state.model_copy(
                update={"proposed": intent.needs_confirmation and not state.confirmed}
            )
        return await self._explain(session, state, utterance, done, stream)

    async def _explain(
        self, session: Session, state: DialogueState, utterance: str, done: _Progress, stream: TextSink | None
    ) -> tuple[str, TurnStatus]:
        task = ExplainerTask(utterance=utterance, state=state, results=done.results, seed=done.seed)
        sent = _Remembered(stream)
        explained = await self.explainer.run(task, sent if stream is not None else None)
        done.calls.extend(explained.calls)
        if explained.reply is not None:
            return explained.reply, "answered"
        session.state = session.state.model_copy(update={"proposed": False})
        lead = f"{sent.text} " if sent.text else ""
        await self._say(f"{' ' if lead else ''}{self.domain.safe_reply}", "safe_reply", stream)
        return f"{lead}{self.domain.safe_reply}", "safe_reply"

    async def _carry_out(self, session: Session, state: DialogueState, done: _Progress) -> Json | None:
        """Plan, check and run, with at most `max_replans` further plans; None when no plan ran to its end."""
        refused: str | None = None
        violations: tuple[Violation, ...] = ()
        for replan in range(self.settings.max_replans + 1):
            done.replans = replan
            seed = derived_seed(done.seed, replan)
            planned = await self.planner.run(
                PlannerTask(state=state, refused=refused, violations=violations, seed=seed)
            )
            done.calls.extend(planned.calls)
            if planned.plan is None:
                return None
            done.plan = refused = planned.plan
            judged = await self.evaluator.run(
                EvaluatorTask(state=state, plan=planned.plan, facts=session.facts, seed=seed)
            )
            done.calls.extend(judged.calls)
            done.complexity = judged.complexity
            violations = judged.violations
            if not violations:
                ran = await self.executor.run(ExecutorTask(session=session.id, plan=planned.plan, state=state))
                session.facts = ran.facts
                if ran.error is None:
                    return ran.results
                violations = (Violation(code=EXECUTION, message=ran.error),)
            done.violations.extend(found.code for found in violations)
        return None

    async def _say(self, text: str, status: TurnStatus, stream: TextSink | None) -> tuple[str, TurnStatus]:
        if stream is not None:
            await stream(text)
        return text, status


class _Remembered:
    """Passes text on and keeps it."""

    def __init__(self, target: TextSink | None) -> None:
        self.target = target
        self.text = ""

    async def __call__(self, text: str) -> None:
        assert self.target is not None
        self.text += text
        await self.target(text)
