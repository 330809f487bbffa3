"""The Explainer: what the customer said, the state and the plan's results -> the reply, one line of plain text."""

from agentmill.agents.asking import Invalid, ModelAgent
from agentmill.agents.contracts import ExplainerResult, ExplainerTask, TextSink
from agentmill.agents.frames import fold, render_frame


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

        asked = await self.ask(self.frame(task), _validate, task.seed, counted if stream else None)
        if stream is not None and asked.value is not None and not sent:
            await stream(asked.value)
        return ExplainerResult(reply=asked.value, calls=asked.calls)

    def frame(self, task: ExplainerTask) -> str:
        """The user message."""
        fields = task.state.fields(self.slots(task.state.intent))
        fields["customer"] = task.utterance
        if task.results is not None:
            fields["results"] = task.results
        return render_frame(fields)


def _validate(text: str) -> str:
    reply = fold(text)
    if not reply:
        raise Invalid("the reply is empty")
    return reply
