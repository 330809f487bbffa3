"""The stage responses: which prompts are asked, what is kept of an interrupted one, and what is said of failures."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agentmill.errors import UserError
from agentmill.models.chat import ChatReply, ChatRequest, ModelError
from agentmill.runs import Run
from simulation import responses
from simulation.corpora.rows import schema_of
from simulation.models import ModelSettings
from simulation.responses import ResponsesSettings

SETTINGS = ResponsesSettings(rows=40, heldout_rows=10, max_error_share=0.2)
ENDPOINT = ModelSettings(kind="endpoint", url="http://127.0.0.1:1/v1", name="student")


class Student:
    """Answers with its prompt's last words; what begins with `long` never ends, `ill` is refused."""

    def __init__(self, dies_after: int | None = None) -> None:
        self.asked: list[str] = []
        self.dies_after = dies_after

    async def complete(self, request: ChatRequest) -> ChatReply:
        if self.dies_after is not None and len(self.asked) >= self.dies_after:
            raise KeyboardInterrupt
        text = request.messages[-1].content
        self.asked.append(text)
        if text.startswith("ill"):
            raise ModelError("refused", retryable=False)
        reason = "length" if text.startswith("long") else "stop"
        return ChatReply(
            text=f"re: {text}", model="student", prompt_tokens=1, completion_tokens=1, finish_reason=reason, latency_s=0
        )


def corpus(folder: Path, texts: list[str]) -> Run:
    run = Run.create(folder, {}, "test")
    blank = {"call_id": "", "sid": "", "source": "teacher", "run": "r", "status": "open", "error": "", "model": ""}
    for split in ("train", "heldout"):
        rows = [
            {"prompt": [{"role": "user", "content": text}], "completion": [], "agent": "planner", **blank}
            for text in texts
        ]
        table = pa.Table.from_pylist(rows, schema=schema_of("drafter"))
        pq.write_table(table, run.path("corpora", "drafter", f"{split}.parquet"))
    return run


def answer(run: Run, student: Student, monkeypatch: pytest.MonkeyPatch, settings: Any = SETTINGS) -> list[str]:
    monkeypatch.setattr(responses, "build_model", lambda model, domain: student)
    responses.run(run, settings, domain="automotive", seed=3, model=ENDPOINT)
    rows = pq.read_table(run.path("responses", "train.parquet")).to_pylist()
    return [row["completion"][0]["content"] for row in rows]


def test_so_many_prompts_are_drawn_and_answered_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"{n:03d}" for n in range(100)]
    first = answer(corpus(tmp_path / "a", texts), Student(), monkeypatch)
    assert len(first) == 40
    assert first == sorted(first)
    assert first == answer(corpus(tmp_path / "b", texts), Student(), monkeypatch)


def test_parts_that_were_whole_are_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "PART", 8)
    run, settings = corpus(tmp_path / "run", [f"{n:03d}" for n in range(40)]), SETTINGS
    with pytest.raises(KeyboardInterrupt):
        answer(run, Student(dies_after=10 + 20), monkeypatch, settings)
    again = Student()
    assert len(answer(run, again, monkeypatch, settings)) == 40
    assert len(again.asked) == 40 - 16
    assert not run.path("responses", ".work").exists()


def test_what_got_no_answer_or_no_end_is_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = corpus(tmp_path / "run", ["ill", "long", *(f"{n:03d}" for n in range(18))])
    assert len(answer(run, Student(), monkeypatch)) == 18
    figures = run.figures("responses")
    assert (figures["responses.train_failed"].value, figures["responses.train_unfinished"].value) == (1, 1)


def test_too_many_failures_stop_the_stage_and_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = corpus(tmp_path / "run", ["ill"] * 5 + [f"{n:03d}" for n in range(5)])
    with pytest.raises(UserError, match=r"5 of 10 prompts of heldout .*because: refused"):
        answer(run, Student(), monkeypatch)
    endless = corpus(tmp_path / "endless", ["long"] * 5)
    with pytest.raises(UserError, match=r"5 of 5 prompts of heldout .*did not end within 256 tokens"):
        answer(endless, Student(), monkeypatch)


def test_a_run_without_the_corpus_is_told_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="run the stage corpora first"):
        answer(Run.create(tmp_path / "run", {}, "test"), Student(), monkeypatch)
