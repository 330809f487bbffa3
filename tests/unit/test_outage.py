"""A judge that hangs, breaks, talks nonsense or is away for a while: nothing is scored by accident, nothing is lost."""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from agentmill.domains.base import load_domain
from agentmill.models.chat import ChatReply, ChatRequest, Message, ModelError
from agentmill.models.openai_client import OpenAIModel
from simulation.judge import Judge, Judged
from simulation.outage import Guarded, ModelDown, OutageSettings, Stopped
from tests.fakes import reply
from tests.judge_endpoint import JudgeEndpoint, Mood

AUTOMOTIVE = load_domain("automotive")
FRAME = "intent: none\nassistant: none\ncustomer: When are you open on Friday?"
HEARD = '{"intent":"opening_hours","entities":{"day":"friday"},"confirmed":false,"question":null}'
QUICK = OutageSettings(failures_in_a_row=3, probe_s=0.05, probe_max_s=0.2, outage_s=60.0)


@pytest.fixture
def endpoint() -> Iterator[JudgeEndpoint]:
    with JudgeEndpoint() as server:
        yield server


@contextlib.asynccontextmanager
async def judge_of(endpoint: JudgeEndpoint, settings: OutageSettings = QUICK) -> AsyncIterator[tuple[Judge, Guarded]]:
    model = OpenAIModel(endpoint.settings.url, "judge", timeout_s=endpoint.settings.timeout_s, max_retries=0)
    guarded = Guarded(model, settings, name="the judge", attempts=2)
    yield Judge(AUTOMOTIVE, guarded, endpoint.settings, attempts=2, max_tokens=500), guarded
    await model.close()


@pytest.mark.parametrize("mood", ["hangs", "500", "no_http", "empty"])
async def test_a_judge_that_is_away_for_a_while_costs_time_and_no_verdict(endpoint: JudgeEndpoint, mood: Mood) -> None:
    endpoint.mood = mood

    async def mend() -> None:
        while len(endpoint.asked) < 5:
            await asyncio.sleep(0.01)
        endpoint.mood = "well"

    async with judge_of(endpoint) as (judge, guarded):
        mending = asyncio.create_task(mend())
        many = await asyncio.gather(*(judge.judge("understander", FRAME, HEARD) for _ in range(12)))
        await mending
    assert [(one.verdict, one.refined) for one in many] == [("keep", HEARD)] * 12
    assert guarded.outages.count >= 1  # a slow machine may take an answer for none
    assert guarded.outages.seconds > 0


async def test_while_the_judge_is_away_one_call_probes_and_the_others_wait() -> None:
    away = Away()
    guarded = Guarded(away, OutageSettings(failures_in_a_row=4, probe_s=0.2, probe_max_s=600.0), name="the judge")
    asking = [asyncio.create_task(guarded.complete(request())) for _ in range(20)]
    while away.asked < 21:
        await asyncio.sleep(0.01)
    assert guarded.outages.count == 1
    assert away.most == 20  # all at once while it was thought to be there
    away.most = 0
    while away.asked < 23:
        await asyncio.sleep(0.01)
    assert away.most == 1
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)


async def test_a_judge_that_does_not_come_back_stops_the_work_with_the_reason(endpoint: JudgeEndpoint) -> None:
    endpoint.mood = "500"
    async with judge_of(endpoint, QUICK.model_copy(update={"outage_s": 0.2})) as (judge, _):
        told = await asyncio.gather(
            *(judge.judge("understander", FRAME, HEARD) for _ in range(5)), return_exceptions=True
        )
    assert all(isinstance(one, ModelDown | Stopped) for one in told)
    away = next(one for one in told if isinstance(one, ModelDown))
    assert re.search(r"the judge has answered nothing for .*outage_s=0.2.*500", str(away))


@pytest.mark.parametrize(("mood", "because"), [("garbage", "unreadable"), ("cut", "cut"), ("forbidden", "no_answer")])
async def test_answers_that_are_no_verdicts_leave_the_call_unjudged(
    endpoint: JudgeEndpoint, mood: Mood, because: str
) -> None:
    endpoint.mood = mood
    async with judge_of(endpoint) as (judge, guarded):
        judged: Judged = await judge.judge("understander", FRAME, HEARD)
    assert (judged.verdict, judged.refined, judged.because, judged.failed) == ("unjudged", "", because, True)
    assert guarded.outages.count == 0  # the judge is there


async def test_one_call_that_always_fails_is_given_up_and_the_others_are_judged(endpoint: JudgeEndpoint) -> None:
    endpoint.mood, endpoint.fails_on = "500", "tomorrow"
    other = FRAME.replace("on Friday", "tomorrow")
    async with judge_of(endpoint, QUICK.model_copy(update={"failures_in_a_row": 100})) as (judge, _):

        async def healthy() -> None:
            while True:
                assert (await judge.judge("understander", FRAME, HEARD)).verdict == "keep"

        meanwhile = asyncio.create_task(healthy())
        judged = await judge.judge("understander", other, HEARD)
        meanwhile.cancel()
    assert (judged.verdict, judged.because) == ("unjudged", "no_answer")


async def test_a_job_that_is_told_to_stop_does_not_wait_for_the_judge(tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    settings = OutageSettings(failures_in_a_row=1, probe_s=600.0, probe_max_s=600.0)
    guarded = Guarded(Away(), settings, name="the judge", stop=str(stop))
    waiting = asyncio.create_task(guarded.complete(request()))
    await asyncio.sleep(0.05)
    stop.touch()
    began = time.monotonic()
    with pytest.raises(Stopped):
        await waiting
    assert time.monotonic() - began < 60


async def test_a_refusal_is_an_answer_and_ends_an_outage() -> None:
    class Moody:
        def __init__(self) -> None:
            self.lines: list[ModelError | str] = [
                ModelError("away"),
                ModelError("away"),
                ModelError("no", retryable=False),
                "yes",
            ]

        async def complete(self, request: ChatRequest) -> ChatReply:
            line = self.lines.pop(0)
            if isinstance(line, ModelError):
                raise line
            return reply(line)

    guarded = Guarded(Moody(), OutageSettings(failures_in_a_row=2, probe_s=0.01), name="the judge")
    with pytest.raises(ModelError, match="no"):
        await guarded.complete(request())
    assert guarded.outages.count == 1
    assert (await guarded.complete(request())).text == "yes"


class Away:
    """Never there. `asked` counts the calls, `most` how many there were at once."""

    def __init__(self) -> None:
        self.asked = self.now = self.most = 0

    async def complete(self, request: ChatRequest) -> ChatReply:
        self.asked += 1
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        raise ModelError("no route")


def request() -> ChatRequest:
    return ChatRequest(agent="judge", messages=(Message(role="user", content="x"),))
