"""The engines that a run starts for its own models: `with engines({name: settings}) as urls`.

Each engine is a Serve application of its own, with its own autoscaling, behind one HTTP server on the loopback
interface; `bare_engines` starts them without one, to be asked as the agents' deployments ask theirs. Ray is initialised
already, and nothing else is served meanwhile. Invariants: inside the block every engine has answered a prompt; after
it, on the error path too, nothing of them is left running.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from agentmill.config import UserError
from agentmill.log import duration, say
from agentmill.models.chat import ChatReply, ChatRequest
from rayserve.drift import RANGES
from rayserve.preflight import checked_model, fitted, free_port, wants_gpu
from rayserve.serve import (
    POLL_S,
    await_answer,
    import_engine,
    serve_controller,
    start_bare,
    start_http,
    stop_serve,
    stopped_on_error,
    trouble,
)
from rayserve.settings import LOOPBACK, AgentSettings, ModelEngine

if TYPE_CHECKING:
    from ray.serve import Application
    from ray.serve.handle import DeploymentHandle

    from rayserve.answers import EngineCounts, RangeDrift

_START_TIMEOUT_S = 900.0  # weights of a large model may come from a slow disk


@contextmanager
def engines(wanted: Mapping[str, ModelEngine]) -> Iterator[dict[str, str]]:
    """Start the engines and give the base URL (ending in /v1) of each; they stop when the block ends.

    Raises:
        UserError: when a model folder is not whole, the hardware is missing, something is served already, or an
            engine does not start.
    """
    began = time.monotonic()
    prepared = _prepared(wanted)
    port = free_port(0)
    importing = threading.Thread(target=import_engine, daemon=True)
    importing.start()
    with stopped_on_error():
        start_http(port, timeout_s=max(settings.timeout_s for settings in wanted.values()))
        importing.join()
        urls = {name: f"http://{LOOPBACK}:{port}/{name}" for name in prepared}
        from rayserve.endpoint import engine_app

        _deploy({name: engine_app(name, one, model, on_gpu=on_gpu) for name, (one, model, on_gpu) in prepared.items()})
        for name, url in urls.items():
            await_answer(_app(name), url, began + _START_TIMEOUT_S)
        say("engine", f"{', '.join(urls)} up in {duration(time.monotonic() - began)}")
        yield {name: f"{url}/v1" for name, url in urls.items()}
    stop_serve()


class BareEngine:
    """One engine that answers through its Serve handle, from one event loop. A ChatModel."""

    def __init__(self, name: str, handle: "DeploymentHandle") -> None:
        from rayserve.remote import RemoteAgent

        self.name, self._handle = name, handle
        self._model = RemoteAgent("explainer", handle, AgentSettings(retries=0))

    async def complete(self, request: ChatRequest) -> ChatReply:
        """One model call. See ChatModel."""
        return await self._model.complete(request)

    async def counts(self) -> "EngineCounts":
        """What the engine has counted since it started.

        Raises:
            UserError: when it does not count.
        """
        counts: EngineCounts | None = await self._handle.counts.remote()
        if counts is None:
            raise UserError(
                f"the engine {self.name} does not count drafts and tokens: agentmill is not installed in its "
                "environment, so that vLLM does not find its logger; install it there (pip install -e .)"
            )
        return counts

    async def range_drift(self) -> "RangeDrift":
        """What the engine has sampled of its linear layers' inputs since it started (one replica, if there are more).

        Raises:
            UserError: when it does not sample.
        """
        drift: RangeDrift | None = await self._handle.range_drift.remote()
        if drift is None:
            raise UserError(
                f"the engine {self.name} samples no ranges: its sample_ranges is 0; start it with a share above, for "
                "example sample_ranges=0.01"
            )
        return drift

    async def forget(self) -> None:
        """Empty the prefix cache, so that prompts that were asked before count as new."""
        await self._handle.reset_prefix_cache.remote()


@contextmanager
def bare_engines(wanted: Mapping[str, ModelEngine]) -> Iterator[dict[str, BareEngine]]:
    """Start the engines without HTTP and give their handles; they stop when the block ends.

    Raises:
        UserError: as `engines`.
    """
    from ray import serve

    began = time.monotonic()
    prepared = _prepared(wanted)
    with stopped_on_error():
        start_bare()
        import_engine()
        from rayserve.engine import build

        _deploy({name: build(one, model, on_gpu=on_gpu) for name, (one, model, on_gpu) in prepared.items()})
        for name in prepared:
            _await_running(_app(name), began + _START_TIMEOUT_S)
        say("engine", f"{', '.join(prepared)} up in {duration(time.monotonic() - began)}")
        yield {name: BareEngine(name, serve.get_app_handle(_app(name))) for name in prepared}
    stop_serve()


def _await_running(app: str, deadline: float) -> None:
    """Poll until an application runs: its engine has then answered a prompt.

    Raises:
        UserError: when it failed, or the time is over.
    """
    from ray import serve

    while serve.status().applications[app].status != "RUNNING":
        wrong = trouble(app)
        if wrong or time.monotonic() > deadline:
            raise UserError(f"the engine {app} did not start: {wrong or f'not within {_START_TIMEOUT_S:g} s'}")
        time.sleep(POLL_S)


def _prepared(wanted: Mapping[str, ModelEngine]) -> dict[str, tuple[ModelEngine, str, bool]]:
    """The settings for this machine, the model as vLLM is told it, and whether it runs on a GPU, of each engine.

    Raises:
        UserError: when something is served already, or an engine cannot be as it is wanted.
    """
    if serve_controller() is not None:
        raise UserError("Ray Serve is already running in this Ray session; stop what it serves first")
    prepared = {name: _fitted(name, settings) for name, settings in wanted.items()}
    for name, (settings, model, on_gpu) in prepared.items():
        say("engine", f"starting {name}: {model} on vLLM ({'GPU' if on_gpu else 'CPU'}), {_size(settings)}")
    return prepared


def _fitted(name: str, settings: ModelEngine) -> tuple[ModelEngine, str, bool]:
    """The settings for this machine, the model as vLLM is told it, and whether it runs on a GPU."""
    on_gpu = wants_gpu(settings)
    if not Path(settings.model).exists():
        if settings.model.startswith((".", "/", "~")):
            raise UserError(f"engines.{name}.model={settings.model}: there is no such folder; name one, or a model")
        if settings.sample_ranges:
            raise UserError(
                f"engines.{name}.sample_ranges={settings.sample_ranges:g} reads {RANGES} of a model folder, and "
                f"{settings.model} is a name; name a folder, or set sample_ranges=0"
            )
        return settings, settings.model, on_gpu
    folder = checked_model(settings.model)
    fit = fitted(settings, folder)
    assert isinstance(fit, ModelEngine), "fitted() copies"
    return fit, str(folder), on_gpu


def _size(settings: ModelEngine) -> str:
    most = settings.max_replicas or settings.replicas
    count = f"{settings.replicas} to {most} replicas" if most > settings.replicas else f"{most} replica"
    return count if most == 1 or most > settings.replicas else f"{count}s"


def _app(name: str) -> str:
    return f"engine-{name}"


def _deploy(applications: Mapping[str, "Application"]) -> None:
    from ray import serve
    from ray.serve.schema import LoggingConfig

    targets = [
        serve.RunTarget(
            target=application,
            name=_app(name),
            route_prefix=f"/{name}",
            logging_config=LoggingConfig(log_level="INFO", enable_access_log=False),
        )
        for name, application in applications.items()
    ]
    serve.run_many(targets, wait_for_applications_running=False)
