"""Fewer tokens are drafted where many requests are in a step: the setting, and what vLLM reads of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from vllm.v1.spec_decode.dynamic.utils import build_dynamic_sd_schedule_lookup

from agentmill.config import ConfigError, validate
from rayserve.engine import _by_batch, _engine_arguments
from rayserve.settings import EngineSettings, Speculative

MOST = 64


def drafted(lengths: dict[int, int], requests: int) -> int:
    """What the setting promises: the length of the first batch that holds the requests, none beyond."""
    return next((lengths[batch] for batch in sorted(lengths) if requests <= batch), 0)


@given(st.dictionaries(st.integers(1, MOST + 8), st.integers(0, 5), min_size=1))
def test_vllm_drafts_what_the_setting_promises(lengths: dict[int, int]) -> None:
    found = build_dynamic_sd_schedule_lookup(_by_batch(lengths), MOST, 5)
    assert found[1:] == [drafted(lengths, requests) for requests in range(1, MOST + 1)]


def test_the_lengths_reach_the_engine_beside_the_largest() -> None:
    settings = EngineSettings(speculative=Speculative(method="ngram", tokens=5, tokens_by_batch={16: 2, 4: 5}))
    config = _engine_arguments(settings, True)["speculative_config"]
    assert config["num_speculative_tokens"] == 5
    first, second, beyond = config["num_speculative_tokens_per_batch_size"]
    assert (first, second, beyond[0], beyond[2]) == ((1, 4, 5), (5, 16, 2), 17, 0)
    always = EngineSettings(speculative=Speculative(method="ngram", tokens=5))
    assert "num_speculative_tokens_per_batch_size" not in _engine_arguments(always, True)["speculative_config"]


@pytest.mark.parametrize(("lengths", "wrong"), [({4: 4}, 4), ({2: 3, 8: -1}, 8), ({0: 1, 4: 1}, 0)])
def test_lengths_that_cannot_be_drafted_are_refused(lengths: dict[int, int], wrong: int) -> None:
    with pytest.raises(ValidationError, match=rf"0 to tokens=3 are drafted .* the entry of {wrong}, or raise tokens"):
        Speculative(method="ngram", tokens=3, tokens_by_batch=lengths)


def test_lengths_are_read_from_a_file_whose_keys_are_texts() -> None:
    written = {"method": "ngram", "tokens": 3, "tokens_by_batch": {"4": 3, "16": 0}}
    assert validate(Speculative, written, "x").tokens_by_batch == {4: 3, 16: 0}
    with pytest.raises(ConfigError, match="tokens_by_batch"):
        validate(Speculative, {**written, "tokens_by_batch": {"many": 1}}, "x")
