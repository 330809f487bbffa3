"""Range drift: what is refused, which of vLLM's layers stand for which, how they are counted and when it is told."""

import json
import logging
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from agentmill.config import UserError
from rayserve import drafting, ranges
from rayserve.answers import ClipCount, RangeDrift
from rayserve.drift import DriftWatch, check_watched, checked_ranges, gathered
from rayserve.engine import _engine_arguments
from rayserve.engines import _fitted
from rayserve.preflight import fitted
from rayserve.ranges import RangeWatch, is_looked_at, parts_of
from rayserve.settings import EngineSettings, ModelEngine, Speculative

FUSED = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}


class Layer(torch.nn.Module):
    """A layer as vLLM builds it: q, k and v in one module, and another that reads what that one wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv_proj = torch.nn.Linear(2, 2, bias=False)
        self.o_proj = torch.nn.Linear(2, 2, bias=False)
        for linear in (self.qkv_proj, self.o_proj):
            torch.nn.init.eye_(linear.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.o_proj(2 * self.qkv_proj(x))


class Model(torch.nn.Module):
    packed_modules_mapping = FUSED

    def __init__(self) -> None:
        super().__init__()
        self.layer = Layer().to(torch.bfloat16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def calibrated(limit: float = 2.0) -> dict[str, float]:
    return {f"layer.{name}": limit for name in ("q_proj", "k_proj", "v_proj", "o_proj")}


def test_sampling_without_eager_steps_is_refused_and_says_what_to_do() -> None:
    told = r"sample_ranges=0\.01 looks at the layers from hooks.*set enforce_eager=true, or sample_ranges=0"
    with pytest.raises(ValidationError, match=told):
        EngineSettings(sample_ranges=0.01, enforce_eager=False)
    with pytest.raises(ValidationError, match=r"vllm\.enforce_eager=False would replace .*leave it out"):
        ModelEngine(model="m", sample_ranges=0.01, vllm={"enforce_eager": False})
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        EngineSettings(sample_ranges=2)


def test_a_model_without_ranges_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    asked = EngineSettings(sample_ranges=0.5)
    with pytest.raises(UserError, match=r"sample_ranges=0\.5 compares .*ranges\.json is missing; serve a model"):
        fitted(asked, tmp_path)
    assert fitted(EngineSettings(), tmp_path)
    for text, told in (
        ("[1]", "no JSON object"),
        ('{"a": "b"}', "no JSON object"),
        ('{"a": -1}', "a=-1, and a magnitude is 0 or more"),
        ('{"a": NaN}', "a=nan"),
        ("{}", "has no layer"),
    ):
        (tmp_path / "ranges.json").write_text(text)
        with pytest.raises(UserError, match=told):
            checked_ranges(tmp_path, 0.5)
    (tmp_path / "ranges.json").write_text(json.dumps(calibrated()))
    assert checked_ranges(tmp_path, 0.5) == calibrated()


def test_a_model_by_name_has_no_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayserve.engines.wants_gpu", lambda settings: False)
    with pytest.raises(UserError, match=r"engines\.big\.sample_ranges=0\.5 reads ranges\.json .*org/big is a name"):
        _fitted("big", ModelEngine(model="org/big", sample_ranges=0.5))


def test_layers_of_the_ranges_that_no_worker_found_are_told() -> None:
    check_watched(calibrated(), [["layer.q_proj", "layer.k_proj"], ["layer.v_proj", "layer.o_proj"]])
    with pytest.raises(UserError, match=r"has 4 layers, and 1 of them, as layer\.v_proj, are none of the engine's"):
        check_watched(calibrated(), [["layer.q_proj", "layer.k_proj", "layer.o_proj"]])


def test_the_worker_is_extended_for_what_is_asked_of_it() -> None:
    ngram = Speculative(method="ngram")
    both = _engine_arguments(EngineSettings(speculative=ngram, sample_ranges=0.1), False)
    assert both["worker_extension_cls"] == f"{drafting.__name__}.{drafting.RepairAndRanges.__name__}"
    alone = f"{ranges.__name__}.{ranges.Ranges.__name__}"
    assert _engine_arguments(EngineSettings(sample_ranges=0.1), False)["worker_extension_cls"] == alone
    on_gpu = _engine_arguments(EngineSettings(speculative=ngram, sample_ranges=0.1), True)
    assert on_gpu["worker_extension_cls"] == alone
    assert "worker_extension_cls" not in _engine_arguments(EngineSettings(), False)


def test_a_fused_module_stands_for_the_layers_that_share_its_input() -> None:
    prefix = "model.layers.0"
    names = [f"{prefix}.self_attn.qkv_proj", f"{prefix}.mlp.gate_up_proj", f"{prefix}.mlp.down_proj", "lm_head", ""]
    known = dict.fromkeys((f"{prefix}.mlp.{part}" for part in ("gate_proj", "up_proj", "down_proj")), 1.0)
    known[f"{prefix}.self_attn.q_proj"] = 1.0
    assert parts_of(names, FUSED, known) == {
        f"{prefix}.self_attn.qkv_proj": [f"{prefix}.self_attn.q_proj"],
        f"{prefix}.mlp.gate_up_proj": [f"{prefix}.mlp.gate_proj", f"{prefix}.mlp.up_proj"],
        f"{prefix}.mlp.down_proj": [f"{prefix}.mlp.down_proj"],
    }
    assert parts_of(["o_proj"], FUSED, {"o_proj": 1.0}) == {"o_proj": ["o_proj"]}


def test_what_lies_outside_is_counted_by_layer() -> None:
    model = Model()
    watch = RangeWatch(model, calibrated(2.0), 1.0)
    with torch.inference_mode():
        model(torch.tensor([[1.0, -2.0], [2.5, -0.5], [3.0, -3.0]], dtype=torch.bfloat16))
    fused, out = [3, 6], [4, 6]  # 2 itself lies inside; the other module sees twice as much
    assert watch.counts() == {"layer.q_proj": fused, "layer.k_proj": fused, "layer.v_proj": fused, "layer.o_proj": out}
    watch.close()
    with torch.inference_mode():
        model(torch.full((3, 2), 9.0, dtype=torch.bfloat16))
    assert watch.counts()["layer.o_proj"] == out


def test_a_limit_between_two_bf16_values_is_not_rounded() -> None:
    above = 1.0 + 2**-7
    for limit, clipped in ((above - 2**-10, 2), (above + 2**-10, 0)):
        model = Model()
        watch = RangeWatch(model, {"layer.q_proj": limit}, 1.0)
        model(torch.full((1, 2), above, dtype=torch.bfloat16))
        assert watch.counts() == {"layer.q_proj": [clipped, 2]}


def test_the_share_of_the_steps_is_looked_at_and_the_others_have_no_hooks() -> None:
    model = Model()
    watch = RangeWatch(model, calibrated(), 0.25)
    for _ in range(8):
        model(torch.ones(1, 2, dtype=torch.bfloat16))
        assert not model.layer.o_proj._forward_pre_hooks
    assert watch.counts()["layer.o_proj"] == [0, 4]
    for share, steps in ((0.01, 10), (0.3, 300), (1.0, 1000)):
        assert sum(is_looked_at(step, share) for step in range(1, 1001)) == steps


def test_workers_count_their_share_of_an_input_and_the_first_what_all_have() -> None:
    counted = []
    for rank in (0, 1):
        model = Model()
        for linear, parallel in ((model.layer.qkv_proj, False), (model.layer.o_proj, True)):
            linear.tp_rank, linear.input_is_parallel = rank, parallel
        watch = RangeWatch(model, calibrated(), 1.0)
        model(torch.full((1, 2), 1.5, dtype=torch.bfloat16))
        counted.append(watch.counts())
    drift = gathered(counted)
    assert drift.by_layer["layer.q_proj"] == ClipCount(0, 2)
    assert drift.by_layer["layer.o_proj"] == ClipCount(4, 4)
    assert (drift.total, drift.worst) == (ClipCount(4, 10), "layer.o_proj")


async def test_a_rate_above_the_bound_is_told_of_what_was_sampled_lately(caplog: pytest.LogCaptureFixture) -> None:
    since_the_start = [(0, 0), (1, 1000), (11, 2000), (11, 3000), (11, 3000)]
    readings = iter([RangeDrift({"a": ClipCount(*pair), "b": ClipCount(0, pair[1])}) for pair in since_the_start])

    async def read() -> RangeDrift:
        return next(readings)

    watch = DriftWatch(read, 1e-3)
    told = []
    with caplog.at_level(logging.WARNING, "ray.serve"):
        logging.getLogger("ray.serve").addHandler(caplog.handler)
        for _ in since_the_start:
            caplog.clear()
            await watch.look()
            told.append(caplog.messages)
        logging.getLogger("ray.serve").removeHandler(caplog.handler)
    assert [bool(one) for one in told] == [False, False, True, False, False]
    assert "0.005 of 2,000 sampled inputs" in told[2][0]
    assert "max_clip_rate=0.001; most in a (0.01)" in told[2][0]
