"""The shape of a model, from its configuration and the headers of its weights."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from raytrain.shape import ShapeError, read_shape, shape_of
from tests.llama8b import LLAMA_8B
from tests.tiny_llama import write_tiny_llama


def test_llama_8b_and_its_expansion_have_the_published_sizes() -> None:
    shape = shape_of(LLAMA_8B)
    assert shape.parameters == 8_030_261_248
    assert shape.expanded(4).layers == 40
    assert round(shape.expanded(4).parameters / 1e9, 1) == 9.8
    assert shape.adapters(128, "all-linear") == 2 * shape.adapters(64, "all-linear") == 335_544_320
    assert shape.adapters(8, ("q_proj",)) == 32 * 8 * 2 * 4096


def test_headers_and_dimensions_count_the_same(tmp_path: Path) -> None:
    shape = read_shape(write_tiny_llama(tmp_path, layers=3))
    assert shape.counted is not None
    assert shape.parameters == replace(shape, counted=None).parameters
    assert shape.expanded(3).parameters == replace(shape, counted=None).expanded(3).parameters > shape.parameters


@pytest.mark.parametrize(("family", "more"), [("qwen2", {}), ("qwen3", {"head_dim": 32}), ("mistral", {})])
def test_the_other_families_count_as_transformers_does(family: str, more: dict[str, int]) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    small = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 50}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = AutoConfig.for_model(family, **small, **heads, **more)
    model = AutoModelForCausalLM.from_config(config)
    assert shape_of(config.to_dict()).parameters == model.num_parameters()


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match=r"has no config\.json.*give a Hugging Face model folder"):
        read_shape(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with pytest.raises(ShapeError, match="model_type=mamba is none of llama"):
        read_shape(tmp_path)
