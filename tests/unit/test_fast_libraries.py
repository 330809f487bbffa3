"""An engine on the CPU: faster libraries before the others, where they are, and blocks that it can have."""

import ctypes.util
import sys
from pathlib import Path

import pytest

from agentmill.config import UserError
from rayserve.engine import _environment, build, fast_libraries
from rayserve.settings import EngineSettings

OPENMP = "libiomp5.so"


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation with Intel's OpenMP, on a system without tcmalloc; returns OpenMP's file."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / OPENMP).touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    return tmp_path / "lib" / OPENMP


def test_openmp_stands_before_the_engine_on_the_cpu(there: Path) -> None:
    environment = _environment(EngineSettings(cpu_threads=3, cpu_kv_cache_gib=2), False)
    assert environment["LD_PRELOAD"] == str(there)
    assert (environment["OMP_NUM_THREADS"], environment["VLLM_CPU_KVCACHE_SPACE"]) == ("3", "2")


def test_nothing_is_preloaded_where_it_is_not_wanted_or_not_there(there: Path) -> None:
    assert "LD_PRELOAD" not in _environment(EngineSettings(cpu_preload=False), False)
    assert "LD_PRELOAD" not in _environment(EngineSettings(), True)
    there.unlink()
    assert fast_libraries() == ()
    assert "LD_PRELOAD" not in _environment(EngineSettings(), False)


@pytest.mark.parametrize(
    ("system", "found"),
    [
        (("tcmalloc", "tcmalloc_minimal"), "libtcmalloc_minimal.so.4"),
        (("tcmalloc",), "libtcmalloc.so.4"),
    ],
)
def test_one_tcmalloc_comes_after_openmp(
    there: Path, monkeypatch: pytest.MonkeyPatch, system: tuple[str, ...], found: str
) -> None:
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: f"lib{name}.so.4" if name in system else None)
    assert _environment(EngineSettings(), False)["LD_PRELOAD"] == f"{there}:{found}"
    there.unlink()
    assert _environment(EngineSettings(), False)["LD_PRELOAD"] == found


def test_blocks_that_attention_on_the_cpu_does_not_have_are_refused_before_the_start() -> None:
    with pytest.raises(UserError, match=r"block_size=48 is no multiple of 32.*use 64"):
        build(EngineSettings(block_size=48), "model", on_gpu=False)
