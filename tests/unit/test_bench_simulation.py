"""The bench of the simulation measures whole conversations against an endpoint that only answers what was recorded."""

import json
import time
from pathlib import Path

import httpx
import pytest

from agentmill.config import ConfigError
from agentmill.models.chat import Message
from agentmill.runs import Run
from benchmarks import pace
from benchmarks.endpoint import LATENCY_S, Endpoint
from benchmarks.simulation import Count, Measured, Rate, Window, measure
from tests.fakes import reply

MESSAGES = (Message(role="system", content="é\n"), Message(role="user", content="u"))


def test_the_endpoint_answers_what_was_recorded_after_its_latency_and_nothing_else(tmp_path: Path) -> None:
    body = {"model": "m", "messages": [message.model_dump() for message in MESSAGES]}
    with Endpoint({MESSAGES: reply("hello there")}, tmp_path) as endpoint, httpx.Client(trust_env=False) as client:
        for _ in range(2):  # on one connection
            began = time.perf_counter()
            answer = client.post(f"{endpoint.url}/chat/completions", json=body)
            assert time.perf_counter() - began >= LATENCY_S
            assert answer.json()["choices"][0]["message"]["content"] == "hello there"
            assert answer.json()["usage"]["completion_tokens"] == 2
        other = json.dumps(body).replace('"u"', '"v"')
        assert client.post(f"{endpoint.url}/chat/completions", content=other).status_code == 404
    with pytest.raises(httpx.TransportError):
        httpx.get(endpoint.url, trust_env=False)


def test_conversations_the_client_and_threads_are_measured() -> None:
    try:
        measured = measure("automotive", 16, 1, Window(warm_s=0.5, counted_s=1.0), sizes=(4,), threads=4)
    except ConfigError as error:
        pytest.skip(str(error))
    assert measured.prompts > 100
    for rate in (*measured.ours, measured.client, measured.threads):
        assert 0 < rate.median <= 1.1 * rate.ideal
        assert rate.own > 0


def test_figures_are_medians_with_the_span_of_the_repeats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def rate(in_flight: int, *rates: float) -> Rate:
        return Rate(in_flight, tuple(Count(one, 0.9, 0.1) for one in rates))

    run = Run.create(tmp_path / "run", {}, "test")
    ours = (rate(16, 300, 310, 320), rate(256, 900, 1000, 1100))
    measured = Measured(ours, rate(256, 3000, 4000, 5000), rate(256, 250, 250, 400), 100, 2000)
    pace.record(measured, run)
    found = {name.removeprefix("simulate.endpoint."): one for name, one in run.figures("simulate").items()}
    assert found["share_of_ideal@16"].value == pytest.approx(310 / 320)
    assert found["share_of_ideal@256"].interval == pytest.approx((900 / 5120, 1100 / 5120))
    assert (found["calls_per_s_per_core"].value, found["calls_per_s_per_core"].n) == (1000, 3)
    assert found["client.calls_per_s_per_core"].value == 4000
    assert found["ratio_to_threads@256"].value == 4.0
    assert found["ratio_to_threads@256"].interval == (2.75, 4.0)
    assert found["in_flight_at_90_percent"].value == 16
    assert any("19.5%" in line and "conversations" in line for line in pace.table(measured))
