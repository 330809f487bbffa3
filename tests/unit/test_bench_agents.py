"""The bench of the agents plays real conversations and measures only what is ours."""

import pytest

from agentmill.config import ConfigError
from agentmill.domains.automotive import build
from agentmill.models.chat import ChatRequest, Message
from benchmarks.agents import Recorded, overhead, play
from tests.fakes import ScriptedModel, library


async def test_an_instant_model_asks_once_and_repeats_the_answer() -> None:
    model = ScriptedModel(planner=["one", "two"])
    instant = Recorded(model)
    requests = [ChatRequest(agent="planner", messages=(Message(role="user", content=text),)) for text in "aba"]
    assert [(await instant.complete(request)).text for request in requests] == ["one", "two", "one"]
    assert len(model.requests) == 2


def test_success_counts_conversations_and_tells_of_those_that_failed() -> None:
    played = play(build(), 12)
    assert (played.won, len(played.conversations), played.problems) == (12, 12, ())


def test_overhead_gives_a_rate_for_each_repeat_and_a_profile() -> None:
    measured = overhead(build(), conversations=3, repeats=2)
    assert measured.turns > 3
    assert len(measured.rates) == 2 and min(measured.rates) > 0
    assert "tottime" in measured.profile


def test_a_domain_without_an_expert_cannot_be_benched() -> None:
    with pytest.raises(ConfigError, match="no expert"):
        play(library(), 1)
