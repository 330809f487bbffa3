"""Playing held-out scenarios with a model: how far a hopeless one is played, what is kept of a killed evaluation."""

import asyncio
from pathlib import Path

import pytest

from agentmill.domains.base import Scenario, load_domain
from agentmill.records import Conversation, Turn, TurnStatus
from simulation.evaluate import EvaluateSettings, play_all
from simulation.rolled import Rolled
from simulation.rollout import stopped

SETTINGS = EvaluateSettings(scenarios=12, probe=4, concurrency=3)


@pytest.fixture(scope="module")
def scenarios() -> list[Scenario]:
    return list(load_domain("automotive").source("core")(12, 1, "heldout"))[:12]


class Model:
    """Ends every turn as it is told to, and remembers which scenarios it was asked to play."""

    def __init__(self, status: TurnStatus, *, wins: tuple[int, ...] = (), fails: tuple[int, ...] = ()) -> None:
        self.status, self.wins, self.fails = status, wins, fails
        self.played: list[str] = []

    async def __call__(self, scenario: Scenario, sid: str) -> Rolled:
        number = len(self.played)
        self.played.append(scenario.sid)
        await asyncio.sleep(0)
        if number in self.fails:
            return stopped(scenario, sid, "the server is gone", 0.1)
        turn = Turn(
            sid=sid, turn=0, utterance="Hello?", reply="Sorry.", status=self.status, intent="", plan="", complexity=0.0,
            replans=0, violations=(), results_json="{}", latency_s=0.1,
        )  # fmt: skip
        conversation = Conversation(
            sid=sid, scenario_json=scenario.model_dump_json(), status="exit", success=number in self.wins, reasons=(),
            turns=1, calls=0, world_json="{}", seconds=0.1,
        )  # fmt: skip
        return Rolled(conversation=conversation, turns=(turn,), calls=())


def play(model: Model, scenarios: list[Scenario], kept: Path) -> list[Rolled]:
    return asyncio.run(play_all(model, scenarios, SETTINGS, "base", kept))


def test_a_model_that_can_do_nothing_is_spared_most_of_it(
    scenarios: list[Scenario], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Model("safe_reply")
    done = play(model, scenarios, tmp_path / "kept.jsonl")
    assert len(done) == len(model.played) == 4
    assert {d.conversation.status for d in done} == {"exit"}  # a result, and no technical failure
    assert "completes none of 4 and can do nothing: 8 are not played" in capsys.readouterr().err


@pytest.mark.parametrize(
    "model",
    [Model("safe_reply", wins=(2,)), Model("safe_reply", fails=(1,)), Model("answered")],
    ids=["completes one", "the serving failed", "answers"],
)
def test_every_other_model_is_played_to_the_end(model: Model, scenarios: list[Scenario], tmp_path: Path) -> None:
    done = play(model, scenarios, tmp_path / "kept.jsonl")
    assert len(done) == len(model.played) == 12


def test_what_was_played_is_not_played_again_unless_it_failed(scenarios: list[Scenario], tmp_path: Path) -> None:
    kept = tmp_path / "kept.jsonl"
    play(Model("answered", fails=(5,)), scenarios, kept)
    again = Model("answered")
    assert len(play(again, scenarios, kept)) == 12
    assert len(again.played) == 1
