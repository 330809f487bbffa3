"""The Explainer states only what it was given: an invented fact is refused, and named to the model when asked again."""

from collections.abc import Iterable

import pytest

from agentmill.agents.contracts import ExplainerTask
from agentmill.agents.explainer import Explainer
from agentmill.agents.settings import TeamSettings
from agentmill.agents.state import DialogueState
from agentmill.domains.automotive import build
from tests.fakes import ScriptedModel, StreamingScript

STATE = DialogueState(intent="vehicle_details", entities={"stock": "N4821"})
RESULTS = {"car": {"year": 2021, "make": "Toyota", "model": "RAV4", "price": 27450}}
TASK = ExplainerTask(utterance="What is N4821 like?", state=STATE, results=RESULTS)
TRUE = "N4821 is a 2021 Toyota RAV4 for $27450."
INVENTED = "N4821 is a 2021 Honda RAV4 for $19900."


def explainer(said: Iterable[str], **settings: bool) -> tuple[Explainer, ScriptedModel]:
    model = StreamingScript(explainer=list(said))
    return Explainer(build(), model, TeamSettings(**settings)), model


async def test_an_invented_fact_is_named_and_the_reply_asked_for_again() -> None:
    agent, model = explainer([INVENTED, TRUE])
    result = await agent.run(TASK)
    assert result.reply == TRUE
    assert [call.status for call in result.calls] == ["invalid", "ok"]
    assert "19900" in result.calls[0].error and "honda" in result.calls[0].error
    assert "19900" in model.requests[1].messages[-1].content


async def test_a_model_that_goes_on_inventing_gives_no_reply() -> None:
    agent, _ = explainer([INVENTED])
    result = await agent.run(TASK)
    assert result.reply is None
    assert [call.status for call in result.calls] == ["invalid"] * 3


@pytest.mark.parametrize(
    ("reply", "task"),
    [
        ("You said N4821.", TASK),
        (
            "On Friday we are closed.",
            TASK.model_copy(update={"state": DialogueState(intent="opening_hours", entities={"day": "friday"})}),
        ),
        ("Hello! How can I help you today?", TASK.model_copy(update={"results": None})),
    ],
)
async def test_what_the_customer_said_and_the_state_holds_may_be_said(reply: str, task: ExplainerTask) -> None:
    agent, _ = explainer([reply])
    assert (await agent.run(task)).reply == reply


async def test_what_is_streamed_or_not_to_be_checked_is_passed_on_as_it_is() -> None:
    heard: list[str] = []

    async def sink(text: str) -> None:
        heard.append(text)

    agent, _ = explainer([INVENTED])
    assert (await agent.run(TASK, sink)).reply == INVENTED == "".join(heard)
    agent, _ = explainer([INVENTED], grounded_replies=False)
    assert (await agent.run(TASK)).reply == INVENTED
