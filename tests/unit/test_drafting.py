"""The repair of vLLM's CPU kernel: each drafted token has the temperature of its request."""

import pytest
import torch

from rayserve import drafting
from rayserve.engine import _engine_arguments
from rayserve.settings import EngineSettings, Speculative


def test_drafted_tokens_have_their_requests_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.sample import rejection_sampler

    monkeypatch.setattr(rejection_sampler, "expand_kernel", drafting.kernels.expand_kernel)
    ends = torch.tensor([2, 2, 5], dtype=torch.int32)
    temperatures = rejection_sampler.expand_batch_to_tokens(torch.tensor([0.0, 1.5, 0.7]), ends, 5, 0, 1)
    assert temperatures.tolist() == pytest.approx([1.0, 1.0, 0.7, 0.7, 0.7])
    top_k = rejection_sampler.expand_batch_to_tokens(torch.tensor([3, 4, 5], dtype=torch.int32), ends, 5)
    assert top_k.tolist() == [3, 3, 5, 5, 5]


def test_an_engine_with_a_drafter_is_repaired_on_the_cpu_only() -> None:
    ngram = EngineSettings(speculative=Speculative(method="ngram", tokens=2))
    arguments = _engine_arguments(ngram, False)
    assert arguments["worker_extension_cls"] == f"{drafting.__name__}.{drafting.Repair.__name__}"
    assert arguments["speculative_config"]["num_speculative_tokens"] == 2
    assert "worker_extension_cls" not in _engine_arguments(ngram, True)
    assert "speculative_config" not in _engine_arguments(EngineSettings(), False)
    eagle = EngineSettings(speculative=Speculative(method="eagle3", model="/drafter"))
    assert _engine_arguments(eagle, True)["speculative_config"]["model"] == "/drafter"
