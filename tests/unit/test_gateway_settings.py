"""Settings of a served system, what is checked before a start, and the engine's answers in the project's form."""

import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.numpy import save_file

from agentmill.config import ConfigError, UserError, validate
from rayserve.preflight import checked_model, fitted, free_port
from rayserve.settings import EngineSettings, ServeSettings, Speculative


def test_a_busy_port_is_said_with_the_remedy() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"serve\.port={port} .*--set serve\.port="):
            free_port(port)


def test_port_0_is_any_free_port() -> None:
    assert free_port(0) > 1023


@pytest.fixture(scope="module")
def whole_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(
        json.dumps({"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 512})
    )
    (folder / "tokenizer_config.json").write_text("{}")
    save_file({"model.norm.weight": np.ones(64, dtype=np.float32)}, folder / "model.safetensors")
    return folder


def test_a_whole_model_folder_passes(whole_model: Path) -> None:
    assert checked_model(whole_model) == whole_model.resolve()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "config.json missing"),
        ("tokenizer_config.json", None, "tokenizer_config.json missing"),
        ("model.safetensors", None, "model.safetensors missing"),
        ("config.json", b"{", "config.json is not JSON"),
        ("model.safetensors", b"\x00" * 64, "model.safetensors is broken"),
    ],
)
def test_a_broken_model_folder_is_said_with_the_remedy(
    whole_model: Path, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    for file in whole_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{message}.*stage sft"):
        checked_model(tmp_path)


def test_weights_that_were_cut_short_are_found(whole_model: Path, tmp_path: Path) -> None:
    for file in whole_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="is broken"):
        checked_model(tmp_path)


@pytest.mark.parametrize("folder", [None, Path("/nowhere")])
def test_a_missing_model_folder_is_said_with_the_remedy(folder: Path | None) -> None:
    with pytest.raises(UserError, match="model folder"):
        checked_model(folder)


def test_the_engines_context_is_lowered_to_the_models_and_said(
    whole_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limit = json.loads((whole_model / "config.json").read_text())["max_position_embeddings"]
    assert fitted(EngineSettings(max_model_len=4096), whole_model).max_model_len == limit
    assert "serve.engine.max_model_len=4096" in capsys.readouterr().err
    small = EngineSettings(max_model_len=256, cpu_threads=3)
    assert fitted(small, whole_model) is small
    assert (fitted(EngineSettings(), whole_model).cpu_threads or 0) >= 1


def test_a_drafter_is_checked_before_the_start_and_named_in_full(
    whole_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"serve.engine.speculative.model .*none does not exist; train a drafter"):
        fitted(EngineSettings(speculative=Speculative(method="eagle3", model="none")), whole_model)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((whole_model / name).read_bytes())
    monkeypatch.chdir(tmp_path.parent)
    found = fitted(EngineSettings(speculative=Speculative(method="eagle3", model=tmp_path.name)), whole_model)
    assert found.speculative == Speculative(method="eagle3", model=str(tmp_path.resolve()))
    ngram = EngineSettings(speculative=Speculative(method="ngram"))
    assert fitted(ngram, whole_model).speculative == ngram.speculative


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"prot": 1}, "did you mean port"),
        ({"port": 70000}, "port=70000"),
        ({"engine": {"block_size": 20}}, "engine.block_size=20"),
        ({"engine": {"target_ongoing_requests": 99, "max_ongoing_requests": 9}}, "lower the target"),
        ({"model": {"kind": "endpoint"}}, "needs the server's `url`"),
        ({"model": {"kind": "oracle"}}, "model.kind='oracle'"),
        ({"engine": {"speculative": {"method": "eagle3"}}}, "give the drafter's folder as `model`"),
        ({"engine": {"speculative": {"method": "ngram", "model": "x"}}}, "ngram has no weights, leave it out"),
        ({"engine": {"speculative": {"method": "medusa"}}}, "engine.speculative.method='medusa'"),
    ],
)
def test_wrong_settings_are_told_with_the_key(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(ServeSettings, data, "serve")


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        ServeSettings().port = 1  # type: ignore[misc]


def test_the_application_is_a_pure_function_of_plain_arguments() -> None:
    from rayserve.app import build

    arguments = {"serve": '{"model": {"kind": "expert"}}', "domain": "automotive"}
    assert type(build(arguments)).__name__ == "Application"
    with pytest.raises(ConfigError, match="did you mean serve"):
        build({"server": {}})
    with pytest.raises(ConfigError, match="not JSON"):
        build({"serve": "{"})
