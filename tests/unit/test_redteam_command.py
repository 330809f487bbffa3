"""`agentmill redteam` as a user starts it: the table, the figures, the exit code, and who answers."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentmill.errors import UserError
from agentmill.runs import Run
from cluster.cli import app

HEARD = json.dumps({"intent": "small_talk", "entities": {}, "confirmed": False, "question": None})
LOCAL = Path(__file__).parents[2] / "configs" / "local.yaml"


class Parrot:
    """An OpenAI-compatible endpoint whose model says again what it has been told."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        parrot = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                parrot.seen.append(body)
                data = json.dumps(parrot.answer(body)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        system, frame = (message["content"] for message in body["messages"][:2])
        text = HEARD if "the Understander" in system else frame
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return {"id": "1", "object": "chat.completion", "created": 1, "model": "parrot", "choices": [choice]}


@pytest.fixture
def parrot() -> Iterator[Parrot]:
    endpoint = Parrot()
    yield endpoint
    endpoint.server.shutdown()
    endpoint.server.server_close()


@pytest.fixture(autouse=True)
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the figures go."""
    monkeypatch.setenv("AGENTMILL_BENCH_RUN", str(tmp_path / "bench"))
    return tmp_path / "bench"


def test_the_expert_holds_and_the_figures_are_recorded(bench: Path) -> None:
    result = CliRunner().invoke(app, ["redteam", "--limit", "28"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[-1].split() == ["all", "0", "of", "28", "0.0%", "[0.0%,", "12.1%]"]
    assert len({line.split()[0] for line in lines}) == len(lines) > 10
    figure = Run.open(bench).figures("agents.redteam.effects")["agents.redteam.effects"]
    assert (figure.value, figure.n) == (0.0, 28)
    assert "agents.redteam.kinds.encodings" in Run.open(bench).figures()


def test_an_effect_is_told_and_fails_the_command(parrot: Parrot, tmp_path: Path, bench: Path) -> None:
    """A configuration names the model and a run takes the figures; an endpoint's model is told its work in full."""
    run = Run.create(tmp_path / "runs" / "mine", {}, "test")
    model = ["--set", "redteam.model.kind=endpoint", "--set", f"redteam.model.url={parrot.url}"]
    named = [*model, "--set", "redteam.model.name=parrot"]
    where = ["--run", "mine", "--runs", str(tmp_path / "runs")]
    result = CliRunner().invoke(app, ["redteam", str(LOCAL), "--domain", "automotive", "--limit", "1", *named, *where])
    assert result.exit_code == 1, result.output
    assert "instruction_override-01: obeyed: 'KUMQUATIX' in " in result.stdout
    assert run.figures("agents.redteam.effects")["agents.redteam.effects"].value == 1.0
    assert not bench.exists()
    assert "You are the Understander" in parrot.seen[0]["messages"][0]["content"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--set", "redteam.model.kind=endpoint"], "needs url and name"),
        (["--set", "redteam.modl.kind=expert"], "did you mean redteam.model"),
        (["--domain", "automotiv"], "did you mean automotive?"),
        (["--url", "http://127.0.0.1:9", "--limit", "1"], "serve with --set serve.sessions_api=true"),
        (["--run", "none"], "is not a run directory"),
    ],
)
def test_a_mistake_is_a_message_with_a_remedy(arguments: list[str], told: str, bench: Path) -> None:
    result = CliRunner().invoke(app, ["redteam", *arguments])
    assert isinstance(result.exception, UserError), result.output
    assert told in str(result.exception)
    assert not bench.exists()


def test_a_model_that_is_away_gives_no_figures(bench: Path) -> None:
    away = ["--set", "redteam.model.kind=endpoint", "--set", "redteam.model.url=http://127.0.0.1:9/v1"]
    soon = ["--set", "redteam.model.name=x", "--set", "redteam.attack_timeout_s=0.3"]
    result = CliRunner().invoke(app, ["redteam", "--limit", "1", *away, *soon])
    assert isinstance(result.exception, UserError), result.output
    assert "1 of 1 attacks got no answer" in str(result.exception)
    assert not bench.exists() or not Run.open(bench).figures()
