"""The Explainer: what the customer said, the state and the plan's results -> the reply, one line of plain text.

With `grounded_replies` it states only what it was given: a reply with a fact that stands nowhere in its task is refused
and asked for again. What is streamed has been heard before it could be checked, so there the check says nothing.
"""

from agentmill.agents.asking import Invalid, ModelAgent
from agentmill.agents.contracts import ExplainerResult, ExplainerTask, TextSink
from agentmill.agents.frames import fold, render_frame

MAX_NAMED = 5


class Explainer(ModelAgent):
    """See the module. With `stream` the reply is passed on while it is made, where the model can stream."""

    name = "explainer"

    async def run(self, task: ExplainerTask, stream: TextSink | None = None) -> ExplainerResult:
        """Explain once; `reply` is None when the model gave no text."""
        sent = False

        async def counted(text: str) -> None:
            nonlocal sent
            sent = True
            assert stream is not None
            await stream(text)

        checked = self.settings.grounded_replies and stream is None
        asked = await self.ask(
            self.frame(task), lambda text: self._validate(text, task, checked), task.seed, counted if stream else None,
            switches=task.state.switches,
        )  # fmt: skip
        if stream is not None and asked.value is not None and not sent:
            await stream(asked.value)
        return ExplainerResult(reply=asked.value, calls=asked.calls)

    def frame(self, task: ExplainerTask) -> str:
        """The user message."""
        fields = self.state_fields(task.state)
        fields["customer"] = task.utterance
        if task.results is not None:
            fields["results"] = task.results
        return render_frame(fields)

    def _validate(self, text: str, task: ExplainerTask, checked: bool) -> str:
        reply = fold(text)
        if not reply:
            raise Invalid("the reply is empty")
        invented = self._invented(reply, task) if checked else []
        if invented:
            raise Invalid(f"the reply says what stands nowhere in the message: {', '.join(invented[:MAX_NAMED])}")
        return reply

    def _invented(self, reply: str, task: ExplainerTask) -> list[str]:
        """The facts of a reply that are in neither the results, nor the state, nor the customer's words."""
        slots = self.domain.under(task.state.switches).slots_of(task.state.requests)
        state = {name: task.state.entities[name] for name in slots if name in task.state.entities}
        known = {"results": task.results or {}, "state": state, "utterance": task.utterance}
        return self.domain.grounded(reply, known)
