"""The engines that a run starts for its own models: `with engines({name: settings}) as urls`.

Each engine is a Serve application of its own, with its own autoscaling, behind one HTTP server on the loopback
interface. Ray is initialised already, and nothing else is served meanwhile. Invariants: inside the block every engine
has answered a prompt; after it, on the error path too, nothing of them is left running.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from agentmill.config import UserError
from agentmill.log import duration, say
from rayserve.preflight import checked_model, fitted, free_port, wants_gpu
from rayserve.serve import await_answer, import_engine, serve_controller, start_http, stop_serve, stopped_on_error
from rayserve.settings import LOOPBACK, ModelEngine

_START_TIMEOUT_S = 900.0  # weights of a large model may come from a slow disk


@contextmanager
def engines(wanted: Mapping[str, ModelEngine]) -> Iterator[dict[str, str]]:
    """Start the engines and give the base URL (ending in /v1) of each; they stop when the block ends.

    Raises:
        UserError: when a model folder is not whole, the hardware is missing, something is served already, or an
            engine does not start.
    """
    began = time.monotonic()
    if serve_controller() is not None:
        raise UserError("Ray Serve is already running in this Ray session; stop what it serves first")
    prepared = {name: _fitted(name, settings) for name, settings in wanted.items()}
    port = free_port(0)
    for name, (settings, model, on_gpu) in prepared.items():
        say("engine", f"starting {name}: {model} on vLLM ({'GPU' if on_gpu else 'CPU'}), {_size(settings)}")
    importing = threading.Thread(target=import_engine, daemon=True)
    importing.start()
    with stopped_on_error():
        start_http(port, timeout_s=max(settings.timeout_s for settings in wanted.values()))
        importing.join()
        urls = {name: f"http://{LOOPBACK}:{port}/{name}" for name in prepared}
        _deploy(prepared)
        for name, url in urls.items():
            await_answer(_app(name), url, began + _START_TIMEOUT_S)
        say("engine", f"{', '.join(urls)} up in {duration(time.monotonic() - began)}")
        yield {name: f"{url}/v1" for name, url in urls.items()}
    stop_serve()


def _fitted(name: str, settings: ModelEngine) -> tuple[ModelEngine, str, bool]:
    """The settings for this machine, the model as vLLM is told it, and whether it runs on a GPU."""
    on_gpu = wants_gpu(settings)
    if not Path(settings.model).exists():
        if settings.model.startswith((".", "/", "~")):
            raise UserError(f"engines.{name}.model={settings.model}: there is no such folder; name one, or a model")
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


def _deploy(prepared: Mapping[str, tuple[ModelEngine, str, bool]]) -> None:
    from ray import serve
    from ray.serve.schema import LoggingConfig

    from rayserve.endpoint import engine_app

    targets = [
        serve.RunTarget(
            target=engine_app(name, settings, model, on_gpu=on_gpu),
            name=_app(name),
            route_prefix=f"/{name}",
            logging_config=LoggingConfig(log_level="INFO", enable_access_log=False),
        )
        for name, (settings, model, on_gpu) in prepared.items()
    ]
    serve.run_many(targets, wait_for_applications_running=False)
