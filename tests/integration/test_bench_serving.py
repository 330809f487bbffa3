"""Two real engines measured beside each other: a small random model, with and without drafts from its own words."""

from pathlib import Path

import pytest

from agentmill.agents.settings import TeamSettings
from agentmill.models.chat import ChatRequest, Message, Sampling
from benchmarks.serving import CALLS, Configuration, Extent, Work, measure
from rayserve.serve import serve_controller
from rayserve.settings import ModelEngine, Speculative
from tests.fakes import library
from tests.tiny_llama import write_tiny_llama

BLOCK = 32
DRAFTED = "drafts of 3"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of bytes with a head size that vLLM's CPU attention has."""
    return write_tiny_llama(tmp_path_factory.mktemp("model") / "tiny", hidden=128, tied=False, seed=1)


def calls() -> list[ChatRequest]:
    """Four prompts that differ from the first word on, each twice; they repeat themselves, for drafts."""
    prompts = [(f"{word} are you open? " * 4, "We are.", f"{word}?") for word in ("when", "where", "how long", "why")]
    roles = ("user", "assistant", "user")
    return [
        ChatRequest(
            agent="explainer",
            messages=tuple(Message(role=role, content=said) for role, said in zip(roles, prompt, strict=True)),
            sampling=Sampling(max_tokens=16),
        )
        for prompt in prompts * 2
    ]


def tokens(call: ChatRequest) -> int:
    """Of a prompt: one a byte, two around each message, and the one that opens the answer."""
    return sum(len(message.content) + 2 for message in call.messages) + 1


def test_two_engines_answer_the_same_and_what_they_counted_is_of_each_replay(
    ray_local: None, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    engine = ModelEngine(
        model=str(model), accelerator="cpu", dtype="float32", max_model_len=512, max_num_seqs=8, block_size=BLOCK
    )
    drafting = engine.model_copy(update={"speculative": Speculative(method="ngram", tokens=3)})
    made = [Configuration("bf16", engine), Configuration(DRAFTED, drafting, same_as="bf16")]
    work = Work(library(), TeamSettings(), calls(), [])
    measured = measure(made, ["bf16"], work, Extent((1, 4), (), calls=8, rounds=1, repeats=1))
    assert serve_controller() is None
    assert "LongPollClient" not in capfd.readouterr().err
    found_again = sum((tokens(call) - 1) // BLOCK * BLOCK for call in calls()[4:])
    for in_flight in (1, 4):
        assert measured.equal(in_flight) == (8, 8)
        for name in ("bf16", DRAFTED):
            cell = measured.cell(CALLS, name, in_flight)
            assert cell is not None
            sample, counts = cell.samples[0, 0], cell.counts[0, 0]
            assert sample.texts[:4] == sample.texts[4:]
            assert len(set(sample.texts)) == 4
            assert sample.tokens == counts.generated == 8 * 16
            # The prompts were asked before, when it was warm and at one in flight, and the engine has forgotten them.
            assert (counts.prompt_tokens, counts.cached_tokens) == (sum(map(tokens, calls())), found_again)
            assert counts.preempted == 0
            assert (cell.mgl is None) == (counts.drafts == 0) == (name == "bf16")
            assert 0 <= counts.accepted <= counts.drafted <= 3 * counts.drafts
            if name == DRAFTED:
                assert counts.accepted > 0 and counts.generated > counts.drafts
    ratio = measured.ratio(DRAFTED, "bf16", 4)
    assert ratio is not None and (ratio.n, ratio.value > 0) == (1, True)
