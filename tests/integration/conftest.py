"""What the integration tests share: one local Ray, one small model folder, and a run with a drafter for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agentmill.runs import Run
from cluster.base import BaseSettings, missing_files, model_folder
from cluster.session import ray_session
from tests.drafted import SETTINGS
from tests.practice import practice_run
from tests.tiny_llama import write_tiny_llama


@pytest.fixture(scope="session")
def ray_local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A local Ray as `agentmill run` starts it, for the whole test session; only its own processes are stopped."""
    folder = tmp_path_factory.mktemp("ray")
    with ray_session(record=folder / "session.json"):
        yield


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped base model; a random Llama of a few thousand parameters where the base is not made yet."""
    shipped = model_folder(BaseSettings())
    if not missing_files(shipped):
        return shipped
    return write_tiny_llama(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def drafted_run(ray_local: None, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with models/base and a drafter for it, trained for some seconds."""
    from raytrain.drafter import stage

    run = practice_run(tmp_path_factory.mktemp("drafter") / "run", tiny_model_dir)
    stage.run(run, SETTINGS, start="base", seed=1)
    return run
