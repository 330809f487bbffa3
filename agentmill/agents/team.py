"""One customer turn of the system M: the five agents and the replanning loop.

    utterance -> Understander -> Planner -> Evaluator -> Executor -> Explainer -> reply
                     |              ^___________|___________|
                     question       violations, at most `max_replans` times

A turn ends with an answer, a question back or the domain's safe reply: neither a model's failure nor a bug of a domain
pack or an agent raises, but for a world that is gone (UnknownSession). What failed unforeseen is logged. Of the plans
that the complexity gate skipped and that ran to their end, a seeded share goes to the Evaluator's model in the
shadow, beside the Explainer. The turn never waits for that verdict: it comes with the outcome, and `settled` awaits
it. Invariants: a change runs only in the turn in which the customer confirmed what the last reply proposed, so
`confirmed` never outlives its turn, and `proposed` is true only when this turn's reply proposed a change.
"""

import asyncio
import json
import logging
import random
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
    Shadow,
    TextSink,
    TurnOutcome,
    UnderstanderAgent,
    UnderstanderTask,
    UnknownSession,
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
from agentmill.records import GateMark, Turn, TurnStatus

_log = logging.getLogger(__name__)
EXECUTION = "EXECUTION"


@dataclass
class _Progress:
    """What a turn has so far. `plan` is the last one made, `results` are those of the plan that ran."""

    seed: int
    requests: tuple[str, ...] = ()
    calls: list[AgentCall] = field(default_factory=list)
    plan: str = ""
    complexity: float = 0.0
    gate: GateMark = "none"
    shadow: Shadow | None = None
    replans: int = 0
    violations: list[str] = field(default_factory=list)
    results: Json | None = None
    changed: bool = False


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
            Executor(domain, sandbox, settings.world),
            Explainer(domain, models.get("explainer", model), settings),
            settings,
        )

    async def start(self, session_id: str, world_seed: int) -> Session:
        """A new conversation with a world of its own; close it with `executor.close(session_id)`."""
        return Session(id=session_id, facts=await self.executor.open(session_id, world_seed))

    async def switch(self, session: Session, name: str) -> None:
        """Let a change of the business take hold before the session's next turn, once however often it is asked for.

        Raises:
            UnknownSwitch: when the pack has no such switch, or the world nothing that it could be about.
            SwitchRefused: when the world is shared.
            UnknownSession: when the session's world is not open.
        """
        if name in session.state.switches:
            return
        self.domain.changes([name])
        session.facts = await self.executor.switch(session.id, name)
        session.state = session.state.model_copy(update={"switches": (*session.state.switches, name)})
        session.news = (*session.news, name)

    async def turn(self, session: Session, utterance: str, seed: int, stream: TextSink | None = None) -> TurnOutcome:
        """Answer one utterance and bring the session up to date. `stream` gets the reply piece by piece.

        A turn that raises leaves the session as it was: it can be made again, and changes the world once.

        Raises:
            UnknownSession: when the session's world is not open.
        """
        began = time.perf_counter()
        done = _Progress(seed=derived_seed(seed, session.turn))
        before = session.state
        try:
            reply, status = await self._safely(session, utterance, done, _Remembered(stream))
        except BaseException:
            session.state = before
            if done.shadow is not None:
                done.shadow.verdict.cancel()
            raise
        session.last_reply = reply
        session.history.append((utterance, reply))
        row = Turn(
            sid=session.id,
            turn=session.turn,
            utterance=utterance,
            reply=reply,
            status=status,
            intent="+".join(done.requests),
            plan=done.plan,
            complexity=done.complexity,
            gate=done.gate,
            replans=done.replans,
            violations=tuple(done.violations),
            results_json=json.dumps(done.results or {}, ensure_ascii=False, separators=(",", ":")),
            switches=session.news,
            latency_s=time.perf_counter() - began,
        )
        session.turn += 1
        session.news = ()
        return TurnOutcome(turn=row, calls=tuple(done.calls), shadow=done.shadow)

    async def _safely(
        self, session: Session, utterance: str, done: _Progress, sent: "_Remembered"
    ) -> tuple[str, TurnStatus]:
        """What `_answer` says; the safe reply where it fails in a way that nobody foresaw."""
        try:
            return await self._answer(session, utterance, done, sent)
        except UnknownSession:
            raise
        except Exception:  # noqa: BLE001 - surviving is the feature: no bug behind a turn may reach the customer
            _log.exception("turn %d of %s failed", session.turn, session.id)
            return await self._apologise(session, done, sent)

    async def _answer(
        self, session: Session, utterance: str, done: _Progress, sent: "_Remembered"
    ) -> tuple[str, TurnStatus]:
        """The reply and how the turn ended; the session's state is that of the next turn."""
        before = session.state
        session.state = before.model_copy(update={"proposed": False, "confirmed": False})
        if len(utterance) > self.settings.max_utterance:
            return await self._apologise(session, done, sent)
        heard = await self.understander.run(
            UnderstanderTask(state=before, assistant=session.last_reply, utterance=utterance, seed=done.seed)
        )
        done.calls.extend(heard.calls)
        if heard.understanding is None:
            return await self._apologise(session, done, sent)
        state = before.updated(heard.understanding, self.domain)
        done.requests = state.requests
        session.state = state.model_copy(update={"confirmed": False})
        if heard.understanding.question is not None:
            await sent(heard.understanding.question)
            return sent.text, "asked"
        if self.domain.under(state.switches).tools_of(state.requests):
            done.results = await self._carry_out(session, state, done)
            if done.results is None:
                return await self._apologise(session, done, sent)
            session.state = state.after(done.results, self.domain)
        task = ExplainerTask(utterance=utterance, state=state, results=done.results, seed=done.seed)
        explained = await self.explainer.run(task, sent if sent.target is not None else None)
        done.calls.extend(explained.calls)
        if explained.reply is None:
            return await self._apologise(session, done, sent)
        return explained.reply, "answered"

    async def _apologise(self, session: Session, done: _Progress, sent: "_Remembered") -> tuple[str, TurnStatus]:
        """The safe reply, after what was said already; nothing counts as proposed.

        Where the world was changed it says so: a customer who is told that nothing was understood would ask again.
        """
        reply = self.domain.changed_reply if done.changed else self.domain.safe_reply
        session.state = session.state.model_copy(update={"proposed": False, "confirmed": False})
        await sent(f" {reply}" if sent.text else reply)
        return sent.text, "safe_reply"

    async def _carry_out(self, session: Session, state: DialogueState, done: _Progress) -> Json | None:
        """Plan, check and run, with at most `max_replans` further plans; None when no plan ran to its end."""
        key = f"{session.id}:{session.opened}:{session.turn}"
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
            task = EvaluatorTask(state=state, plan=planned.plan, violations=violations, facts=session.facts, seed=seed)
            judged = await self.evaluator.run(task)
            done.calls.extend(judged.calls)
            done.complexity = judged.complexity
            done.gate = "asked" if judged.by_model else "skipped" if judged.skipped else "none"
            violations = judged.violations
            if not violations:
                ran = await self.executor.run(ExecutorTask(session=session.id, plan=planned.plan, state=state, key=key))
                session.facts = session.facts if ran.facts is None else ran.facts
                if ran.error is None:
                    done.changed = ran.changed
                    if judged.skipped:
                        self._shadow(task, done)
                    return ran.results
                violations = (Violation(code=EXECUTION, message=ran.error),)
            done.violations.extend(found.code for found in violations)
        return None

    def _shadow(self, task: EvaluatorTask, done: _Progress) -> None:
        """Begin to ask what the gate skipped, where the seed draws this plan.

        Not before the plan has run: one that the Executor refused had no effect that a verdict could have prevented.
        """
        if random.Random(derived_seed(task.seed, "shadow")).random() < self.settings.shadow_share:
            asked = asyncio.create_task(self.evaluator.run(task.model_copy(update={"shadow": True})))
            done.shadow = Shadow(asked, place=len(done.calls))
            done.gate = "shadow_unjudged"


class _Remembered:
    """Passes text on, where there is somebody to pass it on to, and keeps it."""

    def __init__(self, target: TextSink | None) -> None:
        self.target = target
        self.text = ""

    async def __call__(self, text: str) -> None:
        self.text += text
        if self.target is not None:
            await self.target(text)
